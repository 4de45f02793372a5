"""Vectors on disk: one `.npy` file a part, float16 and L2-normalised, read as a stream of float32."""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.disk.durable import written_whole
from indexes.errors import IndexDamagedError

_NORM_TOLERANCE = 1e-2  # float16 rounding of a unit vector stays below 1e-3
_BLOCK_ROWS = 16384
_OPEN_PARTS = 256
_FEW_ROWS = 500

_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"{'descr': '([<>|][biuf]\d)', 'fortran_order': (True|False), "
    rb"'shape': \((\d{1,15}),(?: (\d{1,15}))?\), } *\n"
)


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
    vectors_ND = mapped(path)
    if vectors_ND.dtype != np.float16 or vectors_ND.ndim != 2 or vectors_ND.shape[1] != dim:
        raise IndexDamagedError(
            f"{path} holds {vectors_ND.dtype} {vectors_ND.shape}, not float16 (N, {dim}): build again"
        )
    return vectors_ND


def mapped(path: Path) -> NDArray[Any]:
    """Map a list or a table of numbers into memory from an `.npy` file as this program writes them.

    Nothing in it is evaluated. NumPy's own readers parse the header as Python: in CPython 3.11 that fails now
    and then while another thread does the same, and some crafted headers end the process (seen in 2.4).

    Raises:
        IndexDamagedError: It is missing, cut short, or anything else.
    """
    try:
        with path.open("rb") as file:
            magic, length = file.read(8), int.from_bytes(file.read(2), "little")
            header = _HEADER.fullmatch(file.read(length)) if magic == _MAGIC else None
            start, end = file.tell(), file.seek(0, os.SEEK_END)
            if header is None:
                raise ValueError("no numbers")
            dtype = np.dtype(header[1].decode())
            shape = tuple(int(size) for size in header.groups()[2:] if size is not None)
            if start + dtype.itemsize * prod(shape) != end:
                raise ValueError("cut short, or too long")
            numbers = np.memmap(file, dtype, "r", start, shape, "F" if header[2] == b"True" else "C")
            return numbers.view(np.ndarray)  # whose rows are read in half the time
    except (OSError, ValueError, TypeError, OverflowError) as error:
        raise IndexDamagedError(
            f"{path} is missing or damaged: restore it, or remove it and build again"
        ) from error


class Vectors:
    """The vectors of several parts as one long array of rows, of which only what is asked for is read.

    Args:
        files: The parts, in the order of the rows.
        dim: Length of a vector.
        check: Called after a part is opened, or could not be; raises if it is not what it was.

    Raises:
        IndexDamagedError: As `read_vectors`.
    """

    def __init__(self, files: Iterable[Path], dim: int, *, check: Callable[[], None] = lambda: None) -> None:
        self.dim = dim
        parts = list(files)

        # No method: it would keep its own object, and the maps, until the garbage collector comes by.
        def opened(i: int) -> NDArray[np.float16]:
            try:
                return read_vectors(parts[i], dim)
            finally:
                check()

        # Each map holds an open file, of which a process may have a thousand or so.
        self._part = lru_cache(maxsize=_OPEN_PARTS)(opened)
        self._starts = np.cumsum([0, *(len(opened(i)) for i in range(len(parts)))])

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def counts(self) -> list[int]:
        """How many each part has."""
        counts: list[int] = np.diff(self._starts).tolist()
        return counts

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All vectors in order, some thousand rows at a time."""
        for i in range(len(self._starts) - 1):
            part_ND = self._part(i)
            for start in range(0, len(part_ND), _BLOCK_ROWS):
                yield _float32(part_ND[start : start + _BLOCK_ROWS])

    def take(self, rows_N: NDArray[np.integer]) -> NDArray[np.float32]:
        """The vectors of the given rows, N x D, in the order given."""
        taken_ND = np.empty((len(rows_N), self.dim), np.float32)
        parts_N = np.searchsorted(self._starts, rows_N, side="right") - 1
        if len(rows_N) <= _FEW_ROWS:  # nearly each of a part of its own
            places_N = (rows_N - self._starts[parts_N]).tolist()
            for i, (part, row) in enumerate(zip(parts_N.tolist(), places_N, strict=True)):
                taken_ND[i] = self._part(part)[row]
            return taken_ND
        for part in np.unique(parts_N):
            here_N = np.flatnonzero(parts_N == part)
            taken_ND[here_N] = self._part(int(part))[rows_N[here_N] - self._starts[part]]
        return taken_ND


def _float32(vectors_ND: NDArray[np.float16]) -> NDArray[np.float32]:
    return vectors_ND.astype(np.float32, order="C", subok=False)
