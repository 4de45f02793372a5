"""How many queries a promise takes: the same sentence and numbers before the work and after."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_world import CLASSES, files_of, shard_of

from retrieval import open_source
from retrieval.errors import EvaluationError
from retrieval.measuring.enough_queries import EnoughQueries, before_reading, checks
from retrieval.measuring.paired_test import Comparison, queries_needed

PROMISE = {"max_drop": 0.2, "confidence": 0.95, "held_out": 0.0}
KEYS = [f"cat/{number}.png" for number in range(4000)]


def enough_of(failed: Comparison | None) -> EnoughQueries:
    return EnoughQueries.of(np.arange(10_000) >= 5006, 0.5, 0.005, 0.95, failed)


def test_the_sentence_before_the_work() -> None:
    assert str(enough_of(None)) == (
        "5006 labelled queries choose and 4994 check; to promise a drop below 0.5 points takes 599 that "
        "choose if a submodel and XL never disagree, and more if they do"
    )


def test_the_sentence_after_the_work() -> None:
    enough = enough_of(Comparison(1, losses=125, gains=125, queries=5006, p_value=0.0576))
    assert enough.next == queries_needed(0.005, loss_rate=125 / 5006, gain_rate=125 / 5006)
    assert str(enough) == (
        "5006 labelled queries choose and 4994 check; to promise a drop below 0.5 points takes 599 that "
        f"choose if a submodel and XL never disagree, about {enough.next} if they disagree on 5.0% of them "
        "and lose 0.00 points, as here"
    )


def test_the_page_shows_this_sentence_and_these_numbers() -> None:
    page = " ".join((Path(__file__).parents[3] / "docs" / "measure.md").read_text().split())
    assert str(enough_of(Comparison(1, losses=125, gains=125, queries=5006, p_value=0.0576))) in page
    half, whole, two = (queries_needed(drop) for drop in (0.005, 0.01, 0.02))
    assert f"Half a point takes {half} queries that choose, a whole one {whole}, two points {two}" in page


def test_a_drop_for_which_no_number_is_enough() -> None:
    enough = enough_of(Comparison(1, losses=60, gains=10, queries=5006, p_value=0.99))
    assert enough.next is None
    assert str(enough).endswith(
        "and no number is enough if they disagree on 1.4% of them and lose 1.00 points, as here"
    )


@pytest.mark.parametrize(
    "held_out, remedy",
    [
        (0, "label about 599 in all or allow a larger --max-drop"),
        (0.5, "label about 1198 in all, hold out fewer (--held-out) or allow a larger --max-drop"),
    ],
)
def test_what_would_be_enough(held_out: float, remedy: str) -> None:
    enough = EnoughQueries.of(checks(KEYS[:100], held_out), held_out, 0.005, 0.95)
    with pytest.raises(EvaluationError, match=f"takes 599 that choose .*; {re.escape(remedy)}$"):
        enough.require()
    replace(enough, choosing=599).require()
    with pytest.raises(EvaluationError, match=r"^598 labelled"):
        replace(enough, choosing=598).require()


def test_keys_decide_who_checks() -> None:
    checks_Q = checks(KEYS, 0.3)
    assert checks_Q.mean() == pytest.approx(0.3, abs=0.03)
    assert (checks(KEYS[::-1], 0.3)[::-1] == checks_Q).all()
    assert not (checks_Q & ~checks(KEYS, 0.6)).any()
    assert not checks(KEYS, 0).any()


def test_only_labels_of_the_corpus_count(queries: Path) -> None:
    source = open_source(queries, labels=True)
    found = before_reading(source, CLASSES, **PROMISE)
    assert found is not None
    assert (found.choosing, found.checking) == (20, 0)
    found = before_reading(source, CLASSES[:4], **PROMISE)
    assert found is not None
    assert found.choosing == 16
    with pytest.raises(EvaluationError, match=r"^12 labelled queries choose and 0 check, which is too few"):
        before_reading(source, CLASSES[:3], **PROMISE)
    with pytest.raises(
        EvaluationError, match=r"none of the queries' labels .blue, checks, green, .* of another"
    ):
        before_reading(source, ["cat"], **PROMISE)


def test_queries_without_labels_are_told_before_they_are_read(queries: Path) -> None:
    with pytest.raises(EvaluationError, match="has a label: use one subfolder a class"):
        before_reading(open_source(queries, labels=False), CLASSES, **PROMISE)


def test_nothing_is_said_where_only_reading_tells(queries: Path, tmp_path: Path) -> None:
    shard = shard_of(tmp_path / "q.tar", files_of(queries)[:3])
    assert before_reading(open_source(shard), CLASSES, **PROMISE) is None
    # The evaluation says what is wrong with the corpus.
    assert before_reading(open_source(queries, labels=True), [], **PROMISE) is None
