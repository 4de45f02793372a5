import re
import subprocess
import sys
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from indexes import FilterError
from indexes.filters.syntax import (
    And,
    Comparison,
    Condition,
    In,
    IsNull,
    Like,
    Not,
    Or,
    parse,
    require_columns,
)

A, B, C = (Comparison("label", "=", text) for text in "abc")

COLUMNS = st.one_of(
    st.sampled_from(("label", "exif.year", "_1", "in", "NOT", 'odd "name', "größe", "")),
    st.text(st.characters(codec="utf-8"), max_size=5),
)
VALUES = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=5),
    st.floats(allow_nan=False),
    st.sampled_from(("'", "''", "3", "and", "1e999")),
)
PARTS = st.sampled_from(("year", "month", "day", "hour"))
LEAVES: st.SearchStrategy[Condition] = st.one_of(
    st.builds(Comparison, COLUMNS, st.sampled_from(("=", "!=", "<", "<=", ">", ">=")), VALUES),
    st.builds(In, COLUMNS, st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(Comparison, COLUMNS, st.just("<="), st.floats(allow_nan=False), PARTS),
    st.builds(In, COLUMNS, st.lists(st.floats(allow_nan=False), min_size=1, max_size=3).map(tuple), PARTS),
    st.builds(Like, COLUMNS, st.text(st.characters(codec="utf-8"), max_size=5)),
    st.builds(IsNull, COLUMNS),
)


def several(conditions: st.SearchStrategy[Condition]) -> st.SearchStrategy[tuple[Condition, ...]]:
    return st.lists(conditions, min_size=2, max_size=4).map(tuple)


CONDITIONS: st.SearchStrategy[Condition] = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.builds(Not, inner), st.builds(And, several(inner)), st.builds(Or, several(inner))
    ),
    max_leaves=12,
)


def refusal(where: str) -> str:
    """Read a condition on one column; return the message of the FilterError, empty where there is none."""
    try:
        require_columns(parse(where), ["label"])
    except FilterError as error:
        return str(error)
    return ""


@given(CONDITIONS)
@example(Or((And((A, Or((B, C)))), Not(And((A, B))), And((And((A, B)), C)))))
@example(Not(Not(In("in", ("a", 3.0, float("-inf"))))))
def test_a_condition_printed_as_text_is_the_same_again(condition: Condition) -> None:
    assert parse(str(condition)) == condition


def test_the_deepest_condition_is_printed_too() -> None:
    where = "label = 'a'"
    for _ in range(100):
        where = f"label = 'b' or label = 'c' and ({where} or label = 'd')"
    assert str(parse(where)) == where
    nots = parse("not " * 100 + "label = 'a'")
    assert str(nots) == "not " * 100 + "label = 'a'"


@pytest.mark.parametrize(
    "where, condition",
    [
        ("label='a'", A),
        ("label == 'a'", A),
        ("'a' = label", A),
        ("label <> 3", Comparison("label", "!=", 3.0)),
        ("3 <= label", Comparison("label", ">=", 3.0)),
        ("3 > label", Comparison("label", "<", 3.0)),
        ("-0 <> label", Comparison("label", "!=", 0.0)),
        ('"a ""b""" < 1e999', Comparison('a "b"', "<", float("inf"))),
        ("label IN ('it''s', 3)", In("label", ("it's", 3.0))),
        ("label not in (.5)", Not(In("label", (0.5,)))),
        ("label Like '%_'", Like("label", "%_")),
        ("label not like ''", Not(Like("label", ""))),
        ("YEAR(label) > 2019", Comparison("label", ">", 2019.0, "year")),
        ('3 > month("label")', Comparison("label", "<", 3.0, "month")),
        ("day(label) not in (1, 2)", Not(In("label", (1.0, 2.0), "day"))),
        ("year = 2019", Comparison("year", "=", 2019.0)),
        ("label is null", IsNull("label")),
        ("label is not null", Not(IsNull("label"))),
        ("label='a' or label='b' and label='c'", Or((A, And((B, C))))),
        ("(label='a' or label='b') and label='c'", And((Or((A, B)), C))),
        ("label='a' and label='b' and label='c'", And((A, B, C))),
        ("label='a' and (label='b' and label='c')", And((A, And((B, C))))),
        ("not label='a' and label='b'", And((Not(A), B))),
        ("not (label='a' and label='b')", Not(And((A, B)))),
        ("((label='a'))", A),
    ],
)
def test_text_becomes_a_tree(where: str, condition: Condition) -> None:
    assert parse(where) == condition
    assert hash(parse(where)) == hash(condition)


def positions(condition: Condition) -> Sequence[int]:
    match condition:
        case And(conditions) | Or(conditions):
            return [position for each in conditions for position in positions(each)]
        case Not(inner):
            return positions(inner)
        case leaf:
            return [leaf.position]


def test_where_each_column_stands_is_kept_and_makes_no_difference() -> None:
    where = " label='a' or not 3 < year and label in (1) or label not like 'a' and not year is not null"
    found = positions(parse(where))
    words = [re.match("[a-z]+", where[i:])[0] for i in found]
    assert words == ["label", "year", "label", "label", "year"]
    assert parse(where) == parse(f"  {where}")
    assert positions(parse(f"  {where}")) == [i + 2 for i in found]


def test_columns_that_are_there_are_not_refused() -> None:
    where = "label = 'a' and not (label in (3) or year is null)"
    require_columns(parse(where), ("year", "label"))
    with pytest.raises(FilterError, match=r"character 38: there is no column year: there are label$"):
        require_columns(parse(where), ("label",))


def test_reading_a_condition_loads_neither_numpy_nor_pyarrow() -> None:
    code = (
        "import sys; from indexes.filters.syntax import parse; parse('a = 3'); "
        "print([m for m in ('numpy', 'pyarrow', 'faiss', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@given(st.text(st.characters(codec="utf-8"), max_size=40))
@example("label = 'a' or (label in ('b', 3) and not label like '%'")
def test_any_text_is_a_condition_or_a_filter_error_of_one_printable_line(where: str) -> None:
    assert refusal(where).isprintable()


WORDS = ("label", "'a'", "3", "=", "<", "(", ")", ",", "and", "or", "not", "in", "like", "is", "null")


@given(st.lists(st.sampled_from(WORDS), max_size=8))
def test_any_tokens_are_a_condition_or_a_filter_error(tokens: list[str]) -> None:
    assert refusal(" ".join(tokens)).isprintable()


@pytest.mark.parametrize(
    "where, message",
    [
        ("", "the filter is empty: write a condition"),
        (" \n", "the filter is empty: write a condition"),
        ("lable = 'a'", "character 1: there is no column lable: there are label, year"),
        ("label = 'a' or \"a b\" = 1", "character 16: there is no column a b: there are label, year"),
        ("'a' = lable", "character 7: there is no column lable"),
        ("__import__('os')", "character 1: there is no __import__(): there are year, month, day, hour"),
        ("lable = 'a' and (", "character 18: expected a condition such as label = 'cat', found the end"),
        ("not (label = 'a' or lable is null)", "character 21: there is no column lable"),
        ("label = 'a' and lable in (3)", "character 17: there is no column lable"),
        ("label = 'a' or not lable like 'b'", "character 20: there is no column lable"),
        ("label", "character 6: expected a comparison such as =, or in, like or is, found the end"),
        ("label 'a'", "character 7: expected a comparison such as =, or in, like or is, found 'a'"),
        ("label = 1 or label('os')", "character 14: there is no label(): there are year, month, day, hour"),
        ("year('2019') = 3", "character 6: expected a column of dates, found '2019'"),
        ("year(label = 3", "character 12: expected ), found ="),
        ("year(label)", "character 12: expected a comparison such as =, or in, found the end"),
        ("year(label) not like '2019'", "character 17: expected in, found like"),
        ("year(label) = '2019'", "character 15: year() is a number: write one, without quotes"),
        ("'2019' < year(label)", "character 1: year() is a number"),
        ("year(lable) > 2019", "character 6: there is no column lable"),
        ('"year"(label) = 3', "character 7: expected a comparison such as =, or in, like or is, found ("),
        ("label =", "character 8: expected a number or a text in single quotes, found the end"),
        ('label = "cat"', 'character 9: expected a number or a text in single quotes, found "cat"'),
        ("label = year", "character 9: expected a number or a text in single quotes, found year"),
        ("label = NULL", "in single quotes (write is null to find nulls), found NULL"),
        ("label in ('a', null)", "in single quotes (write is null to find nulls), found null"),
        ("1 = 1", "character 5: expected a column, found 1"),
        ("'a' in ('a')", "character 5: expected a comparison such as = or <, found in"),
        ("1 < year < 3", "character 10: expected and, or, or the end, found <"),
        ("label = 'x'; drop", "character 12: cannot read ;: put texts in single quotes"),
        ("label = 'x' -- drop", "character 13: cannot read --: put"),
        ("label = 'x' drop", "character 13: expected and, or, or the end, found drop"),
        ("label = 'x')", "character 12: expected and, or, or the end, found )"),
        ("(label = 'x'", "character 13: expected and, or, or ), found the end"),
        ("label = 'x' and", "character 16: expected a condition such as label = 'cat', found the end"),
        (
            "label = 'x' or or label = 'y'",
            "character 16: expected a condition such as label = 'cat', found or",
        ),
        ("()", "character 2: expected a condition"),
        ("not", "character 4: expected a condition"),
        ("and = 'x'", "character 1: expected a condition such as label = 'cat', found and"),
        ("label in 'a'", "character 10: expected ( and a list of values, found 'a'"),
        ("label in ()", "character 11: expected a number or a text in single quotes, found )"),
        ("label in ('a' 'b')", "character 15: expected , or ), found 'b'"),
        ("label in ('a',", "character 15: expected a number or a text in single quotes, found the end"),
        ("label not = 'a'", "character 11: expected in or like, found ="),
        ("label like 3", "character 12: expected a pattern in single quotes, found 3"),
        ("label is 'a'", "character 10: expected null or not null, found 'a'"),
        ("label is not 'a'", "character 14: expected null, found 'a'"),
        ("label = 'cat", "character 9: ' is never closed"),
        ("label = 'it''s or year = 3", "character 9: ' is never closed"),
        ('"label = 3', 'character 1: " is never closed'),
        ("year = 5abc", "character 8: cannot read 5abc"),
        ("year = 1.2.3", "character 8: cannot read 1.2.3"),
        ("year = 1e", "character 8: cannot read 1e"),
        ("year = - 5", "character 8: cannot read -"),
        (
            "größe = 5",
            "character 1: cannot read größe: put texts in single quotes, unusual column names in double",
        ),
        ("label = \udcff", "character 9: cannot read \\udcff: write the filter in UTF-8"),
        ('"\x1b[31m\n" = 1', "character 1: there is no column \\x1b[31m\\n: there are label, year"),
    ],
)
def test_error_says_where_what_was_found_and_what_to_write(where: str, message: str) -> None:
    with pytest.raises(FilterError, match=re.escape(message)) as caught:
        require_columns(parse(where), ("label", "year"))
    assert str(caught.value).isprintable()


def innermost(condition: Condition) -> Condition:
    while isinstance(condition, Not):
        condition = condition.condition
    return condition


@pytest.mark.parametrize("opening, closing", [("(", ")"), ("not ", ""), ("not (", ")")])
def test_nesting_is_bounded(opening: str, closing: str) -> None:
    words = 1 + opening.count("not (")  # how many levels one opening is

    def nested(levels: int) -> str:
        return opening * (levels // words) + "label = 'a'" + closing * (levels // words)

    assert Comparison("label", "=", "a") == innermost(parse(nested(100)))
    with pytest.raises(FilterError, match="nested more than 100 deep: write it flatter"):
        parse(nested(102))
    with pytest.raises(FilterError, match="nested more than 100 deep"):
        parse(opening * 1500)
    with pytest.raises(FilterError, match=r"has [0-9]+ characters: write it in 10000 or fewer"):
        parse(opening * 100_000)


def test_length_is_bounded_and_flat_conditions_fill_it() -> None:
    where = " or ".join(["label='a'"] * 769)
    assert parse(where + " " * (10_000 - len(where))) == Or((Comparison("label", "=", "a"),) * 769)
    with pytest.raises(FilterError, match="the filter has 10001 characters: write it in 10000 or fewer"):
        parse(where + " " * (10_001 - len(where)))
