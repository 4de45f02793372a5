import re
from pathlib import Path

import faiss
import numpy as np
import pytest
from clustered import clustered, stored

from indexes import IndexDamagedError, IndexKindError
from indexes import filling as module
from indexes.filling import add, filled, size_bytes
from indexes.measure import Queries

QUIET = {"max_memory_bytes": None, "on_progress": lambda *_: None}


@pytest.fixture
def queries(tmp_path: Path) -> Queries:
    return Queries(stored(tmp_path / "vectors", clustered(5000)))


@pytest.mark.parametrize(
    "factory", ["Flat", "HNSW8", "IVF32,Flat", "IVF32,PQ8x4fs", "PCA14,IVF16,SQ8", "HNSW8,RFlat"]
)
def test_ids_are_row_numbers(queries: Queries, factory: str) -> None:
    index = filled(factory, queries, **QUIET)
    assert (index.ntotal, index.d) == (5000, 16)
    faiss.ParameterSpace().set_index_parameters(index, "nprobe=16" if "IVF" in factory else "")
    _, rows = index.search(queries.vectors_QD[:50], 20)
    assert np.mean([own in found for own, found in zip(queries.rows, rows, strict=False)]) > 0.9


def test_blocks_make_no_difference(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = faiss.serialize_index(filled("IVF32,SQ8", queries, **QUIET))
    monkeypatch.setattr(module, "_BLOCK_ROWS", 777)
    assert (faiss.serialize_index(filled("IVF32,SQ8", queries, **QUIET)) == whole).all()


def test_training_sees_no_queries_where_there_are_others(
    queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TRAINING_ROWS", 500)
    sample = module._training_sample(queries, 0)
    assert len(set(sample.tolist())) == len(sample) == 500
    assert 2000 < np.median(sample) < 3000
    assert not set(sample) & set(queries.rows)
    assert sample.tolist() == module._training_sample(queries, 0).tolist()
    assert len(module._training_sample(queries, 4000)) == 4000
    assert not set(module._training_sample(queries, 4000)) & set(queries.rows)
    assert module._training_sample(queries, 5000).tolist() == list(range(5000))


def test_memory_is_foreseen_from_the_first_vectors(queries: Queries, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK_ROWS", 500)
    index = filled("HNSW8", queries, **QUIET)
    taken = size_bytes(index)
    steps: list[tuple[str, int, int]] = []

    def step(*told: object) -> None:
        steps.append(told)

    filled("HNSW8", queries, max_memory_bytes=int(1.02 * taken), on_progress=step)
    assert steps[-1] == ("HNSW8: adding", 5000, 5000)
    steps.clear()
    with pytest.raises(
        IndexKindError, match=r"'HNSW8' takes 0\.\dM .* the 0\.\dM allowed: allow more"
    ) as refused:
        filled("HNSW8", queries, max_memory_bytes=int(0.98 * taken), on_progress=step)
    assert steps[-1] == ("HNSW8: adding", 500, 5000)
    assert "\n" not in str(refused.value)
    foreseen = float(re.search(r"takes ([\d.]+)M", str(refused.value))[1])
    assert foreseen * 2**20 == pytest.approx(taken, rel=0.1)


def test_faiss_errors_while_training_or_adding_are_one_line(
    queries: Queries, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(IndexKindError, match=r"'PCA17,Flat' .* \(PCA matrix cannot output 17") as refused:
        filled("PCA17,Flat", queries, **QUIET)
    assert "\n" not in str(refused.value)
    assert capfd.readouterr() == ("", "")


def test_damaged_vectors_are_not_blamed_on_the_kind(
    queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(rows: np.ndarray) -> np.ndarray:
        raise IndexDamagedError("part 7")

    monkeypatch.setattr(queries.corpus, "take", damaged)
    for factory in ("Flat", "IVF32,Flat"):
        with pytest.raises(IndexDamagedError, match="part 7"):
            filled(factory, queries, **QUIET)


@pytest.mark.parametrize(
    "factory, where",
    [
        ("PQ4x4", ""),
        ("IVF16,PQ4x4", ""),
        ("RR16,PQ4x4", "index"),
        ("IVF16,PQ4x4,RFlat", "base_index"),
        ("Flat,Refine(PQ4x4)", "refine_index"),
    ],
)
def test_polysemous_codes_are_learnt_nowhere(queries: Queries, factory: str, where: str) -> None:
    index = filled(factory, queries, **QUIET)
    part = faiss.downcast_index(getattr(index, where)) if where else index
    assert part.do_polysemous_training is False


def test_rows_are_added_behind_those_before_them(queries: Queries) -> None:
    index = faiss.IndexFlatIP(16)
    add(index, "Flat", queries.corpus, range(4000), lambda *_: None)
    add(index, "Flat", queries.corpus, range(4000, 5000), lambda *_: None)
    add(index, "Flat", queries.corpus, range(5000, 5000), lambda *_: None)
    whole = queries.corpus.take(np.arange(5000))
    assert (index.reconstruct_n(0, 5000) == whole).all()
