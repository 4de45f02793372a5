"""What runs on a GPU runs on any device of torch: here on the processor, against FAISS."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from indexes import Index
from indexes.disk.vectors import Vectors, write_vectors
from indexes.faiss_kinds.device_search import DeviceSearch
from indexes.faiss_kinds.search import exact
from indexes.faiss_kinds.selection import Selection

Make = Callable[..., np.ndarray]


@pytest.mark.parametrize("k", [1, 7, 40_000])
@pytest.mark.parametrize("share", [1.0, 0.3, 0.0001])
def test_finds_what_exact_search_finds(tmp_path: Path, vectors: Make, k: int, share: float) -> None:
    for number, count in enumerate((20_000, 3)):
        write_vectors(tmp_path / f"{number}.npy", vectors(count, seed=number))
    stored = Vectors([tmp_path / "0.npy", tmp_path / "1.npy"], 8)
    among = Selection(np.random.default_rng(0).random(len(stored)) < share)
    queries_QD = vectors(5, seed=9).astype(np.float32)
    count = min(k, among.count)
    scores_QK, rows_QK = DeviceSearch(stored, "cpu").search(queries_QD, count, among)
    expected_QK, _ = exact(queries_QD, stored, k, among)
    np.testing.assert_allclose(scores_QK, expected_QK, atol=1e-5)
    assert among.chosen_N[rows_QK].all()
    for query, scores, rows in zip(queries_QD, scores_QK, rows_QK, strict=True):
        np.testing.assert_allclose(stored.take(rows) @ query, scores, atol=1e-5)
        assert len(set(rows)) == count


def test_an_index_searches_where_it_is_told_to(small: Path, vectors: Make) -> None:
    here, there = Index.open(small), Index.open(small)
    assert here.use("cpu").startswith("FAISS")
    assert there.use("cpu:0") == "matrix products on cpu:0"
    queries_QD = vectors(4, seed=5).astype(np.float32)
    one, other = here.search(queries_QD, 6), there.search(queries_QD, 6)
    assert one.entries == other.entries
    np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
    where = "label = 'class 1'"
    assert here.search(queries_QD, 9, where).entries == there.search(queries_QD, 9, where).entries
    np.testing.assert_array_equal(here.exact(queries_QD, 9)[1], there.exact(queries_QD, 9)[1])
