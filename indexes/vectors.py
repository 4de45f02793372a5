"""Vectors on disk: one `.npy` file a part, float16 and L2-normalised, read as a stream of float32."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.errors import IndexDamagedError
from indexes.files import written_whole

_NORM_TOLERANCE = 1e-2  # float16 rounding of a unit vector stays below 1e-3
_BLOCK_ROWS = 16384


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


def blocks(paths: Iterable[Path], dim: int) -> Iterator[NDArray[np.float32]]:
    """Stream parts, in the order given, as float32 blocks of some thousand rows.

    Raises:
        IndexDamagedError: As `read_vectors`.
    """
    for path in paths:
        vectors_ND = read_vectors(path, dim)
        for start in range(0, len(vectors_ND), _BLOCK_ROWS):
            yield vectors_ND[start : start + _BLOCK_ROWS].astype(np.float32, order="C", subok=False)
