"""Which rows of an index a search may find, in every form that a search may need."""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray


class Selection:
    """Some rows of an index. What costs a pass over all rows is worked out once, when it is first asked for.

    Attributes:
        chosen_N: Whether each row of the index is one of them.
    """

    def __init__(self, chosen_N: NDArray[np.bool_]) -> None:
        self.chosen_N = chosen_N

    @cached_property
    def count(self) -> int:
        """How many there are."""
        return int(np.count_nonzero(self.chosen_N))

    @cached_property
    def numbers(self) -> NDArray[np.int64]:
        """Their row numbers, ascending."""
        return np.flatnonzero(self.chosen_N)

    @cached_property
    def bits(self) -> NDArray[np.uint8]:
        """A bit a row, the lowest of each byte first, as FAISS takes them."""
        return np.packbits(self.chosen_N, bitorder="little")
