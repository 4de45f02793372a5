"""Every measure of an evaluation against its definition, query by query."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of, labels_of, paths_of, vectors_of
from small_index import DIM, ENCODER, build, origin, rows_of

from indexes import Index, IndexWriter
from indexes.faiss_kinds.options import KindOptions
from retrieval.encoding.encoder import Prediction
from retrieval.measuring import query_results
from retrieval.measuring.estimate import Estimate, Share
from retrieval.measuring.metrics.answers import Answers
from retrieval.measuring.neighbours import LabelledRows
from retrieval.measuring.query_results import QueryResults
from retrieval.sources.sample import Sample

ROWS, QUERIES, CLASSES = 700, 60, 5
LABELS = ["ant", "bee", "cat", None, "dog"]


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module", params=["Flat", "IVF8,PQ4x4"])
def index(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Index:
    rng = np.random.default_rng(0)
    out = tmp_path_factory.mktemp("results") / "x.index"
    rows = [{"key": f"{i}", "path": f"/{i}", "label": LABELS[rng.integers(len(LABELS))]} for i in range(ROWS)]
    with IndexWriter(out, ENCODER) as writer:
        writer.plan([("a", "")])
        writer.write_part(0, unit(rng.standard_normal((ROWS, DIM))), rows, [])
        writer.commit(origin(), KindOptions(factory=request.param))
    Index.open(out).remove([f"{i}" for i in range(0, ROWS, 9)], command="")
    return Index.open(out)


def samples_of(index: Index) -> list[Sample]:
    """Queries of which some are rows of the corpus, some removed rows, and one has a label of its own."""
    label_of = dict(zip(keys_of(index), labels_of(index), strict=True))
    own = [Sample(f"{i}", f"/{i}", label_of.get(f"{i}") or "ant", {}, b"") for i in range(QUERIES // 2)]
    labels = [["ant", "bee", "cat", "dog", "elk"][i % 5] for i in range(QUERIES - len(own))]
    return own + [Sample(f"q{i}", f"/q{i}", label, {}, b"") for i, label in enumerate(labels)]


@pytest.fixture(scope="module")
def predictions() -> list[Prediction]:
    """Of the full encoder, and of two that are ever less like it."""
    rng = np.random.default_rng(1)
    vectors, logits = rng.standard_normal((QUERIES, DIM)), rng.standard_normal((QUERIES, CLASSES))
    made = []
    for noise in (0.0, 0.2, 1.0):
        seen = logits + noise * rng.standard_normal(logits.shape)
        logs = seen - np.log(np.exp(seen).sum(axis=1, keepdims=True))
        made.append(
            Prediction(unit(vectors + noise * rng.standard_normal(vectors.shape)), logs.astype(np.float32))
        )
    return made


def measured(
    index: Index, samples: Sequence[Sample], predictions: Sequence[Prediction], step: int
) -> QueryResults:
    corpus = LabelledRows.of_store(index)
    results = QueryResults(index, corpus, len(predictions))
    for start in range(0, len(samples), step):
        some = slice(start, start + step)
        logs = [p.log_probabilities for p in predictions]
        results.add(
            samples[some],
            [
                Prediction(p.vectors[some], None if log is None else log[some])
                for p, log in zip(predictions, logs, strict=True)
            ],
        )
        if results.waiting > 100:
            results.search()
    results.search()
    return results


def oracle(index: Index, samples: Sequence[Sample], vectors: np.ndarray) -> tuple[dict[str, float], list]:
    """Measures, and the rows that each query finds, by a loop over queries."""
    corpus, labels = vectors_of(index), labels_of(index)
    names = list(zip(paths_of(index), keys_of(index), strict=True))
    values: dict[str, list[float]] = {}
    orders = []
    for sample, vector in zip(samples, vectors, strict=True):
        others = [i for i, name in enumerate(names) if name != (sample.path, sample.key)]
        scores = {i: float(corpus[i] @ vector) for i in others}
        order = sorted(others, key=lambda i: -scores[i])
        right = [labels[i] == sample.label for i in order]
        row = {"right": float(right[0])}
        for k in (10, 20, 100, 200):
            votes: dict[str, float] = {}
            for i in order[:k]:
                if (label := labels[i]) is not None:
                    votes[label] = votes.get(label, 0) + np.exp(scores[i] / 0.07)
            row[f"knn_{k}"] = max(votes, key=lambda label: votes[label]) == sample.label
        for k in (10, 100):
            row[f"recall_at_{k}"] = any(right[:k])
            precisions = [sum(right[: i + 1]) / (i + 1) for i in range(k) if right[i]]
            row[f"map_at_{k}"] = sum(precisions) / min(k, sum(right)) if any(right) else 0
        for name, value in row.items():
            values.setdefault(name, []).append(float(value))
        orders.append(order)
    return {name: float(np.mean(each)) for name, each in values.items()}, orders


@pytest.mark.parametrize("step", [7, 60])
def test_measures_are_those_of_a_loop_over_queries(
    index: Index, predictions: list[Prediction], step: int
) -> None:
    samples = samples_of(index)
    results = measured(index, samples, predictions, step)
    measures = results.measures()
    full, full_orders = oracle(index, samples, predictions[0].vectors)
    for i, (result, prediction) in enumerate(zip(measures, predictions, strict=True)):
        expected, orders = oracle(index, samples, prediction.vectors)
        right = expected.pop("right")
        assert results.right()[i].mean() == pytest.approx(right)
        assert results.nearest()[i].tolist() == [order[0] for order in orders]
        assert result["difference"].value == pytest.approx(right - full["right"])
        for name, value in expected.items():
            assert result[name].value == pytest.approx(value), name
        same = [a[0] == b[0] for a, b in zip(orders, full_orders, strict=True)]
        common = [len(set(a[:10]) & set(b[:10])) / 10 for a, b in zip(orders, full_orders, strict=True)]
        cosines = (prediction.vectors * predictions[0].vectors).sum(axis=1)
        p, q = (np.asarray(each.log_probabilities) for each in (predictions[0], prediction))
        assert result["equal_top1"].value == pytest.approx(np.mean(same))
        assert result["overlap_10"].value == pytest.approx(np.mean(common))
        assert result["cosine"].value == pytest.approx(cosines.mean(), abs=1e-6)
        assert result["cosine_p5"].value == pytest.approx(np.percentile(cosines, 5), abs=1e-6)
        assert result["equal_predictions"].value == (p.argmax(1) == q.argmax(1)).mean()
        assert result["divergence"].value == pytest.approx((np.exp(p) * (p - q)).sum(axis=1).mean(), abs=1e-6)


def test_the_full_encoder_agrees_with_itself(index: Index, predictions: list[Prediction]) -> None:
    first, *_, last = measured(index, samples_of(index), predictions, 60).measures()
    assert first["difference"] == Estimate(0, (0, 0))
    for name in ("equal_top1", "equal_predictions"):
        assert first[name] == Share(QUERIES, QUERIES)
        assert last[name].value < 1
    assert first["divergence"].value == pytest.approx(0, abs=1e-6)
    assert first["overlap_10"].value == 1
    for name, measure in last.items():
        low, high = measure.interval
        assert low <= measure.value <= high, name
        assert low < high, name


def test_an_approximate_kind_is_measured_as_it_searches(index: Index, predictions: list[Prediction]) -> None:
    samples = samples_of(index)
    result = measured(index, samples, predictions, 13).measures()[1]
    if index.manifest.kind.factory == "Flat":
        assert "index_1nn" not in result
        return
    found = index.search(predictions[1].vectors, 2).entries
    nearest = [
        next(entry for entry in two if (entry.path, entry.key) != (sample.path, sample.key))
        for two, sample in zip(found, samples, strict=True)
    ]
    right = [entry.label == sample.label for entry, sample in zip(nearest, samples, strict=True)]
    assert result["index_1nn"] == Share(sum(right), QUERIES)


def test_what_a_small_corpus_or_a_bare_encoder_lacks_is_left_out(tmp_path: Path) -> None:
    index = Index.open(build(tmp_path / "x.index", rows_of("a", 15, label="ant")))
    samples = [Sample("q", "/q", "ant", {}, b"")]
    rng = np.random.default_rng(0)
    [result] = measured(index, samples, [Prediction(unit(rng.standard_normal((1, DIM))), None)], 1).measures()
    of_neighbours = {"adaptive_1nn", "knn_10", "recall_at_10", "map_at_10", "equal_top1", "overlap_10"}
    assert set(result) == {"difference", "cosine", "cosine_p5"} | of_neighbours


def test_a_corpus_of_one_image_that_is_the_query(tmp_path: Path) -> None:
    index = Index.open(build(tmp_path / "x.index", rows_of("a", 1, label="ant")))
    own = Sample("a:0", "/a", "ant", {}, b"")
    vectors = vectors_of(index)
    results = measured(index, [own], [Prediction(vectors, None)], 1)
    assert not results.right().any()
    other = measured(index, [Sample("b", "/b", "ant", {}, b"")], [Prediction(vectors, None)], 1)
    assert other.right().all()


def test_a_new_metric_is_a_function_and_a_line(
    index: Index, predictions: list[Prediction], monkeypatch: pytest.MonkeyPatch
) -> None:
    def margin(answers: Answers) -> dict[str, np.ndarray]:
        scores_SQK = answers.by_submodel(answers.neighbours.scores)
        return {"margin": scores_SQK[:, :, 0] - scores_SQK[:, :, 1]}

    monkeypatch.setattr(query_results, "METRICS", (*query_results.METRICS, margin))
    samples = samples_of(index)
    for summary in measured(index, samples, predictions, 13).measures():
        low, high = summary["margin"].interval
        assert 0 <= low <= summary["margin"].value <= high
