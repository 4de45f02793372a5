from pathlib import Path

import faiss
import pytest
from clustered import clustered

from indexes import IndexKindError
from indexes.faiss_kinds.factory import default_rerank, empty_index, training_rows

MANY = 10**6


@pytest.mark.parametrize(
    "factory, reason",
    [
        ("nonsense", "could not parse index string nonsense"),
        ("", "could not parse"),
        ("flat", "could not parse"),
        ("PQ5", "multiple of the number of subquantizers"),
        ("IMI2x4,Flat", "not implemented for inner prod"),
        ("LSH", "METRIC_L2"),
        ("HNSW16_PQ8", "cannot compare by inner product"),
        ("IDMap,Flat", "row numbers"),
        ("Flat,IDMap2", "row numbers"),
        ("NSG16", "block by block"),
        ("HNSW0", "too small"),  # The next five end the process that fills or searches them.
        ("HNSW1", "too small"),
        ("IVF16_HNSW1,Flat", "too small"),
        ("PQ8x0", "too small"),
        ("RQ0x8", "too small"),
        ("IVF0,Flat", "too small"),
        ("IVF16,Flat,Refine(PQ8x4fs)", "get_distance_computer"),  # This one too.
        ("PCA16,Flat,Refine(IVF4,Flat)", "get_distance_computer"),
        ("Pad1000000000,IVF4,Flat", "too large"),
        ("HNSW" + 100 * "9", "too large"),
        (100_000 * "(", "not a FAISS factory string"),  # And this one.
        ("Flat\0", "not a FAISS factory string"),
        ("Flat\n", "not a FAISS factory string"),
        ("Flät", "not a FAISS factory string"),
    ],
)
def test_refusals_are_one_short_line(factory: str, reason: str) -> None:
    with pytest.raises(IndexKindError) as refused:
        empty_index(factory, 32, MANY)
    message = str(refused.value)
    assert reason in message
    assert ": choose another" in message
    assert repr(factory[:40])[:-1] in message
    assert "\n" not in message
    assert len(message) < 250
    assert "/project/" not in message


@pytest.mark.parametrize(
    "factory, rows",
    [
        ("Flat", 0),
        ("HNSW32", 0),
        ("SQ8", 0),
        ("IVF32,Flat", 39 * 32),
        ("IVF1k,SQ8", 39 * 1024),
        ("IVF300_HNSW32,PQ8x4fs", 39 * 300),
        ("IVF32,PQ8", 39 * 256),
        ("IVF32,PQ8np", 39 * 256),
        ("IVF32,PQ16x4fs", 39 * 32),
        ("IVF8,PQ16x4fs", 39 * 16),
        ("OPQ8,IVF32,PQ8x4fs", 39 * 256),
        ("PQ4x10", 39 * 1024),
        ("IVF32,Flat,Refine(PQ8)", 39 * 256),
    ],
)
def test_rows_needed(factory: str, rows: int) -> None:
    assert training_rows(factory) == rows
    assert empty_index(factory, 32, max(rows, 1)).d == 32
    if rows:
        with pytest.raises(IndexKindError, match=f"needs at least {rows} vectors .* there are {rows - 1}:"):
            empty_index(factory, 32, rows - 1)


@pytest.mark.parametrize("factory", ["IVF20,Flat", "PQ2x4", "IVF4,PQ2x4fs", "RQ2x4"])
def test_rows_needed_are_what_faiss_asks_for(factory: str, capfd: pytest.CaptureFixture[str]) -> None:
    needed = training_rows(factory)
    for count in (needed, needed - 1):
        faiss.index_factory(8, factory, faiss.METRIC_INNER_PRODUCT).train(clustered(count, 8))
        assert (f"at least {needed} training points" in capfd.readouterr().err) == (count < needed)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc")
@pytest.mark.parametrize("factory", ["IVF50000000,Flat", "PQ8x24", "PQ8x60000", "RQ4x24"])
def test_nothing_is_allocated_for_what_cannot_be_trained(factory: str) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    with pytest.raises(IndexKindError, match="needs at least"):
        empty_index(factory, 32, MANY)
    assert int(Path("/proc/self/statm").read_text().split()[0]) - pages < 10_000


@pytest.mark.parametrize(
    "factory, rerank",
    [
        ("Flat", 0),
        ("HNSW32", 0),
        ("IVF32,Flat", 0),
        ("IVF32,SQfp16", 0),
        ("IVF32,SQ8", 100),
        ("IVF32,PQ8", 100),
        ("PCA64,Flat", 100),
        ("IVF32,RaBitQ", 100),
        ("IVF32,PQ8,RFlat", 0),
        ("IVF32,PQ8x4fs,Refine(SQ8)", 0),
    ],
)
def test_lossy_codes_are_ranked_again_unless_faiss_does(factory: str, rerank: int) -> None:
    assert default_rerank(factory) == rerank


def test_kinds_that_refine_are_taken() -> None:
    for factory in ("HNSW16,RFlat", "IVF32,PQ8x4fs,Refine(SQ8)", "L2norm,IVF32,Flat,RFlat"):
        assert empty_index(factory, 32, MANY).metric_type == faiss.METRIC_INNER_PRODUCT
