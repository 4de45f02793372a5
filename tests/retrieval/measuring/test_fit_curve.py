"""The measured curve: what is kept of what was checked, and what budgets then mean."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from entries import keys_of
from small_world import files_of, random_matvit

import matvit
from indexes import Index, UnknownKeyError
from matvit import SubmodelError
from matvit.errors import CheckpointError, UnknownModelError
from matvit.submodels.frontier import Axis
from retrieval import Encoder, Searcher, add_to_index
from retrieval.encoding.drawn_images import DrawnImages
from retrieval.measuring.against_full import why_poor
from retrieval.measuring.evaluate import evaluate
from retrieval.measuring.fit_curve import SENSED, FittedCurve, checked, fit_curve, fit_to_images, sense
from retrieval.measuring.plan import plan
from retrieval.measuring.worth_keeping import worth_keeping


@pytest.fixture(scope="module")
def fitted(plain: Encoder, drawn: DrawnImages) -> FittedCurve:
    return fit_curve(plain, drawn)


def test_sizes_are_whole_patches_below_the_own_one(plain: Encoder) -> None:
    smaller = plain.space.smaller_images
    assert [submodel.image_size for submodel in smaller] == [8, 12]  # Of 16, by patches of 4.
    assert all(submodel.widths == plain.space.full.widths for submodel in smaller)


def test_each_axis_is_measured_by_itself(plain: Encoder, drawn: DrawnImages) -> None:
    told: list[tuple[object, ...]] = []
    sensed = sense(plain, drawn, progress=lambda *each: told.append(each))
    assert told[-1][1:] == (2 + 4 * 2 + 4 * 3, 2 + 4 * 2 + 4 * 3)
    batch = torch.cat(drawn.check)[:SENSED]
    full = plain.embed(batch)

    def loss(budget: str, batch: torch.Tensor = batch) -> float:
        return float(((plain.embed(batch, plain.submodel(budget)) - full) ** 2).sum(1).mean())

    assert sensed.sizes == {
        None: 0,
        **{
            side: pytest.approx(loss(f"XL@{side}px", torch.cat(drawn.resized[side])[:SENSED]))
            for side in (12, 8)
        },
    }
    assert sensed.merges[1] == {
        1 / 16: pytest.approx(loss("XL~0+1+0*2")),
        1 / 4: pytest.approx(loss("XL~0+4+0*2")),
    }
    assert sensed.widths[2] == {
        128: 0,
        **{width: pytest.approx(loss(f"128*2+{width}+128")) for width in (16, 32, 64)},
    }


@pytest.mark.parametrize("axis", Axis)
def test_a_curve_may_differ_in_one_axis_alone(plain: Encoder, drawn: DrawnImages, axis: Axis) -> None:
    found = fit_curve(plain, drawn, axes=[axis])
    full = plain.space.full
    assert len(found.curve.points) > 1
    for point in found.curve.points:
        assert point.submodel.image_size is None or axis is Axis.SIZES
        assert not any(point.submodel.merges) or axis is Axis.MERGES
        assert point.submodel.widths == full.widths or axis is Axis.WIDTHS


def test_what_is_kept_is_worth_its_cost(fitted: FittedCurve, plain: Encoder) -> None:
    space, checked = plain.space, {point.submodel: point for point in fitted.curve.points}
    good = tuple(point for point in fitted.curve.points if why_poor(point) is None)
    worth = worth_keeping(replace(fitted.curve, points=good), space.full)
    assert any(why_poor(point) for point in checked.values())
    assert list(fitted.cosines) == [*(point.submodel for point in worth), space.full]
    assert all(fitted.cosines[point.submodel] == point["cosine"].value for point in worth)
    assert fitted.cosines[space.full] == 1
    assert set(space.mixnmatch[::2]) <= set(checked)
    assert set(space.smaller_images) <= set(checked)
    assert any(submodel.widths == space.full.widths and any(submodel.merges) for submodel in checked)
    assert any(not submodel.all_tokens for submodel in fitted.cosines)


def test_for_lessons_it_also_has_what_is_not_worth_using_yet(plain: Encoder, drawn: DrawnImages) -> None:
    submodels = plain.space.mixnmatch
    found = [checked(plain, drawn, submodels, even_poor=even_poor) for even_poor in (True, False)]
    poor = {point.submodel for point in found[0].curve.points if why_poor(point)}
    assert poor & found[0].cosines.keys()
    assert not poor & found[1].cosines.keys()


def test_the_curve_is_not_below_mixnmatch_but_by_chance(fitted: FittedCurve, plain: Encoder) -> None:
    points = {point.submodel: point for point in fitted.curve.points}
    for submodel in set(plain.space.mixnmatch) & set(points):
        limit = points[submodel].cost.macs
        within = [points[s] for s in fitted.cosines if points[s].cost.macs <= limit]
        if why_poor(points[submodel]) is None:
            dearest = max(within, key=lambda point: point.cost.macs)
            assert points[submodel]["cosine"].interval[0] <= dearest["cosine"].value


def test_an_encoder_of_one_size_whose_tokens_do_not_merge_has_widths(many: Path) -> None:
    size = {"input_size": (3, 16, 8)}
    model = random_matvit(0, img_size=(16, 8), global_pool="max", pretrained_cfg_overlay=size)
    encoder = Encoder(model, device=torch.device("cpu"), dtype=torch.float32)
    assert encoder.space.smaller_images == ()
    found = fit_curve(encoder, DrawnImages.read(str(many), encoder, fit=0, check=12))
    assert all(submodel.all_tokens for submodel in found.cosines)


# --- an index that keeps it ---


@pytest.fixture(scope="module")
def own(index: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Path(shutil.copytree(index, tmp_path_factory.mktemp("fitted") / "own.index"))
    fit_to_images(Searcher.open(place, device="cpu", dtype="fp32"), many, check=30).save(place)
    return place


def test_budgets_choose_from_the_curve_of_the_index(own: Path, index: Path, queries: Path) -> None:
    searcher = Searcher.open(own, device="cpu", dtype="fp32")
    space, cost = searcher.encoder.space, searcher.encoder.cost
    kept = Index.open(own).manifest.curve
    assert {str(submodel): cosine for submodel, cosine in space.measured.items()} == kept["cosines"]
    costs = [cost(submodel).macs for submodel in space.curve]
    assert costs == sorted(costs)
    assert kept["images"] == 30
    half = cost(space.full).macs / 2
    wanted = max((s for s in space.curve if cost(s).macs <= half), key=lambda s: cost(s).macs)
    assert searcher.query(files_of(queries)[0], budget="50%").submodel == wanted
    assert searcher.submodel("S") == space.uniform("S")
    before = Searcher.open(index, device="cpu", dtype="fp32")
    assert before.encoder.space.curve == before.encoder.space.mixnmatch == space.mixnmatch


def test_times_are_measured_along_the_curve(own: Path) -> None:
    encoder = Searcher.open(own, device="cpu", dtype="fp32").encoder
    profile = encoder.profile()
    assert [point.submodel for point in profile.points] == list(encoder.space.curve)
    assert all(point.measured for point in profile.points)
    assert encoder.submodel(f"{max(point.ms for point in profile.points) + 1}ms") == encoder.space.full


def test_evaluate_and_plan_show_the_curve_and_mixnmatch_on_request(own: Path, queries: Path) -> None:
    searcher = Searcher.open(own, device="cpu", dtype="fp32")
    space = searcher.encoder.space
    shown = {point.submodel for point in evaluate(searcher, queries).points}
    assert shown == set(space.curve)
    both = {point.submodel for point in evaluate(searcher, queries, ["all", "mixnmatch"]).points}
    assert both == {*space.curve, *space.mixnmatch}
    model = Index.open(own).manifest.checkpoint
    planned = plan(model, index=own)
    assert planned.submodels == space.curve
    assert [row["cosine"] for row in planned.to_dicts()] == list(space.measured.values())
    everything = plan(model, index=own, mixnmatch=True)
    assert set(everything.submodels) == both
    assert plan(model).submodels == space.mixnmatch


def test_the_curve_of_other_submodels_is_passed_over(
    own: Path, refitted: matvit.Elastic, tmp_path: Path
) -> None:
    matvit.save(refitted, tmp_path / "elastic")
    searcher = Searcher.open(own, model=tmp_path / "elastic", device="cpu", dtype="fp32")
    assert searcher.encoder.space.curve == searcher.encoder.space.mixnmatch


def test_other_widths_are_timed_themselves(own: Path) -> None:
    encoder = Searcher.open(own, device="cpu", dtype="fp32").encoder
    profile = encoder.profile([encoder.space.uniform("S"), encoder.submodel("M@8px")])
    assert profile.point(encoder.space.uniform("S")).measured
    assert profile.point(encoder.submodel("M@8px")).measured


def test_an_index_that_is_replaced_takes_its_curve_along(own: Path, index: Path, tmp_path: Path) -> None:
    place = Path(shutil.copytree(own, tmp_path / "index"))
    searcher = Searcher.open(place, device="cpu", dtype="fp32")
    assert searcher.encoder.space.measured
    shutil.rmtree(place)
    shutil.copytree(index, place)
    with pytest.raises(UnknownKeyError):
        searcher.query_key("no such key")
    assert not searcher.encoder.space.measured


def test_the_model_of_refits_is_planned_for_its_index(
    own: Path, refitted: matvit.Elastic, many: Path, tmp_path: Path
) -> None:
    elastic = tmp_path / "elastic"
    matvit.save(refitted, elastic)
    place = Path(shutil.copytree(own, tmp_path / "index"))
    assert plan(elastic, index=place).submodels == refitted.space.mixnmatch
    searcher = Searcher.open(place, model=elastic, device="cpu", dtype="fp32")
    found = fit_to_images(searcher, many, check=12)
    found.save(place)
    assert plan(elastic, index=place).submodels == tuple(found.cosines)


def test_rows_come_and_go_and_the_curve_stays(own: Path, tmp_path: Path, queries: Path) -> None:
    place = Path(shutil.copytree(own, tmp_path / "index"))
    curve = Index.open(place).manifest.curve
    add_to_index(place, queries, device="cpu", dtype="fp32")
    assert Index.open(place).manifest.curve == curve
    opened = Index.open(place)
    opened.remove(keys_of(opened)[:2], command="")
    assert Index.open(place).manifest.curve == curve


# --- a checkpoint that keeps it ---


def test_a_checkpoint_keeps_what_is_not_worth_using_and_says_it_once_when_asked_for_it(
    original: matvit.Elastic, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = matvit.elastic(original)
    model.poor = {model.submodel("S"): "S is not worth using: it loses 40.0 points of 1-NN"}
    matvit.save(model, tmp_path / "model")
    encoder = Encoder.open(tmp_path / "model", device="cpu", dtype="fp32")
    assert encoder.model.poor == model.poor
    for budget in ("M", "S", "S"):
        encoder.submodel(budget)
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path / 'model'}: S is not worth using: it loses 40.0 points of 1-NN"
    ]


def test_a_checkpoint_keeps_the_curve(fitted: FittedCurve, original: matvit.Elastic, tmp_path: Path) -> None:
    model = matvit.elastic(original)
    model.measured = dict(fitted.cosines)
    matvit.save(model, tmp_path / "model")
    loaded = matvit.load(tmp_path / "model")
    assert list(loaded.measured.items()) == list(fitted.cosines.items())
    assert loaded.space.curve == tuple(fitted.cosines)
    assert matvit.elastic(loaded).space.curve == tuple(fitted.cosines)
    assert original.space.curve == original.space.mixnmatch
    for submodel in loaded.space.curve[:3]:
        if not any(submodel.merges):
            assert not hasattr(loaded.extract(submodel), "measured")


@pytest.mark.parametrize(
    "curve",
    [
        *(["XL"], {"XL": "1"}, {"60%": 0.5}, {"XL*3": 0.5}, {"XL@7px": 0.5}, {"XL": True}, {"": 1}, 7),
        *({"S": 0.5}, {"XL": 10**400}, {"XL": float("nan")}, {"XL": 1, "XL@99999999996px": 0.5}),
    ],
    ids=str,
)
def test_a_damaged_curve_is_one_line(original: matvit.Elastic, tmp_path: Path, curve: object) -> None:
    matvit.save(original, tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    config["matvit"]["curve"] = curve
    (tmp_path / "model" / "config.json").write_text(json.dumps(config))
    with pytest.raises((CheckpointError, UnknownModelError, SubmodelError)) as caught:
        matvit.load(tmp_path / "model")
    assert "\n" not in str(caught.value)
