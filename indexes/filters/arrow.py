"""Conditions on the rows of Arrow tables."""

import re
from collections.abc import Callable
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.filters.syntax import (
    DATE_PARTS,
    And,
    Comparison,
    Condition,
    In,
    IsNull,
    Like,
    Not,
    Operator,
    Or,
    require_columns,
)
from indexes.filters.tokens import NUMBER, error_at

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_IS_DATE = rf"\A{_DATE}(?:[T ][0-9]{{2}}:[0-9]{{2}}[0-9:.Z+-]*)?\z"
_IS_NUMBER = rf"\A{NUMBER}\z"
_BEGINS_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}(-[0-9]{2}([T ][0-9]{2}(:[0-9]{2}(:[0-9]{2})?)?)?)?)?")

_COMPARE: dict[Operator, Callable[[pa.ChunkedArray, str | float], pa.ChunkedArray]] = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def matching(table: pa.Table, condition: Condition) -> NDArray[np.bool_]:
    """Find the rows that match a condition.

    Args:
        table: Columns of text, nulls possible.
        condition: See `indexes.filters.syntax`.

    Returns:
        (N,) True where a row matches.

    Raises:
        FilterError: The condition names a column that the table lacks.
    """
    require_columns(condition, table.column_names)
    return np.asarray(pc.fill_null(_Evaluation(table).mask(condition), False).to_numpy(), np.bool_)


class _Evaluation:
    """Masks of conditions, null where what they say is neither true nor false."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table
        self._read_as_numbers: dict[str, pa.ChunkedArray] = {}

    def mask(self, condition: Condition) -> pa.ChunkedArray:
        match condition:
            case Or(conditions):
                return reduce(pc.or_kleene, map(self.mask, conditions))
            case And(conditions):
                return reduce(pc.and_kleene, map(self.mask, conditions))
            case Not(inner):
                return pc.invert(self.mask(inner))
            case IsNull(column):
                return pc.is_null(self._table[column])
            case Like(column, pattern):
                # Not pc.match_like: whether a backslash is an escape there hangs on where the % are.
                return pc.match_substring_regex(self._table[column], _regex(pattern))
            case In(column, values, part, position):
                if part is None and self._holds_dates(column):
                    one_by_one = (Comparison(column, "=", value, None, position) for value in values)
                    return reduce(pc.or_kleene, map(self.mask, one_by_one))
                alike = ([value for value in values if isinstance(value, kind)] for kind in (str, float))
                return reduce(pc.or_kleene, [self._in(column, part, some) for some in alike if some])
            case Comparison():
                return self._compared(condition)

    def _compared(self, condition: Comparison) -> pa.ChunkedArray:
        column, value = condition.column, condition.value
        compare = _COMPARE[condition.operator]
        if condition.part is None and self._holds_dates(column):
            text = _date_text(condition)
            return compare(pc.utf8_slice_codeunits(_with_t(self._table[column]), 0, len(text)), text)
        is_order = condition.operator not in ("=", "!=")
        if (
            is_order
            and isinstance(value, str)
            and re.fullmatch(NUMBER, value)
            and self._holds_numbers(column)
        ):
            value = float(value)
        return compare(self._comparable(column, condition.part, value), value)

    def _in(self, column: str, part: str | None, values: list[str | float]) -> pa.ChunkedArray:
        cells = self._comparable(column, part, values[0])
        found = pc.is_in(cells, value_set=pa.array(values, cells.type))
        return pc.if_else(pc.is_valid(cells), found, pa.scalar(None, pa.bool_()))

    def _comparable(self, column: str, part: str | None, value: str | float) -> pa.ChunkedArray:
        if part is not None:
            cells = self._table[column]
            dates = pc.if_else(pc.match_substring_regex(cells, _IS_DATE), cells, pa.scalar(None, pa.string()))
            return _numbers(pc.utf8_slice_codeunits(dates, *DATE_PARTS[part]))
        if isinstance(value, str):
            return self._table[column]
        if column not in self._read_as_numbers:
            self._read_as_numbers[column] = _numbers(self._table[column])
        return self._read_as_numbers[column]

    def _holds_dates(self, column: str) -> bool:
        return _all_match(self._table[column], _IS_DATE)

    def _holds_numbers(self, column: str) -> bool:
        return _all_match(pc.ascii_trim_whitespace(self._table[column]), _IS_NUMBER)


def _all_match(cells: pa.ChunkedArray, pattern: str) -> bool:
    """Whether there are cells and all match: the first of them tells most columns apart."""
    filled = cells.drop_null()
    return bool(len(filled)) and all(
        pc.all(pc.match_substring_regex(some, pattern)).as_py() for some in (filled.slice(0, 1), filled)
    )


def _date_text(condition: Comparison) -> str:
    """What dates are compared with, as they are spelled.

    Raises:
        FilterError: It is no date.
    """
    value, column = condition.value, condition.column
    if isinstance(value, str) and _BEGINS_DATE.fullmatch(value):
        return value.replace(" ", "T")
    hint = f"write year({column}) or a date in quotes, as '2019', '2019-07' or '2019-07-14'"
    raise error_at(condition.position, f"{column} holds dates: {hint}")


def _with_t(dates: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.replace_substring(dates, " ", "T")


def _regex(pattern: str) -> str:
    return r"(?s)\A" + "".join({"%": ".*", "_": "."}.get(c) or re.escape(c) for c in pattern) + r"\z"


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read text as float64; null where it is no number."""
    bare = pc.ascii_trim_whitespace(column)
    is_number = pc.match_substring_regex(bare, _IS_NUMBER)
    numbers = pc.cast(pc.if_else(is_number, bare, pa.scalar(None, pa.string())), pa.float64())
    return pc.add(numbers, 0.0)  # makes 0.0 of -0.0, which is_in would tell apart
