"""Filters: rows of an index chosen by a condition such as `label = 'cat' and year > 2019`.

    condition   any of: comparison, column [not] in (value, ...), column [not] like 'IMG%',
                column is [not] null; joined by `not`, `and`, `or` (in that order of binding) and parentheses
    comparison  column = value or value = column; also == != <> < <= > >=
    column      a name such as year or exif.make, or any name at all in double quotes ("" is a quote in it)
    value       text in single quotes ('' is a quote in it), or a number: 2019, -0.5, 1e3

Keywords may be in any case, names and texts may not. Columns hold text. Against a text they are compared
code point by code point; against a number they are read as float64 (so whole numbers beyond 2**53 are
rounded), and what is no number, "nan" and "inf" included, counts as null. In a `like` pattern % stands for
any text and _ for any one character; there is no escape. Nulls follow SQL: what is said of a null is neither
true nor false, and only rows for which the whole condition is true match.
"""

import re
from collections.abc import Iterator
from functools import reduce
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.errors import FilterError

_MAX_LENGTH = 10_000
_MAX_DEPTH = 100

_KEYWORDS = {"or", "and", "not", "in", "like", "is", "null"}
_COMPARE = {
    "=": pc.equal,
    "==": pc.equal,
    "!=": pc.not_equal,
    "<>": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}
_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}

# Read by two engines, Python's and Arrow's (RE2).
_NUMBER = r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"
_TOKEN = re.compile(
    rf"""(?P<number>{_NUMBER})(?![\w.])
    | (?P<word>[A-Za-z_][A-Za-z0-9_.]*)(?!\w)
    | '(?P<text>(?:[^']|'')*+)'
    | "(?P<name>(?:[^"]|"")*+)"
    | (?P<symbol>==|!=|<>|<=|>=|[=<>(),])
    | (?P<space>\s+)
    | (?P<open>['"])
    | (?P<unknown>[\w.+-]+|.)""",
    re.VERBOSE,
)


class _Token(NamedTuple):
    kind: str  # number, text, name, end, or the keyword or symbol itself
    value: str | float
    start: int
    spelled: str


def matching(table: pa.Table, where: str) -> NDArray[np.bool_]:
    """Find the rows that match a condition; this module's docstring is its grammar.

    Args:
        table: Columns of text, nulls possible.
        where: The condition.

    Returns:
        (N,) True where a row matches.

    Raises:
        FilterError: The condition cannot be understood, or names a column that the table lacks.
    """
    tokens = list(_tokens(where))
    _Evaluation(tokens, table.slice(0, 0)).run()  # finds every mistake before a row is read
    return np.asarray(pc.fill_null(_Evaluation(tokens, table).run(), False).to_numpy(), np.bool_)


class _Evaluation:
    """One pass over the tokens, by recursive descent: each method returns the mask of what it has read."""

    def __init__(self, tokens: list[_Token], table: pa.Table) -> None:
        self._tokens = tokens
        self._next = 0
        self._table = table
        self._read_as_numbers: dict[str, pa.ChunkedArray] = {}

    def run(self) -> pa.ChunkedArray:
        mask = self._any(0)
        self._take("end", expected="and, or, or the end")
        return mask

    def _any(self, depth: int) -> pa.ChunkedArray:
        mask = self._all(depth)
        while self._found("or"):
            mask = pc.or_kleene(mask, self._all(depth))
        return mask

    def _all(self, depth: int) -> pa.ChunkedArray:
        mask = self._one(depth)
        while self._found("and"):
            mask = pc.and_kleene(mask, self._one(depth))
        return mask

    def _one(self, depth: int) -> pa.ChunkedArray:
        if depth > _MAX_DEPTH:
            raise _error(self._peek().start, f"nested more than {_MAX_DEPTH} deep: write it flatter")
        if self._found("not"):
            return pc.invert(self._one(depth + 1))
        if self._found("("):
            mask = self._any(depth + 1)
            self._take(")", expected="and, or, or )")
            return mask
        if value := self._found("number", "text"):
            symbol = self._take(*_COMPARE, expected="a comparison such as = or <").kind
            return self._compare(
                self._column(expected="a column"), _MIRRORED.get(symbol, symbol), value.value
            )
        return self._about(self._column(expected="a condition such as label = 'cat'"))

    def _about(self, name: str) -> pa.ChunkedArray:
        if symbol := self._found(*_COMPARE):
            return self._compare(name, symbol.kind, self._value())
        if self._found("is"):
            negated = self._found("not")
            self._take("null", expected="null" if negated else "null or not null")
            return (pc.is_valid if negated else pc.is_null)(self._table[name])
        if self._found("not"):
            return pc.invert(self._in_or_like(name, expected="in or like"))
        return self._in_or_like(name, expected="a comparison such as =, or in, like or is")

    def _in_or_like(self, name: str, *, expected: str) -> pa.ChunkedArray:
        if self._take("in", "like", expected=expected).kind == "like":
            pattern = str(self._take("text", expected="a pattern in single quotes").value)
            regex = "".join({"%": ".*", "_": "."}.get(c) or re.escape(c) for c in pattern)
            # Not pc.match_like: whether a backslash is an escape there hangs on where the % are.
            return pc.match_substring_regex(self._table[name], rf"(?s)\A{regex}\z")
        self._take("(", expected="( and a list of values")
        values = [self._value()]
        while self._take(",", ")", expected=", or )").kind == ",":
            values.append(self._value())
        alike = ([value for value in values if isinstance(value, kind)] for kind in (str, float))
        return reduce(pc.or_kleene, [self._in(name, some) for some in alike if some])

    def _in(self, name: str, values: list[str | float]) -> pa.ChunkedArray:
        column = self._comparable(name, values[0])
        found = pc.is_in(column, value_set=pa.array(values, column.type))
        return pc.if_else(pc.is_valid(column), found, pa.scalar(None, pa.bool_()))

    def _compare(self, name: str, symbol: str, value: str | float) -> pa.ChunkedArray:
        return _COMPARE[symbol](self._comparable(name, value), value)

    def _comparable(self, name: str, value: str | float) -> pa.ChunkedArray:
        if isinstance(value, str):
            return self._table[name]
        if name not in self._read_as_numbers:
            self._read_as_numbers[name] = _numbers(self._table[name])
        return self._read_as_numbers[name]

    def _column(self, *, expected: str) -> str:
        token = self._take("name", expected=expected)
        if token.value not in self._table.column_names:
            columns = ", ".join(self._table.column_names)
            raise _error(token.start, f"there is no column {token.value}: there are {columns}")
        return str(token.value)

    def _value(self) -> str | float:
        hint = " (write is null to find nulls)" if self._peek().kind == "null" else ""
        return self._take("number", "text", expected=f"a number or a text in single quotes{hint}").value

    def _peek(self) -> _Token:
        return self._tokens[self._next]

    def _found(self, *kinds: str) -> _Token | None:
        token = self._peek()
        if token.kind not in kinds:
            return None
        self._next += 1
        return token

    def _take(self, *kinds: str, expected: str) -> _Token:
        if token := self._found(*kinds):
            return token
        start, spelled = self._peek().start, self._peek().spelled
        raise _error(start, f"expected {expected}, found {spelled}")


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read text as float64; null where it is no number."""
    bare = pc.ascii_trim_whitespace(column)
    is_number = pc.match_substring_regex(bare, rf"\A{_NUMBER}\z")
    numbers = pc.cast(pc.if_else(is_number, bare, pa.scalar(None, pa.string())), pa.float64())
    return pc.add(numbers, 0.0)  # makes 0.0 of -0.0, which is_in would tell apart


def _tokens(where: str) -> Iterator[_Token]:
    """Split a condition into tokens, the last of which is the end."""
    if not where.strip():
        raise FilterError("the filter is empty: write a condition such as label = 'cat'")
    if len(where) > _MAX_LENGTH:
        raise FilterError(f"the filter has {len(where)} characters: write it in {_MAX_LENGTH} or fewer")
    if undecoded := re.search(r"[\ud800-\udfff]", where):
        raise _error(undecoded.start(), f"cannot read {undecoded[0]}: write the filter in UTF-8")
    for found in _TOKEN.finditer(where):
        start, spelled = found.start(), found[0]
        match found.lastgroup:
            case "number":
                yield _Token("number", float(spelled) + 0.0, start, spelled)
            case "text":
                yield _Token("text", found["text"].replace("''", "'"), start, spelled)
            case "name":
                yield _Token("name", found["name"].replace('""', '"'), start, spelled)
            case "word" if spelled.lower() not in _KEYWORDS:
                yield _Token("name", spelled, start, spelled)
            case "word" | "symbol":
                yield _Token(spelled.lower(), spelled, start, spelled)
            case "open":
                raise _error(
                    start, f"{spelled} is never closed: close it, or double a quote that means itself"
                )
            case "unknown":
                hint = "put texts in single quotes, unusual column names in double quotes"
                raise _error(start, f"cannot read {spelled}: {hint}")
    yield _Token("end", "", len(where), "the end")


def _error(start: int, message: str) -> FilterError:
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in message)
    return FilterError(f"filter, character {start + 1}: {line}")
