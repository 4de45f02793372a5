"""The budget `auto`: chosen by some queries, checked by others, kept with the index."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of
from numpy.typing import NDArray
from small_world import files_of, shard_of
from watched import Watched

from indexes import Index, verify
from indexes.directory.change import gather
from matvit import Submodel
from matvit.errors import BudgetError
from retrieval import Searcher, open_source
from retrieval.errors import EvaluationError
from retrieval.measuring.calibrate import calibrate
from retrieval.measuring.evaluate import evaluate
from retrieval.measuring.outcomes import Outcomes
from retrieval.measuring.paired_test import choose, queries_needed


@pytest.fixture
def own(index: Path, tmp_path: Path) -> Path:
    """An index that may be changed."""
    return Path(shutil.copytree(index, tmp_path / "own.index"))


@pytest.mark.parametrize("max_drop", [0.2, 0.4, 0.9])
def test_all_queries_choose_as_their_outcomes_say(searcher: Searcher, queries: Path, max_drop: float) -> None:
    curve = searcher.encoder.space.curve
    found = calibrate(searcher, open_source(queries), max_drop=max_drop, held_out=0)
    right = evaluate(searcher, open_source(queries), curve).right
    choice = choose(right[-1], right[-2::-1], max_drop)
    assert found.submodel == curve[::-1][choice.column]
    assert [c for _, c in found.comparisons] == list(choice.comparisons)
    assert found.share_of_full == pytest.approx(
        searcher.encoder.cost(found.submodel).macs / searcher.encoder.cost(curve[-1]).macs
    )
    assert (found.queries, found.check_queries, found.checked) == (20, 0, None)


def test_queries_that_check_have_no_part_in_the_choice(searcher: Searcher, queries: Path) -> None:
    result = evaluate(searcher, open_source(queries), searcher.encoder.space.curve)
    halves = [calibrate(searcher, open_source(queries), max_drop=0.6) for _ in range(2)]
    assert halves[0] == halves[1]
    found = halves[0]
    assert found.queries + found.check_queries == 20
    assert 4 <= found.queries <= 16
    place = [point.submodel for point in result.points].index(found.submodel)
    drops = result.right[-1].astype(int) - result.right[place]
    chosen = next((c for s, c in found.comparisons if s == found.submodel), None)
    losses_less_gains = chosen.losses - chosen.gains if chosen else 0
    assert found.checked
    assert drops.sum() == losses_less_gains + round(found.checked.value * found.check_queries)


def test_the_index_keeps_it(own: Path, queries: Path) -> None:
    searcher = Searcher.open(own, device="cpu", dtype="fp32")
    image = next(queries.rglob("*.png"))
    with pytest.raises(BudgetError, match="has no budget auto yet: find one with `matvit calibrate QUERIES"):
        searcher.query(image, budget="auto")
    before = {file.name: file.read_bytes() for file in own.rglob("*") if file.is_file()}
    found = calibrate(searcher, open_source(queries), max_drop=0.9)
    assert found.submodel != searcher.encoder.space.full
    found.save(own)
    after = {file.name: file.read_bytes() for file in own.rglob("*") if file.is_file()}
    assert {name for name in before if before[name] != after[name]} == {"manifest.json"}
    assert verify(own) == []
    again = Searcher.open(own, device="cpu", dtype="fp32")
    hits = again.query(image, budget="auto")
    assert hits.submodel == found.submodel
    assert [hit.key for hit in hits] == [hit.key for hit in searcher.query(image, budget=found.submodel)]
    calibration = again.index.manifest.calibration
    assert calibration == {**found.record(), "rows": 40}


def test_it_stays_while_rows_come_and_go_but_not_in_a_merge(own: Path, queries: Path, tmp_path: Path) -> None:
    searcher = Searcher.open(own, device="cpu", dtype="fp32")
    calibrate(searcher, open_source(queries), max_drop=0.9).save(own)
    kept = Index.open(own).manifest.calibration
    Index.open(own).remove(keys_of(Index.open(own))[:3], command="")
    assert Index.open(own).manifest.calibration == kept
    gather([own], own, command="")
    assert Index.open(own).manifest.calibration == kept
    other = shutil.copytree(own, tmp_path / "other.index")
    keys = keys_of(Index.open(own))
    Index.open(own).remove(keys[:20], command="")
    Index.open(other).remove(keys[20:], command="")
    gather([own, other], tmp_path / "both.index", command="")
    assert Index.open(tmp_path / "both.index").manifest.calibration is None


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[Submodel]:
    """The submodels below the full encoder that queries are embedded by, as they are."""
    submodels: list[Submodel] = []
    of = Outcomes.of

    def recorded(self: Outcomes, submodel: Submodel) -> NDArray[np.bool_]:
        submodels.append(submodel)
        return of(self, submodel)

    monkeypatch.setattr(Outcomes, "of", recorded)
    return submodels


@pytest.mark.parametrize("held_out", [0, 0.5])
def test_too_few_queries_are_refused_before_any_is_read(
    searcher: Searcher, queries: Path, held_out: float
) -> None:
    told: list[tuple[object, ...]] = []
    with pytest.raises(EvaluationError, match=r"too few: .* takes 149 that choose"):
        calibrate(
            searcher, queries, max_drop=0.02, held_out=held_out, progress=lambda *each: told.append(each)
        )
    assert told == []


def test_where_only_reading_tells_too_few_are_refused_after_xl(
    searcher: Searcher, queries: Path, tmp_path: Path, ran: list[Submodel]
) -> None:
    shard = shard_of(tmp_path / "q.tar", files_of(queries))
    read = Watched("images embedded")
    with pytest.raises(EvaluationError, match=r"^20 labelled queries choose and 0 check, which is too few"):
        calibrate(searcher, shard, max_drop=0.02, held_out=0, progress=read)
    assert (read.done[0], read.done[-1], ran) == (0, 20, [])


def test_queries_that_could_not_be_read_are_told_where_too_few_are_left(
    searcher: Searcher, queries: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(queries, tmp_path / "queries")
    for image in files_of(own)[5:]:
        image.write_bytes(b"broken")
    with pytest.raises(EvaluationError, match=r"^5 labelled queries choose and 0 check \(15 not readable\)"):
        calibrate(searcher, own, max_drop=0.2, held_out=0)


def test_no_submodel_runs_after_the_first_that_fails(
    searcher: Searcher, queries: Path, ran: list[Submodel]
) -> None:
    found = calibrate(searcher, open_source(queries), max_drop=0.2, held_out=0)
    assert ran == [submodel for submodel, _ in found.comparisons]
    assert ran == list(searcher.encoder.space.curve[-2 : -2 - len(ran) : -1])
    last = found.comparisons[-1][1]
    assert last.p_value > 0.05
    rate = {"loss_rate": last.losses / last.queries, "gain_rate": last.gains / last.queries}
    assert (found.enough.failed, found.enough.next) == (last, queries_needed(0.2, **rate))
    assert found.enough.fewest == queries_needed(0.2)
    told = found.to_dict()
    assert told["queries_needed_at_least"] == found.enough.fewest
    assert told["queries_needed_for_the_next"] == found.enough.next


def test_outcomes_are_those_of_an_evaluation(searcher: Searcher, queries: Path, corpus: Path) -> None:
    curve = searcher.encoder.space.curve
    for asked in (queries, corpus):  # The second are searched without themselves.
        outcomes = Outcomes(searcher, open_source(asked), batch_size=7)
        whole = evaluate(searcher, open_source(asked), curve)
        assert outcomes.samples == whole.samples
        assert (outcomes.right == whole.right[-1]).all()
        assert (outcomes.of(curve[2]) == whole.right[2]).all()


@pytest.mark.parametrize("wrong", [{"max_drop": 0}, {"confidence": 1}, {"held_out": 1}, {"max_drop": 1.5}])
@pytest.mark.parametrize("in_a_shard", [False, True])
def test_numbers_out_of_range_are_refused_before_the_work(
    searcher: Searcher, queries: Path, tmp_path: Path, wrong: dict[str, float], in_a_shard: bool
) -> None:
    asked = shard_of(tmp_path / "q.tar", files_of(queries)) if in_a_shard else queries
    with pytest.raises(ValueError, match="must be above"):
        calibrate(searcher, asked, **{"max_drop": 0.1, **wrong}, progress=pytest.fail)
