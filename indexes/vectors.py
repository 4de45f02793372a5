"""Vectors on disk: one `.npy` file a part, float16 and L2-normalised, read as a stream of float32."""

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.errors import IndexDamagedError
from indexes.files import written_whole

_NORM_TOLERANCE = 1e-2  # float16 rounding of a unit vector stays below 1e-3
_BLOCK_ROWS = 16384
_OPEN_PARTS = 256


def write_vectors(path: Path, vectors_ND: NDArray[np.floating]) -> None:
    """Write a part, whole or not at all.

    Raises:
        ValueError: A vector is not finite or not of length 1.
    """
    # What is checked is what will be read: the rounded vectors. Squares of float16 need more than float16.
    with np.errstate(over="ignore"):
        rounded_ND = np.asarray(vectors_ND, dtype=np.float16)
    norms_N = np.linalg.norm(rounded_ND.astype(np.float32), axis=1)
    wrong = np.flatnonzero(~(np.abs(norms_N - 1) <= _NORM_TOLERANCE))  # a NaN is wrong too
    if wrong.size:
        raise ValueError(
            f"vector {wrong[0]} has length {norms_N[wrong[0]]}, not 1: give finite, L2-normalised vectors"
        )
    with written_whole(path) as file:
        np.lib.format.write_array(file, rounded_ND, allow_pickle=False)


def read_vectors(path: Path, dim: int) -> NDArray[np.float16]:
    """Map a part into memory, N x dim.

    Raises:
        IndexDamagedError: It is missing, cut short, holds objects, or has another type or width.
    """
    try:
        # Never unpickles: an array of objects cannot be mapped.
        vectors_ND = np.lib.format.open_memmap(path, mode="r")
    except (OSError, ValueError, OverflowError) as error:
        raise IndexDamagedError(
            f"{path} is missing or damaged: restore it, or remove it and build again"
        ) from error
    if vectors_ND.dtype != np.float16 or vectors_ND.ndim != 2 or vectors_ND.shape[1] != dim:
        raise IndexDamagedError(
            f"{path} holds {vectors_ND.dtype} {vectors_ND.shape}, not float16 (N, {dim}): build again"
        )
    return vectors_ND


class Vectors:
    """The vectors of several parts as one long array of rows, of which only what is asked for is read.

    Args:
        files: The parts, in the order of the rows.
        dim: Length of a vector.
        check: Called after a part is opened; raises if it is not what it was.

    Raises:
        IndexDamagedError: As `read_vectors`.
    """

    def __init__(self, files: Iterable[Path], dim: int, *, check: Callable[[], None] = lambda: None) -> None:
        self.dim = dim
        self._files, self._check = list(files), check
        # Each map holds an open file, of which a process may have a thousand or so.
        self._part = lru_cache(maxsize=_OPEN_PARTS)(self._open)
        self._starts = np.cumsum([0, *(len(self._open(i)) for i in range(len(self._files)))])

    def _open(self, i: int) -> NDArray[np.float16]:
        part_ND = read_vectors(self._files[i], self.dim)
        self._check()
        return part_ND

    def __len__(self) -> int:
        return int(self._starts[-1])

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All vectors in order, some thousand rows at a time."""
        for i in range(len(self._files)):
            part_ND = self._part(i)
            for start in range(0, len(part_ND), _BLOCK_ROWS):
                yield _float32(part_ND[start : start + _BLOCK_ROWS])

    def take(self, rows_N: NDArray[np.integer]) -> NDArray[np.float32]:
        """The vectors of the given rows, N x D, in the order given."""
        taken_ND = np.empty((len(rows_N), self.dim), np.float32)
        parts_N = np.searchsorted(self._starts, rows_N, side="right") - 1
        for part in np.unique(parts_N):
            here_N = np.flatnonzero(parts_N == part)
            taken_ND[here_N] = self._part(int(part))[rows_N[here_N] - self._starts[part]]
        return taken_ND


def _float32(vectors_ND: NDArray[np.float16]) -> NDArray[np.float32]:
    return vectors_ND.astype(np.float32, order="C", subok=False)
