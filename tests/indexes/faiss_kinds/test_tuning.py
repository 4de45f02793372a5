import dataclasses
from collections.abc import Callable
from typing import Any
from unittest.mock import ANY

import faiss
import numpy as np
import pytest
from clustered import clustered, stored

from indexes.faiss_kinds.recall import Measured, Queries, measure
from indexes.faiss_kinds.tuning import MOST_SETTINGS, tune


@pytest.fixture(scope="module")
def corpus() -> np.ndarray:
    return clustered(4000)


@pytest.fixture(scope="module")
def queries(tmp_path_factory: pytest.TempPathFactory, corpus: np.ndarray) -> Queries:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("indexes.faiss_kinds.recall._QUERIES", 300)
        return Queries(stored(tmp_path_factory.mktemp("corpus"), corpus))


def made(factory: str, corpus: np.ndarray) -> faiss.Index:
    index = faiss.index_factory(corpus.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(corpus)
    index.add(corpus)
    return index


def number(parameters: str, name: str) -> int:
    return int(dict(one.split("=") for one in parameters.split(","))[name])


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Measured]:
    """What is measured from now on."""
    tried: list[Measured] = []

    def measure_and_record(*what: Any, **options: Any) -> Measured:
        tried.append(measure(*what, **options))
        return tried[-1]

    monkeypatch.setattr("indexes.faiss_kinds.tuning.measure", measure_and_record)
    return tried


@pytest.mark.parametrize("factory, name, most", [("IVF64,Flat", "nprobe", 64), ("HNSW8", "efSearch", 512)])
def test_the_cheapest_that_reaches_the_target(
    corpus: np.ndarray, queries: Queries, factory: str, name: str, most: int
) -> None:
    index = made(factory, corpus)
    tuned = tune(index, factory, queries, recall_target=0.99, rerank=0)
    value = number(tuned.parameters, name)
    assert tuned.recall >= 0.99
    assert 1 < value < most / 2
    less = value - max(1, value // 8)
    assert measure(index, queries, rerank=0, parameters=f"{name}={less}").recall < 0.99


def test_the_index_is_left_with_what_was_chosen(corpus: np.ndarray, queries: Queries) -> None:
    index = made("IVF64,Flat", corpus)
    tuned = tune(index, "IVF64,Flat", queries, recall_target=0.9, rerank=0)
    assert tuned.parameters == f"nprobe={index.nprobe}"
    assert index.nprobe < 64


def test_every_list_is_in_reach(corpus: np.ndarray, queries: Queries) -> None:
    for factory in ("IVF64,Flat", "IVF1,Flat"):
        assert tune(made(factory, corpus), factory, queries, recall_target=1, rerank=0).recall == 1


def test_a_target_out_of_reach_ends_near_the_best_at_little_cost(
    corpus: np.ndarray, queries: Queries
) -> None:
    index = made("IVF64,PQ4x4", corpus)
    tuned = tune(index, "IVF64,PQ4x4", queries, recall_target=0.95, rerank=0)
    best = measure(index, queries, rerank=0, parameters="nprobe=64").recall
    assert 0.98 * best < tuned.recall < 0.95
    faiss.ParameterSpace().set_index_parameters(index, "nprobe=1")
    again = tune(index, "IVF64,PQ4x4", queries, recall_target=0.95, rerank=0)
    assert again == dataclasses.replace(tuned, query_ms=ANY)
    assert tuned.parameters == f"nprobe={index.nprobe}"
    assert number(tuned.parameters, "nprobe") <= 32


def test_rerank_is_part_of_what_is_tuned(corpus: np.ndarray, queries: Queries) -> None:
    tuned = tune(made("IVF64,PQ4x4", corpus), "IVF64,PQ4x4", queries, recall_target=0.95, rerank=300)
    assert tuned.recall >= 0.95


def test_several_parameters_reach_it_together_and_each_is_needed(
    corpus: np.ndarray, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = made("IVF64,PQ4x4,RFlat", corpus)
    tried = recorded(monkeypatch)
    tuned = tune(index, "IVF64,PQ4x4,RFlat", queries, recall_target=0.95, rerank=0)
    assert tuned.recall >= 0.95
    assert tuned in tried
    assert len(tried) < 30
    factor, lists = (number(tuned.parameters, name) for name in ("k_factor_rf", "nprobe"))
    assert factor > 1
    assert 1 < lists < 64
    for less in (f"k_factor_rf={factor / 2},nprobe={lists}", f"k_factor_rf={factor},nprobe={lists // 2}"):
        assert measure(index, queries, rerank=0, parameters=less).recall < 0.95


def test_what_has_nothing_to_tune_is_measured_once(
    corpus: np.ndarray, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = recorded(monkeypatch)
    tuned = tune(made("SQ8", corpus), "SQ8", queries, recall_target=1, rerank=0)
    assert tried == [tuned]
    assert tuned.parameters == ""
    assert 0.9 < tuned.recall < 1


def test_the_threshold_of_polysemous_codes_is_left_alone(corpus: np.ndarray, queries: Queries) -> None:
    index = faiss.index_factory(16, "IVF16,PQ4x4", faiss.METRIC_INNER_PRODUCT)
    index.do_polysemous_training = False
    index.train(corpus)
    index.add(corpus)
    assert "ht" not in tune(index, "IVF16,PQ4x4", queries, recall_target=0.5, rerank=0).parameters


class Oracle:
    """Stands in for measuring; recall follows from two parameters."""

    def __init__(self, recall: Callable[[int, int], float]) -> None:
        self.recall = recall
        self.tried: list[tuple[int, int]] = []

    def __call__(self, index: object, queries: Queries, *, rerank: int, parameters: str) -> Measured:
        factor, lists = (number(parameters, name) for name in ("k_factor_rf", "nprobe"))
        self.tried.append((factor, lists))
        return Measured(parameters=parameters, recall=self.recall(factor, lists), query_ms=1)


@pytest.fixture
def tuned_by(
    corpus: np.ndarray, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Oracle], tuple[int, int]]:
    def tuned(oracle: Oracle) -> tuple[int, int]:
        monkeypatch.setattr("indexes.faiss_kinds.tuning.measure", oracle)
        index = made("IVF64,Flat,RFlat", corpus)
        parameters = tune(index, "IVF64,Flat,RFlat", queries, recall_target=0.95, rerank=0).parameters
        return number(parameters, "k_factor_rf"), number(parameters, "nprobe")

    return tuned


def test_what_gains_most_is_raised(tuned_by: Callable[[Oracle], tuple[int, int]]) -> None:
    oracle = Oracle(lambda factor, lists: min(1, 0.2 + 0.1 * lists))
    assert tuned_by(oracle) == (1, 8)
    assert len(oracle.tried) == len(set(oracle.tried))
    assert max(factor for factor, _ in oracle.tried) == 2
    assert max(lists for _, lists in oracle.tried) == 8


def test_what_proves_needless_is_taken_back(tuned_by: Callable[[Oracle], tuple[int, int]]) -> None:
    known = {(1, 1): 0.5, (2, 1): 0.6, (1, 2): 0.55, (4, 1): 0.6, (2, 2): 0.7, (1, 4): 0.96, (2, 4): 0.97}
    assert tuned_by(Oracle(lambda factor, lists: known.get((factor, lists), 0.65))) == (1, 4)


def test_every_parameter_is_trimmed_between_the_values_of_faiss(
    tuned_by: Callable[[Oracle], tuple[int, int]],
) -> None:
    assert tuned_by(Oracle(lambda factor, lists: min(factor / 9, 1) * min(lists / 24, 1))) == (9, 24)


def test_the_cheapest_near_the_best(tuned_by: Callable[[Oracle], tuple[int, int]]) -> None:
    recalls = {1: 0.5, 2: 0.7, 4: 0.795}
    assert tuned_by(Oracle(lambda factor, lists: recalls.get(lists, 0.8))) == (1, 4)


def test_settings_are_bounded(
    tuned_by: Callable[[Oracle], tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    endless, short = (Oracle(lambda factor, lists: (factor * lists) / 1e6) for _ in range(2))
    tuned_by(endless)
    assert (64, 64) in endless.tried
    assert len(endless.tried) < MOST_SETTINGS
    monkeypatch.setattr("indexes.faiss_kinds.tuning.MOST_SETTINGS", 10)
    tuned_by(short)
    assert 10 <= len(short.tried) <= 11


def test_progress_counts_every_setting(
    corpus: np.ndarray, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried, told = recorded(monkeypatch), list[tuple[str, int, int | None]]()
    index = made("IVF64,Flat", corpus)
    tune(index, "IVF64,Flat", queries, recall_target=0.95, rerank=0, progress=lambda *step: told.append(step))
    assert told == [("settings tried of IVF64,Flat", i + 1, MOST_SETTINGS) for i in range(len(tried))]
    assert len(told) > 1
