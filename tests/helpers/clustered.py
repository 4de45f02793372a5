"""Vectors that lie in clusters, as embeddings do, stored as an index stores them."""

from pathlib import Path

import numpy as np

from indexes.disk.vectors import Vectors, write_vectors


def clustered(
    count: int, dim: int = 16, *, centres: int = 50, spread: float = 0.7, seed: int = 0
) -> np.ndarray:
    """Unit vectors, rounded as they are stored."""
    rng = np.random.default_rng(seed)
    places_CD = rng.standard_normal((centres, dim))
    vectors_ND = places_CD[rng.integers(0, centres, count)] + spread * rng.standard_normal((count, dim))
    vectors_ND /= np.linalg.norm(vectors_ND, axis=1, keepdims=True)
    return vectors_ND.astype(np.float16).astype(np.float32)


def stored(folder: Path, vectors_ND: np.ndarray, *, parts: int = 2) -> Vectors:
    folder.mkdir(exist_ok=True)
    files = [folder / f"part-{i}.npy" for i in range(parts)]
    for file, part_ND in zip(files, np.array_split(vectors_ND, parts), strict=True):
        write_vectors(file, part_ND)
    return Vectors(files, vectors_ND.shape[1])


def true_neighbours(vectors_ND: np.ndarray, rows: np.ndarray, k: int = 10) -> list[set[int]]:
    """The k rows nearest to each of some, beside itself: the oracle."""
    scores_QN = vectors_ND[rows] @ vectors_ND.T
    scores_QN[np.arange(len(rows)), rows] = -np.inf
    return [set(nearest[:k].tolist()) for nearest in np.argsort(-scores_QN, axis=1)]
