from collections.abc import Callable, Set
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from indexes import FilterError
from indexes.filters.arrow import matching as matching_rows
from indexes.filters.syntax import parse

Tree = tuple[Any, ...]
Row = dict[str, str | None]

COLUMNS = ("key", "exif.year", 'odd "name', "größe", "in")
TEXTS = st.text("ab%_'\"\\.é\uffff😀\n\0 ", max_size=3)
NUMERIC_TEXTS = (
    "0",
    "-0",
    "+1",
    "01",
    " 1.0\t",
    "\f\v\r\n1",
    "1e0",
    ".5",
    "5.",
    "1e400",
    "-1E+400",
    "1e-400",
)
ODD_TEXTS = (
    "nan",
    "inf",
    "-Infinity",
    "1_0",
    "0x1",
    "٢",
    "1 1",
    "1e",
    ".",
    "+",
    "",
    "\u00a01",
    "--1",
    "1\n1",
    "1+",
)
BIG_TEXTS = ("9007199254740992", "9007199254740993")
NUMBERS = st.sampled_from(
    ("0", "-0.0", "1", "+1.", "-1", "10E-1", ".5", "1e400", "-1e400", "9007199254740992")
)
LITERALS = st.one_of(TEXTS, st.sampled_from(NUMERIC_TEXTS), NUMBERS.map(float))
CELLS = st.one_of(st.none(), TEXTS, st.sampled_from(NUMERIC_TEXTS + ODD_TEXTS + BIG_TEXTS))

COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: a == b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<>": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}

ORDER = ("<", "<=", ">", ">=")

LEAVES = st.one_of(
    st.tuples(st.just("compare"), st.sampled_from(COLUMNS), st.sampled_from(sorted(COMPARE)), LITERALS),
    st.tuples(st.just("mirrored"), LITERALS, st.sampled_from(sorted(COMPARE)), st.sampled_from(COLUMNS)),
    st.tuples(
        st.just("in"), st.sampled_from(COLUMNS), st.lists(LITERALS, min_size=1, max_size=3), st.booleans()
    ),
    st.tuples(st.just("like"), st.sampled_from(COLUMNS), TEXTS, st.booleans()),
    st.tuples(st.just("null"), st.sampled_from(COLUMNS), st.booleans()),
)
TREES = st.recursive(
    LEAVES,
    lambda trees: st.one_of(
        st.tuples(st.just("not"), trees), st.tuples(st.sampled_from(("and", "or")), trees, trees)
    ),
    max_leaves=6,
)


def matching(table: pa.Table, where: str) -> np.ndarray:
    return matching_rows(table, parse(where))


def table_of(*rows: str | None, column: str = "label") -> pa.Table:
    return pa.table({column: pa.array(rows, pa.string())})


def matches(where: str, *cells: str | None) -> list[str | None]:
    """Filter a table whose one column is `label`; return the cells that match."""
    return [cell for cell, match in zip(cells, matching(table_of(*cells), where), strict=True) if match]


# The oracle: the truth of a tree for one row, None where SQL says null.


def truth(tree: Tree, row: Row, numeric: Set[str] = frozenset()) -> bool | None:
    match tree:
        case "or", left, right:
            sides = {truth(left, row, numeric), truth(right, row, numeric)}
            return True if True in sides else None if None in sides else False
        case "and", left, right:
            return negation(truth(("or", ("not", left), ("not", right)), row, numeric))
        case "not", inner:
            return negation(truth(inner, row, numeric))
        case "compare", column, symbol, literal:
            cell, literal = alike(row[column], literal, column in numeric and symbol in ORDER)
            return None if cell is None else COMPARE[symbol](cell, literal)
        case "mirrored", literal, symbol, column:
            cell, literal = alike(row[column], literal, column in numeric and symbol in ORDER)
            return None if cell is None else COMPARE[symbol](literal, cell)
        case "in", column, literals, negated:
            either: Tree = ("compare", column, "=", literals[0])
            for literal in literals[1:]:
                either = ("or", either, ("compare", column, "=", literal))
            return truth(("not", either) if negated else either, row, numeric)
        case "like", column, pattern, negated:
            cell = row[column]
            return None if cell is None else like(cell, pattern) != negated
        case "null", column, negated:
            return (row[column] is None) != negated
    raise AssertionError(tree)


def alike(cell: str | None, literal: str | float, ordered_numbers: bool) -> tuple[Any, Any]:
    """A cell and what it is compared with, both as numbers or both as texts."""
    if isinstance(literal, str) and ordered_numbers and literal == literal.strip():
        quoted = number(literal)
        literal = literal if quoted is None else quoted
    return (cell if isinstance(literal, str) else number(cell)), literal


def numeric_in(rows: list[Row]) -> set[str]:
    """The columns of nothing but numbers."""
    filled = {column: [row[column] for row in rows if row[column] is not None] for column in COLUMNS}
    return {column for column, cells in filled.items() if cells and None not in map(number, cells)}


def negation(value: bool | None) -> bool | None:
    return None if value is None else not value


def number(text: str | None) -> float | None:
    bare = "nothing" if text is None else text.strip(" \t\n\v\f\r")
    try:
        return float(bare) if set(bare) <= set("0123456789+-.eE") else None
    except ValueError:
        return None


def like(text: str, pattern: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(like(text[start:], pattern[1:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in ("_", text[0]) and like(text[1:], pattern[1:])


def written(tree: Tree, case: Callable[[str], str], *, inside: str = "or") -> str:
    """Spell a tree with no more parentheses than it needs, under an operator that binds as `inside` does."""
    loosest_first = ("or", "and", "not")
    match tree:
        case "or" | "and" as word, left, right:
            # The right side of a chain needs none either: both operators are associative, nulls or not.
            text = f"{written(left, case, inside=word)} {case(word)} {written(right, case, inside=word)}"
            return f"({text})" if loosest_first.index(word) < loosest_first.index(inside) else text
        case "not", inner:
            return f"{case('not')} {written(inner, case, inside='not')}"
        case "compare", column, symbol, literal:
            return f"{name(column)} {symbol} {value(literal)}"
        case "mirrored", literal, symbol, column:
            return f"{value(literal)}{symbol}{name(column)}"
        case "in", column, literals, negated:
            listed = ", ".join(map(value, literals))
            return f"{name(column)} {case('not in' if negated else 'in')} ({listed})"
        case "like", column, pattern, negated:
            return f"{name(column)} {case('not like' if negated else 'like')} {value(pattern)}"
        case "null", column, negated:
            return f"{name(column)} {case('is not null' if negated else 'is null')}"
    raise AssertionError(tree)


def name(column: str) -> str:
    return column if column in ("key", "exif.year") else '"' + column.replace('"', '""') + '"'


def value(literal: str | float) -> str:
    if isinstance(literal, str):
        return "'" + literal.replace("'", "''") + "'"
    return repr(literal).replace("inf", "1e999")


@st.composite
def tables(draw: st.DrawFn) -> tuple[pa.Table, list[Row]]:
    """Draw rows, and the table of them in chunks that differ from column to column."""
    rows = draw(st.lists(st.fixed_dictionaries(dict.fromkeys(COLUMNS, CELLS)), max_size=6))
    columns = {}
    for column in COLUMNS:
        cells = [row[column] for row in rows]
        cut = draw(st.integers(0, len(rows)))
        columns[column] = pa.chunked_array([cells[:cut], cells[cut:]], pa.string())
    return pa.table(columns), rows


@given(TREES, tables(), st.sampled_from((str.lower, str.upper, str.title)))
def test_random_conditions_match_the_rows_that_the_oracle_says(
    tree: Tree, drawn: tuple[pa.Table, list[Row]], case: Callable[[str], str]
) -> None:
    table, rows = drawn
    mask = matching(table, written(tree, case))
    assert mask.dtype == np.bool_
    assert mask.tolist() == [truth(tree, row, numeric_in(rows)) is True for row in rows]


@given(CELLS, LITERALS, st.sampled_from(sorted(COMPARE)))
def test_every_comparison_of_a_cell_with_a_literal(
    cell: str | None, literal: str | float, symbol: str
) -> None:
    tree, row = ("compare", "key", symbol, literal), dict.fromkeys(COLUMNS, cell)
    assert matching(table_of(cell, column="key"), written(tree, str)).tolist() == [
        truth(tree, row, numeric_in([row])) is True
    ]


@given(st.text("ab\\.[(*\n\t\0é😀", max_size=4), st.text("ab%_\\.[(*\n\t\0é", max_size=4))
@example("x\\y", "%\\y%")
@example("a\n", "a")
@example("a\nb", "a_b")
@example("a\nb", "%b")
def test_like(text: str, pattern: str) -> None:
    assert bool(matches(f"label like {value(pattern)}", text)) == like(text, pattern)


@pytest.mark.parametrize(
    "where, expected",
    [
        ("label = 'a' or label = 'b' and label = 'c'", ["a"]),
        ("(label = 'a' or label = 'b') and label = 'c'", []),
        ("label = 'b' and label = 'c' or label = 'a'", ["a"]),
        ("not label = 'a' and label = 'b'", ["b"]),
        ("not (label = 'a' and label = 'b')", ["a", "b", "c"]),
        ("not label = 'a' or label = 'a'", ["a", "b", "c"]),
        ("not not label = 'a'", ["a"]),
        ("not label in ('a', 'b') or label is null", ["c", None]),
    ],
)
def test_not_binds_before_and_before_or(where: str, expected: list[str | None]) -> None:
    assert matches(where, "a", "b", "c", None) == expected


@pytest.mark.parametrize(
    "where", ["label>'a'AND'c'>label", "\n\tlabel\u00a0= 'b' ", "LABEL_ = 3 or label IN('b')"]
)
def test_spaces_are_free_and_keywords_in_any_case(where: str) -> None:
    table = table_of("a", "b", "c").append_column("LABEL_", pa.array([None] * 3, pa.string()))
    assert matching(table, where).tolist() == [False, True, False]


def test_names_and_texts_are_told_apart_by_case() -> None:
    assert matches("label = 'A' or label like 'A%'", "a", "A", "aA") == ["A"]
    with pytest.raises(FilterError, match="no column Label"):
        matches("Label = 'a'", "a")


@pytest.mark.parametrize(
    "column, spelled",
    [
        ("camera model", '"camera model"'),
        ('15" screen', '"15"" screen"'),
        ("and", '"and"'),
        ("größe", '"größe"'),
        ("", '""'),
        ("exif.year", "exif.year"),
        ("_1", "_1"),
        ("in_", "in_"),
        ("nothing", "nothing"),
    ],
)
def test_columns_of_any_name(column: str, spelled: str) -> None:
    table = table_of("a", None, column=column)
    assert matching(table, f"{spelled} = 'a'").tolist() == [True, False]
    assert matching(table, f"'b'>{spelled}").tolist() == [True, False]
    assert matching(table, f"{spelled} is null").tolist() == [False, True]


@pytest.mark.parametrize(
    "text", ["", "'", "it's", "''", '"', "\\'", "a\nb", "label = 'x'; drop", "\0", "日本", "and"]
)
def test_texts_of_any_characters(text: str) -> None:
    others = [text + "'", text + " ", "x" + text]
    assert matches(f"label = {value(text)}", *others, text) == [text]
    assert matches(f"label in ({value(text)})", *others, text) == [text]


def test_number_compares_numbers_and_text_compares_texts() -> None:
    cells = ("9", "10", "010", " 1e1\n", "+10.0", "ten", "1O", "10 000", "", None)
    assert matches("label = 10", *cells) == ["10", "010", " 1e1\n", "+10.0"]
    assert matches("label = '10'", *cells) == ["10"]
    assert matches("label < 10", *cells) == ["9"]
    assert matches("label < '9'", *cells) == ["10", "010", " 1e1\n", "+10.0", "1O", "10 000", ""]


@pytest.mark.parametrize("symbol", sorted(COMPARE))
@pytest.mark.parametrize("literal", ["2", "'2'"])
def test_value_may_stand_on_either_side(symbol: str, literal: str) -> None:
    cells = ("1", "2", "3")
    assert matches(f"label{symbol}{literal}", *cells) == [
        cell for cell in cells if COMPARE[symbol](cell, "2")
    ]
    assert matches(f"{literal}{symbol}label", *cells) == [
        cell for cell in cells if COMPARE[symbol]("2", cell)
    ]


@pytest.mark.parametrize("spelled", ["10", "+10", "10.", "010", "1e1", "0.1E+2", ".1e2", "1000e-2"])
def test_spellings_of_a_number(spelled: str) -> None:
    assert matches(f"label={spelled} and {spelled}=label", "10", "1", "-10") == ["10"]
    assert matches(f"label in(-{spelled.lstrip('+')},3)", "10", "1", "-10") == ["-10"]


def test_text_is_ordered_by_code_point() -> None:
    assert matches("label > '\uffff'", "\ufffe", "\uffff", "😀") == ["😀"]  # in UTF-16 the face comes first


@pytest.mark.parametrize(
    "text", ["nan", "NaN", "inf", "-inf", "Infinity", "0x10", "1_000", "1,5", "٣", "1e", "- 1", "\u00a01"]
)
def test_what_is_no_number_is_null_to_a_number(text: str) -> None:
    assert matches("label < 1e999 or label >= 1e999 or label != 0", text) == []
    assert matches("not label = 3", text, "4") == ["4"]
    assert matches("label is not null", text) == [text]


def test_numbers_past_float64_and_signed_zeros() -> None:
    assert matches("label > 1e308", "1e400", "9" * 400, "1e308") == ["1e400", "9" * 400]
    assert matches("label in (0)", "-0", "0", "1e-999") == ["-0", "0", "1e-999"]
    assert matches("label in (-0.0)", "-0", "0") == ["-0", "0"]
    assert matches("label = 9007199254740993", "9007199254740992", "9007199254740994") == ["9007199254740992"]


def test_each_value_of_a_list_goes_by_its_own_rule() -> None:
    cells = ("3", "3.0", "4", "four", "five", None)
    assert matches("label in ('four', 3)", *cells) == ["3", "3.0", "four"]
    assert matches("label in ('3')", *cells) == ["3"]
    assert matches("label not in ('four', 'five')", *cells) == ["3", "3.0", "4"]
    assert matches("label not in ('four', 3)", *cells) == ["4"]  # whether five is 3 is not known


def test_null_is_neither_true_nor_false() -> None:
    for where in ("label = 'a'", "label != 'a'", "label < 3", "label like '%'", "label in ('a')"):
        assert matches(where, None) == matches(f"not {where}", None) == []
    assert matches("label not in ('a')", None) == matches("label not like 'a'", None) == []
    assert matches("label is null or label = 'a'", None, "a") == [None, "a"]
    assert matches("not (label is not null and label = 'b')", None, "a", "b") == [None, "a"]


@pytest.mark.parametrize(
    "pattern, expected",
    [
        ("IMG_%", ["IMG_1.jpg", "IMGx"]),
        ("img%", ["img_1.jpg"]),
        ("%.jpg", ["IMG_1.jpg", "img_1.jpg", "日.jpg"]),
        ("_.jpg", ["日.jpg"]),
        ("IMG", []),
        ("C:\\%", ["C:\\_", "C:\\a"]),
        ("%\\_%", ["C:\\_", "C:\\a"]),
    ],
)
def test_like_knows_only_percent_and_underscore(pattern: str, expected: list[str]) -> None:
    cells = ("IMG_1.jpg", "img_1.jpg", "IMGx", "日.jpg", "C:\\_", "C:\\a")
    assert matches(f"label like '{pattern}'", *cells) == expected
    assert matches(f"label not like '{pattern}'", *cells) == [cell for cell in cells if cell not in expected]


@pytest.mark.parametrize(
    "where", ["label = 'a'", "label < 3", "label in ('a', 3)", "label like 'a'", "label is null"]
)
@pytest.mark.parametrize("column", [pa.chunked_array([], pa.string()), pa.array([], pa.string())])
def test_empty_table_gives_an_empty_mask(column: Any, where: str) -> None:
    mask = matching(pa.table({"label": column}), where)
    assert mask.shape == (0,)
    assert mask.dtype == np.bool_


def test_columns_in_different_chunks() -> None:
    table = pa.table(
        {
            "label": pa.chunked_array([["a"], [], ["b", None, "a"]], pa.string()),
            "year": pa.chunked_array([["1", "x", "3"], ["4"]], pa.string()),
        }
    )
    assert matching(table, "label = 'a' and year > 1").tolist() == [False, False, False, True]
    assert matching(table.slice(2), "label is null or year in (4)").tolist() == [True, True]


@pytest.mark.parametrize("pattern", ["_", "%", "日", "%_", "a%", ".", "\\"])
def test_patterns_as_long_as_the_bound_allows(pattern: str) -> None:
    assert matches(f"label like '%{pattern * (9_980 // len(pattern))}'", "b") == (
        ["b"] if pattern == "%" else []
    )


def test_a_column_that_is_not_there_is_refused_before_a_row_is_read() -> None:
    table = pa.table({"label": ["a"], "year": ["3"]})
    with pytest.raises(FilterError, match="character 27: there is no column lable: there are label, year"):
        matching(table, "label = 'a' or not ('b' < lable and year is null)")


@pytest.mark.parametrize("opening, closing", [("(", ")"), ("not ", ""), ("not (", ")")])
def test_the_deepest_nesting_is_evaluated(opening: str, closing: str) -> None:
    levels = 100 // (1 + opening.count("not ("))
    assert matches(opening * levels + "label = 'a'" + closing * levels, "a", "b") == ["a"]


def test_the_deepest_mixture_is_evaluated() -> None:
    where = "label='a'"
    for _ in range(100):
        where = f"label='b' or label='a' and ({where})"
    assert matches(where, "a", "b", "c") == ["a", "b"]


def test_the_longest_condition_is_evaluated() -> None:
    where = " or ".join(["label='a'"] * 769)
    assert matches(where + " " * (10_000 - len(where)), "a", "b") == ["a"]


# --- dates ---

DATES = (
    "2019-07-14T12:33:00",
    "2019-07-14T09:00:00",
    "2019-12-31",
    "2020-01-01 00:00",
    "2021-02-03T23:59:59Z",
    None,
)


@pytest.mark.parametrize(
    "where, expected",
    [
        ("label > '2019'", DATES[3:5]),
        ("label >= '2019-12'", DATES[2:5]),
        ("label <= '2019-07-14'", DATES[:2]),
        ("label < '2019-07-14 12'", DATES[1:2]),
        ("label = '2019-07'", DATES[:2]),
        ("label != '2019-07'", DATES[2:5]),
        ("'2020' > label", DATES[:3]),
        ("label in ('2019-12-31', '2020-01')", DATES[2:4]),
        ("label not in ('2019', '2020-01-01T00:00')", DATES[4:5]),
        ("label like '2019%' or label is null", (*DATES[:3], None)),
        ("year(label) > 2019", DATES[3:5]),
        ("2019 >= YEAR(label)", DATES[:3]),
        ("month(label) in (1, 2)", DATES[3:5]),
        ("month(label) not in (1, 2)", DATES[:3]),
        ("day(label) = 14 and hour(label) = 9", DATES[1:2]),
        ("not hour(label) < 23", DATES[4:5]),
    ],
)
def test_dates_are_compared_as_far_as_they_are_written(where: str, expected: tuple[str | None, ...]) -> None:
    assert tuple(matches(where, *DATES)) == expected


def test_a_column_that_holds_other_things_too_is_text() -> None:
    assert matches("label > '2019'", "2019-07-14", "yesterday") == ["2019-07-14", "yesterday"]
    assert matches("year(label) = 2019", "2019-07-14", "yesterday", None) == ["2019-07-14"]
    assert matches("label > 3", None, None) == []


@pytest.mark.parametrize(
    "where", ["label > 2019", "label = 'July'", "label in ('2019', 3)", "label < '14.7.2019'"]
)
def test_dates_are_compared_with_dates(where: str) -> None:
    with pytest.raises(FilterError, match=r"character 1: label holds dates: write year\(label\) or a date"):
        matches(where, *DATES)


def test_numbers_in_quotes_are_put_in_order_as_numbers() -> None:
    assert matches("label > '900'", "1000", "899", None) == ["1000"]
    assert matches("label > '900'", "1000", "many") == ["many"]
    assert matches("label = '01'", "1", "01") == ["01"]
