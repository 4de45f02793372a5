"""Filters: rows of an index chosen by a condition such as `label = 'cat' and year > 2019`.

    condition   any of: comparison, column [not] in (value, ...), column [not] like 'IMG%',
                column is [not] null; joined by `not`, `and`, `or` (in that order of binding) and parentheses
    comparison  column = value or value = column; also == != <> < <= > >=
    column      a name such as width or exif.make, or any name at all in double quotes ("" is a quote in it);
                where a value is compared or looked up, also year(name), month(name), day(name), hour(name)
    value       text in single quotes ('' is a quote in it), or a number: 2019, -0.5, 1e3

Keywords may be in any case, names and texts may not. Columns hold text, and are compared as what they hold:

- Against a number, cells are read as float64 (so whole numbers beyond 2**53 are rounded), and what is no
  number, "nan" and "inf" included, counts as null. So they are where a column holds nothing but numbers, and
  which is greater than a number in quotes is asked.
- A column of nothing but dates, as 2019-07-14 or 2019-07-14T12:33:00, is compared with texts such as
  '2019-07' as far as these go: `date = '2019-07'` is all of July, `date > '2019'` is 2020 and later.
- Else texts are compared code point by code point.

What year() and the like give is a number, null where a cell is no date. In a `like` pattern % stands for any
text and _ for any one character; there is no escape. Nulls follow SQL: what is said of a null is neither true
nor false, and only rows for which the whole condition is true match.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, TypeAlias, cast

from indexes.filters.tokens import KEYWORDS, Token, error_at, tokens_of

_MAX_DEPTH = 100
_WORD = re.compile("[A-Za-z_][A-Za-z0-9_.]*")

Operator: TypeAlias = Literal["=", "!=", "<", "<=", ">", ">="]
_OPERATORS: dict[str, Operator] = {
    "=": "=",
    "==": "=",
    "!=": "!=",
    "<>": "!=",
    "<": "<",
    "<=": "<=",
    ">": ">",
    ">=": ">=",
}
DATE_PARTS = {"year": (0, 4), "month": (5, 7), "day": (8, 10), "hour": (11, 13)}
"""Where in a date each of its numbers stands."""
_MIRRORED: dict[Operator, Operator] = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


class _Printable:
    def __str__(self) -> str:
        return _text(cast("Condition", self))


@dataclass(frozen=True)
class Comparison(_Printable):
    """``column < value``. Where the value stands in front, the operator is turned round.

    Attributes:
        column: Whose cells are compared.
        operator: Which comparison.
        value: With what: a text, or a number, for which cells are read as float64.
        part: Of a date, one of `DATE_PARTS`, which is compared in place of the cell.
        position: Of the column in the text that was parsed, from 0; two conditions are the same without.
    """

    column: str
    operator: Operator
    value: str | float
    part: str | None = None
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class In(_Printable):
    """``column in (value, ...)``: the same as ``column = value or ...``.

    Attributes:
        column: Whose cells are looked up.
        values: At least one, each a text or a number.
        part: See `Comparison`.
        position: See `Comparison`.
    """

    column: str
    values: tuple[str | float, ...]
    part: str | None = None
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Like(_Printable):
    """``column like 'IMG%'``.

    Attributes:
        column: Whose cells are matched, from end to end.
        pattern: In which % is any text and _ any one character.
        position: See `Comparison`.
    """

    column: str
    pattern: str
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class IsNull(_Printable):
    """``column is null``, which is never null itself.

    Attributes:
        column: Whose cells are asked.
        position: See `Comparison`.
    """

    column: str
    position: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Not(_Printable):
    """``not condition``: null where the condition is."""

    condition: "Condition"


@dataclass(frozen=True)
class And(_Printable):
    """``condition and condition ...``: false where one is, else null where one is."""

    conditions: tuple["Condition", ...]


@dataclass(frozen=True)
class Or(_Printable):
    """``condition or condition ...``: true where one is, else null where one is."""

    conditions: tuple["Condition", ...]


Condition: TypeAlias = Comparison | In | Like | IsNull | Not | And | Or
"""A condition on one row. Its nesting is bounded by `parse`: what evaluates it may recurse."""


def parse(where: str) -> Condition:
    """Read a condition; this module's docstring is its grammar.

    Raises:
        FilterError: It cannot be understood.
    """
    return _Parser(list(tokens_of(where))).condition()


def require_columns(condition: Condition, columns: Sequence[str]) -> None:
    """Check that what a condition is about is there.

    Raises:
        FilterError: It names another column; the message says where in the text that was parsed.
    """
    match condition:
        case And(conditions) | Or(conditions):
            for each in conditions:
                require_columns(each, columns)
        case Not(inner):
            require_columns(inner, columns)
        case _ if condition.column not in columns:
            known = ", ".join(columns)
            raise error_at(condition.position, f"there is no column {condition.column}: there are {known}")


class _Parser:
    """One pass over the tokens, by recursive descent."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._next = 0

    def condition(self) -> Condition:
        condition = self._any(0)
        self._take("end", expected="and, or, or the end")
        return condition

    def _any(self, depth: int) -> Condition:
        found = [self._all(depth)]
        while self._found("or"):
            found.append(self._all(depth))
        return Or(tuple(found)) if len(found) > 1 else found[0]

    def _all(self, depth: int) -> Condition:
        found = [self._one(depth)]
        while self._found("and"):
            found.append(self._one(depth))
        return And(tuple(found)) if len(found) > 1 else found[0]

    def _one(self, depth: int) -> Condition:
        if depth > _MAX_DEPTH:
            raise error_at(self._peek().start, f"nested more than {_MAX_DEPTH} deep: write it flatter")
        if self._found("not"):
            return Not(self._one(depth + 1))
        if self._found("("):
            condition = self._any(depth + 1)
            self._take(")", expected="and, or, or )")
            return condition
        if value := self._found("number", "text"):
            operator = _OPERATORS[self._take(*_OPERATORS, expected="a comparison such as = or <").kind]
            column = self._take("name", expected="a column")
            column, part = self._column(column)
            mirrored, compared = _MIRRORED.get(operator, operator), self._compared(part, value)
            return Comparison(str(column.value), mirrored, compared, part, position=column.start)
        return self._about(self._take("name", expected="a condition such as label = 'cat'"))

    def _column(self, name: Token) -> tuple[Token, str | None]:
        """A column, or the one in parentheses after a name, which is a function then."""
        if name.spelled.startswith('"') or not self._found("("):
            return name, None
        part = str(name.value).lower()
        if part not in DATE_PARTS:
            raise error_at(name.start, f"there is no {name.spelled}(): there are {', '.join(DATE_PARTS)}")
        column = self._take("name", expected="a column of dates")
        self._take(")", expected=")")
        return column, part

    def _about(self, column: Token) -> Condition:
        column, part = self._column(column)
        name = str(column.value)
        if symbol := self._found(*_OPERATORS):
            value = self._value(part)
            return Comparison(name, _OPERATORS[symbol.kind], value, part, position=column.start)
        if part:
            is_negated = self._found("not")
            self._take("in", expected="in" if is_negated else "a comparison such as =, or in")
            among = self._among(column, part)
            return Not(among) if is_negated else among
        if self._found("is"):
            negated = self._found("not")
            self._take("null", expected="null" if negated else "null or not null")
            is_null = IsNull(name, position=column.start)
            return Not(is_null) if negated else is_null
        if self._found("not"):
            return Not(self._in_or_like(column, expected="in or like"))
        return self._in_or_like(column, expected="a comparison such as =, or in, like or is")

    def _in_or_like(self, column: Token, *, expected: str) -> Condition:
        if self._take("in", "like", expected=expected).kind == "like":
            pattern = self._take("text", expected="a pattern in single quotes")
            return Like(str(column.value), str(pattern.value), position=column.start)
        return self._among(column, None)

    def _among(self, column: Token, part: str | None) -> In:
        self._take("(", expected="( and a list of values")
        values = [self._value(part)]
        while self._take(",", ")", expected=", or )").kind == ",":
            values.append(self._value(part))
        return In(str(column.value), tuple(values), part, position=column.start)

    def _value(self, part: str | None) -> str | float:
        hint = " (write is null to find nulls)" if self._peek().kind == "null" else ""
        value = self._take("number", "text", expected=f"a number or a text in single quotes{hint}")
        return self._compared(part, value)

    def _compared(self, part: str | None, value: Token) -> str | float:
        if part and value.kind == "text":
            raise error_at(value.start, f"{part}() is a number: write one, without quotes")
        return value.value

    def _peek(self) -> Token:
        return self._tokens[self._next]

    def _found(self, *kinds: str) -> Token | None:
        token = self._peek()
        if token.kind not in kinds:
            return None
        self._next += 1
        return token

    def _take(self, *kinds: str, expected: str) -> Token:
        if token := self._found(*kinds):
            return token
        start, spelled = self._peek().start, self._peek().spelled
        raise error_at(start, f"expected {expected}, found {spelled}")


def _text(condition: Condition, loose: tuple[type, ...] = ()) -> str:
    """A condition as `parse` reads it, in parentheses if it is one of those too loose for where it stands."""
    match condition:
        case Or(conditions):
            text = " or ".join(map(partial(_text, loose=(Or,)), conditions))
        case And(conditions):
            text = " and ".join(map(partial(_text, loose=(And, Or)), conditions))
        case Not(inner):
            text = f"not {_text(inner, loose=(And, Or))}"
        case IsNull(column):
            text = f"{_name(column)} is null"
        case Like(column, pattern):
            text = f"{_name(column)} like {_value(pattern)}"
        case In(column, values, part):
            text = f"{_operand(column, part)} in ({', '.join(map(_value, values))})"
        case Comparison(column, operator, value, part):
            text = f"{_operand(column, part)} {operator} {_value(value)}"
    return f"({text})" if isinstance(condition, loose) else text


def _operand(column: str, part: str | None) -> str:
    return f"{part}({_name(column)})" if part else _name(column)


def _name(column: str) -> str:
    is_plain = _WORD.fullmatch(column) and column.lower() not in KEYWORDS
    return column if is_plain else '"' + column.replace('"', '""') + '"'


def _value(value: str | float) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return repr(value).replace("inf", "1e999")
