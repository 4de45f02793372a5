import re

import faiss
import pytest
from clustered import clustered
from hypothesis import example, given
from hypothesis import strategies as st

from indexes import IndexKindError
from indexes.faiss_kinds.all_kinds import choices, size_text
from indexes.faiss_kinds.build import size_bytes
from indexes.faiss_kinds.factory import default_rerank, empty_index
from indexes.faiss_kinds.flat import flat_bytes
from indexes.faiss_kinds.hnsw import hnsw_bytes
from indexes.faiss_kinds.inverted_lists import ivf_bytes

SIZES = st.integers(1, 5_000_000)
DIMS = st.integers(1, 1536)


@given(SIZES, DIMS, st.integers(1, 2**33))
def test_estimates_never_exceed_the_memory_and_an_error_says_what_would_do(
    ntotal: int, dim: int, memory: int
) -> None:
    try:
        fitting = choices(ntotal, dim, max_memory_bytes=memory)
    except IndexKindError as error:
        smallest = min(choice.size_bytes for choice in choices(ntotal, dim))
        assert memory < smallest
        megabytes = float(re.search(r"needs ([\d.]+)M$", str(error))[1])
        assert choices(ntotal, dim, max_memory_bytes=int(megabytes * 2**20))
    else:
        assert all(choice.size_bytes <= memory for choice in fitting)
        everything = choices(ntotal, dim)
        assert fitting == tuple(choice for choice in everything if choice.size_bytes <= memory)


@given(SIZES, DIMS)
@example(1, 1)
@example(39 * 256, 768)
@example(39 * 256, 7)
def test_flat_while_it_is_quick_then_a_graph_then_ever_smaller_lists(ntotal: int, dim: int) -> None:
    tried = choices(ntotal, dim)
    names = [choice.factory for choice in tried]
    assert (names[0] == "Flat") == (ntotal * dim <= 200_000 * 384)
    assert next(name for name in names if name != "Flat") == "HNSW32"
    lists = [choice for choice in tried if choice.factory.startswith("IVF")]
    assert bool(lists) == (ntotal >= 39)
    if dim > 1:
        sizes = [choice.size_bytes for choice in lists]
        assert sizes == sorted(sizes, reverse=True)
    for choice in tried:
        assert choice.rerank == (100 if re.search("SQ|PQ", choice.factory) else 0)
        assert choice.rerank == default_rerank(choice.factory), "as of one that is asked for by its name"
        if found := re.search(r"PQ(\d+)$", choice.factory):
            assert dim % int(found[1]) == 0
            assert ntotal >= 39 * 256
        if found := re.search(r"IVF(\d+)", choice.factory):
            assert 1 <= int(found[1]) <= ntotal / 39
    assert ("PQ" in names[-1]) == (ntotal >= 39 * 256)


@pytest.mark.parametrize("ntotal, dim", [(39, 5), (10_000, 8), (10_000, 7), (20_000, 384)])
def test_faiss_takes_every_choice(ntotal: int, dim: int) -> None:
    for choice in choices(ntotal, dim):
        assert empty_index(choice.factory, dim, ntotal).d == dim


def test_rerank_that_was_asked_for_is_that_of_every_choice() -> None:
    assert {choice.rerank for choice in choices(10**6, 64, rerank=7)} == {7}
    assert {choice.rerank for choice in choices(10**6, 64, rerank=0)} == {0}


def test_lists_grow_with_the_root_of_the_corpus() -> None:
    assert "IVF4000,SQ8" in [choice.factory for choice in choices(10**6, 768)]


@pytest.mark.parametrize(
    "factory, estimate",
    [
        ("Flat", flat_bytes(10_000, 16)),
        ("HNSW32", hnsw_bytes(10_000, 16)),
        ("IVF256,Flat", ivf_bytes(10_000, 16, 256, 4 * 16)),
        ("IVF256,SQ8", ivf_bytes(10_000, 16, 256, 16) + 8 * 16),
        ("IVF256,PQ2", ivf_bytes(10_000, 16, 256, 2) + 4 * 256 * 16),
    ],
)
def test_estimates_are_close_upper_bounds_of_files(factory: str, estimate: int) -> None:
    vectors = clustered(10_000)
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    if "PQ" in factory:
        index.do_polysemous_training = False
    index.train(vectors)
    index.add(vectors)
    assert size_bytes(index) == faiss.serialize_index(index).size
    assert 0.98 * estimate < size_bytes(index) <= estimate


def test_estimates_are_those_of_choices() -> None:
    sizes = {choice.factory: choice.size_bytes for choice in choices(10_000, 16)}
    assert sizes["Flat"] == flat_bytes(10_000, 16)
    assert sizes["HNSW32"] == hnsw_bytes(10_000, 16)
    assert sizes["IVF256,Flat"] == ivf_bytes(10_000, 16, 256, 64)
    assert sizes["IVF256,PQ8"] == ivf_bytes(10_000, 16, 256, 8) + 4 * 256 * 16


@pytest.mark.parametrize(
    "size, text", [(1, "0.1M"), (2**20, "1M"), (2**20 + 1, "1.1M"), (3 * 2**30, "3072M")]
)
def test_sizes_are_rounded_up(size: int, text: str) -> None:
    assert size_text(size) == text
