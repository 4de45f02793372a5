"""Metrics and what they come to; that a new one is a function and a line."""

import numpy as np
import pytest

from retrieval.measuring.estimate import Share, mean_of, percentile
from retrieval.measuring.metrics.agreement import agreement
from retrieval.measuring.metrics.answers import Answers, Neighbours
from retrieval.measuring.summary import summarise, values_of

SUBMODELS, QUERIES, K = 3, 8, 4


@pytest.fixture
def answers() -> Answers:
    rng = np.random.default_rng(0)
    shape = (SUBMODELS * QUERIES, K)
    rows = np.stack([rng.permutation(50)[:K] for _ in range(shape[0])])
    found = Neighbours(
        rng.random(shape, np.float32), rows, rng.integers(0, 3, shape), rng.random(shape) < 0.5
    )
    return Answers(rng.standard_normal((SUBMODELS, QUERIES, 6)).astype(np.float32), found)


def margin(answers: Answers) -> dict[str, np.ndarray]:
    """A metric that somebody else wrote: how far the nearest is ahead of the next."""
    scores = answers.by_submodel(answers.neighbours.scores)
    return {"margin": scores[:, :, 0] - scores[:, :, 1], "clear": scores[:, :, 0] > scores[:, :, 1]}


def test_booleans_become_shares_and_numbers_means(answers: Answers) -> None:
    values = values_of(answers, [agreement, margin])
    assert {"cosine", "equal_top1", "margin", "clear"} == set(values)  # 4 rows have no 10 in common
    for submodel, summary in enumerate(summarise(values)):
        assert summary["margin"] == mean_of(values["margin"][submodel])
        assert summary["clear"] == Share.of(values["clear"][submodel])
        assert summary["cosine_p5"] == percentile(values["cosine"][submodel], 5)
        assert "margin_p5" not in summary


def test_booleans_alone_need_no_resampling() -> None:
    assert summarise({"right": np.array([[True, False], [True, True]])}) == [
        {"right": Share(1, 2)},
        {"right": Share(2, 2)},
    ]
