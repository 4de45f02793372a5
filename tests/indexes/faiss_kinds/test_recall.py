from pathlib import Path

import faiss
import numpy as np
import pytest
from clustered import clustered, stored, true_neighbours

from indexes.faiss_kinds import recall as module
from indexes.faiss_kinds.recall import Queries, measure, median_ms


def made(factory: str, vectors_ND: np.ndarray) -> faiss.Index:
    index = faiss.index_factory(vectors_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors_ND)
    index.add(vectors_ND)
    return index


@pytest.fixture
def corpus() -> np.ndarray:
    return clustered(3000)


def test_sample_is_random_and_the_same_every_time(tmp_path: Path, corpus: np.ndarray) -> None:
    vectors = stored(tmp_path, corpus)
    queries, again = Queries(vectors), Queries(vectors)
    assert queries.rows.tolist() == again.rows.tolist() == sorted(set(queries.rows.tolist()))
    assert len(queries.rows) == 1000
    assert 1000 < np.median(queries.rows) < 2000
    assert (queries.vectors_QD == corpus[queries.rows]).all()


@pytest.mark.parametrize("factory, parameters", [("IVF32,Flat", "nprobe=1"), ("IVF32,SQ8", "nprobe=4")])
def test_recall_is_that_of_brute_force(
    tmp_path: Path, corpus: np.ndarray, factory: str, parameters: str
) -> None:
    index, queries = made(factory, corpus), Queries(stored(tmp_path, corpus))
    measured = measure(index, queries, rerank=0, parameters=parameters)
    index.nprobe = int(parameters[-1])
    _, found_QK = index.search(corpus[queries.rows], 11)
    truth = true_neighbours(corpus, queries.rows)
    right = [
        len(true & set([row for row in found if row != own][:10]))
        for true, found, own in zip(truth, found_QK.tolist(), queries.rows, strict=True)
    ]
    assert measured.recall == pytest.approx(np.mean(right) / 10, abs=1e-4)
    assert 0.3 < measured.recall < 0.999
    assert measured.parameters == parameters
    assert measured.query_ms > 0


def test_ranking_again_finds_what_codes_confuse(tmp_path: Path, corpus: np.ndarray) -> None:
    index, queries = made("PQ8x4", corpus), Queries(stored(tmp_path, corpus))
    rough, again = (measure(index, queries, rerank=rerank).recall for rerank in (0, 100))
    _, found_QR = index.search(corpus[queries.rows], 100)
    inside = [
        len(true & set(found.tolist()))
        for true, found in zip(true_neighbours(corpus, queries.rows), found_QR, strict=True)
    ]
    assert again == pytest.approx(np.mean(inside) / 10, abs=1e-3)
    assert again > rough + 0.1


@pytest.mark.parametrize("factory", ["HNSW32", "HNSW32,SQ8", "RR24,HNSW32"])
def test_a_graph_is_measured_as_by_queries_that_it_does_not_hold(tmp_path: Path, factory: str) -> None:
    corpus = clustered(7000, 24, centres=300, spread=1.2)
    inside, outside = corpus[:5000], corpus[5000:]
    index = made(factory, inside)
    faiss.ParameterSpace().set_index_parameters(index, "efSearch=16")
    exact_QK = np.argsort(-(outside @ inside.T), axis=1)[:, :10]
    _, found_QK = index.search(outside, 10)
    honest = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found_QK, exact_QK, strict=True)])

    queries = Queries(stored(tmp_path, inside))
    naive = queries.recall(index.search(queries.vectors_QD, 11)[1])
    assert naive > honest + 0.02
    assert honest - 0.03 < measure(index, queries, rerank=0, parameters="efSearch=16").recall < honest + 0.01


@pytest.mark.parametrize("factory", ["HNSW8", "HNSW8,SQ8", "HNSW8,RFlat", "PCA8,HNSW8"])
def test_measuring_leaves_an_index_as_it_was(tmp_path: Path, corpus: np.ndarray, factory: str) -> None:
    index = made(factory, corpus)
    before = faiss.serialize_index(index)
    measure(index, Queries(stored(tmp_path, corpus)), rerank=0)
    assert (faiss.serialize_index(index) == before).all()


def test_a_hidden_row_comes_back_after_an_error(corpus: np.ndarray) -> None:
    index = made("HNSW8", corpus)
    storage = module._graph_storage(index)

    def search_and_fail() -> None:
        with module._hidden(storage, 7):
            assert 7 not in index.search(corpus[7:8], 10)[1]
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search_and_fail()
    assert index.search(corpus[7:8], 1)[1].tolist() == [[7]]


def test_only_the_graph_that_is_searched_is_looked_for(corpus: np.ndarray) -> None:
    for factory in ("Flat", "IVF16_HNSW8,Flat", "Flat,Refine(HNSW8)"):
        assert module._graph_storage(made(factory, corpus)) is None


@pytest.mark.parametrize("count", [1, 2, 5, 10, 11, 12, 20])
@pytest.mark.parametrize("factory, rerank", [("Flat", 0), ("HNSW8", 0), ("HNSW8", 3), ("SQ4", 100)])
def test_tiny_corpora_find_everything(tmp_path: Path, count: int, factory: str, rerank: int) -> None:
    corpus = clustered(count)
    queries = Queries(stored(tmp_path, corpus, parts=1))
    assert len(queries.rows) == count
    assert measure(made(factory, corpus), queries, rerank=rerank).recall == 1
    assert median_ms(made(factory, corpus), queries) > 0


def test_copies_are_as_right_as_each_other(tmp_path: Path) -> None:
    corpus = np.repeat(clustered(3), 30, axis=0)
    queries = Queries(stored(tmp_path, corpus))
    assert measure(made("Flat", corpus), queries, rerank=0).recall == 1
    assert queries.recall(np.full((90, 11), -1)) == 0
    others = (queries.rows[:, None] + 30 + np.arange(11)) % 90
    assert queries.recall(others) == 0
    own_cluster = queries.rows[:, None] // 30 * 30 + np.arange(11)
    assert queries.recall(own_cluster) == 1


def test_a_row_counts_once_and_never_for_itself(tmp_path: Path, corpus: np.ndarray) -> None:
    queries = Queries(stored(tmp_path, corpus))
    best = [sorted(true) for true in true_neighbours(corpus, queries.rows)]
    found = np.array([[own, *true] for own, true in zip(queries.rows, best, strict=True)])
    assert queries.recall(found) == 1
    found[:, -1] = -1
    assert queries.recall(found) == pytest.approx(0.9)


def test_long_searches_are_timed_a_few_times(tmp_path: Path, corpus: np.ndarray) -> None:
    class Slow:
        searched = 0

        def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
            self.searched += 1
            return np.zeros((1, k)), np.zeros((1, k), int)

    slow, quick = Slow(), Slow()
    queries = Queries(stored(tmp_path, corpus))
    median_ms(slow, queries, seconds=0)
    median_ms(quick, queries)
    assert (slow.searched, quick.searched) == (1, 100)
