"""Conditions on the rows of Arrow tables."""

import re
from collections.abc import Callable
from functools import reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.filters.syntax import (
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
from indexes.filters.tokens import NUMBER

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
            case In(column, values):
                alike = ([value for value in values if isinstance(value, kind)] for kind in (str, float))
                return reduce(pc.or_kleene, [self._in(column, some) for some in alike if some])
            case Comparison(column, operator, value):
                return _COMPARE[operator](self._comparable(column, value), value)

    def _in(self, column: str, values: list[str | float]) -> pa.ChunkedArray:
        cells = self._comparable(column, values[0])
        found = pc.is_in(cells, value_set=pa.array(values, cells.type))
        return pc.if_else(pc.is_valid(cells), found, pa.scalar(None, pa.bool_()))

    def _comparable(self, column: str, value: str | float) -> pa.ChunkedArray:
        if isinstance(value, str):
            return self._table[column]
        if column not in self._read_as_numbers:
            self._read_as_numbers[column] = _numbers(self._table[column])
        return self._read_as_numbers[column]


def _regex(pattern: str) -> str:
    return r"(?s)\A" + "".join({"%": ".*", "_": "."}.get(c) or re.escape(c) for c in pattern) + r"\z"


def _numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read text as float64; null where it is no number."""
    bare = pc.ascii_trim_whitespace(column)
    is_number = pc.match_substring_regex(bare, rf"\A{NUMBER}\z")
    numbers = pc.cast(pc.if_else(is_number, bare, pa.scalar(None, pa.string())), pa.float64())
    return pc.add(numbers, 0.0)  # makes 0.0 of -0.0, which is_in would tell apart
