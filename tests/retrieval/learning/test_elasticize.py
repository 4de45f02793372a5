"""Images drawn from a source, and submodels compared with the full encoder."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import CLASSES, SIDE, files_of, random_matvit, shard_of, write_folder

import matvit
from indexes.disk.manifest import read_manifest
from matvit import Submodel
from matvit.errors import BudgetError
from matvit.refitting.first_pass import elasticize
from matvit.submodels.cost import Cost
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.errors import ImageSourceError
from retrieval.learning.against_full import compare, why_poor
from retrieval.learning.drawn_images import DrawnImages
from retrieval.measuring.calibrate import calibrate
from retrieval.measuring.curve import Point
from retrieval.measuring.estimate import Estimate


def encoder_of(model):
    return Encoder(matvit.elastic(model), device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("many") / "images", 12)


@pytest.fixture(scope="module")
def original():
    return random_matvit(0)


@pytest.fixture(scope="module")
def plain(original):
    return encoder_of(original)


@pytest.fixture(scope="module")
def images(many, plain):
    return DrawnImages.read(str(many), plain, fit=40, check=20)


@pytest.fixture(scope="module")
def refitted(original, images):
    return elasticize(original, images.fit).model


# --- images ---


def test_images_to_fit_to_and_to_check_on_are_apart_and_mixed(images):
    fit, checked = torch.cat(images.fit), torch.cat(images.check)
    assert len(fit) == 40
    assert len(checked) == len(images.labels) == 20
    assert len(torch.cat([fit, checked]).flatten(1).unique(dim=0)) == 60
    assert len(set(images.labels)) > 2
    assert images.failures == ()


@pytest.mark.parametrize("count", [1, 32, 33, 40, 99])
def test_the_first_of_them(images, count):
    taken = torch.cat(images.first(count))
    assert torch.equal(taken, torch.cat(images.fit)[:count])


def test_the_draw_is_the_seeds(many, plain):
    one, same, other = (DrawnImages.read(str(many), plain, fit=10, check=5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(torch.cat(one.fit), torch.cat(same.fit))
    assert not torch.equal(torch.cat(one.fit), torch.cat(other.fit))


@pytest.mark.parametrize(
    "fit, checked, wanted", [(300, 200, (48, 12)), (50, 200, (48, 12)), (45, 200, (45, 15)), (20, 8, (20, 8))]
)
def test_a_fifth_at_least_is_left_to_check_on(many, plain, fit, checked, wanted):
    images = DrawnImages.read(str(many), plain, fit=fit, check=checked)
    assert (sum(map(len, images.fit)), sum(map(len, images.check))) == wanted


def test_only_what_was_drawn_is_read(many, plain, monkeypatch):
    read = []
    monkeypatch.setattr(
        "retrieval.sources.folder_walk.read_regular", lambda path: read.append(path) or path.read_bytes()
    )
    DrawnImages.read(str(many), plain, fit=10, check=5, workers=0)
    assert len(read) == 15
    assert len({path.parent.name for path in read}) > 2


def test_shards_and_images_without_labels(many, plain, tmp_path):
    files = files_of(many)
    shard_of(tmp_path / "a.tar", files[:20])
    shard_of(tmp_path / "b.tar", files[20:])
    images = DrawnImages.read(str(tmp_path), plain, fit=10, check=10)
    assert sum(map(len, images.fit)) == 10
    assert set(images.labels) <= set(CLASSES)
    (tmp_path / "flat").mkdir()
    for number, file in enumerate(files[:6]):
        (tmp_path / "flat" / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    assert DrawnImages.read(str(tmp_path / "flat"), plain, fit=10, check=10).labels is None


def test_what_cannot_be_read_is_told_and_too_few_are_an_error(many, plain, tmp_path):
    for number, file in enumerate(files_of(many)[:4]):
        (tmp_path / f"{number}{file.suffix}").write_bytes(file.read_bytes())
    (tmp_path / "broken.png").write_bytes(b"no image")
    images = DrawnImages.read(str(tmp_path), plain, fit=10, check=10)
    assert [failure.key for failure in images.failures] == ["broken.png"]
    assert (sum(map(len, images.fit)), sum(map(len, images.check))) == (2, 2)
    (tmp_path / "0.jpg").unlink()
    with pytest.raises(ImageSourceError, match="3 images that can be read are too few"):
        DrawnImages.read(str(tmp_path), plain, fit=10, check=10)


# --- the report ---


def test_a_report_says_what_ten_lines_of_numpy_say(plain, refitted, images):
    encoder = encoder_of(refitted)
    submodel = encoder.submodel("S*2+M*2")
    curve = compare(encoder, plain, images, [encoder.space.full, submodel, encoder.submodel("M")])
    assert [str(point.submodel) for point in curve.points] == ["S*2+M*2", "M", "XL"]
    batch = torch.cat(images.check)
    full, small = (encoder.embed(batch, each) for each in (None, submodel))
    value = {name: measure.value for name, measure in curve.points[0].measures.items()}
    assert value["cosine"] == pytest.approx((full * small).sum(1).mean(), abs=1e-6)
    assert value["cosine_p5"] == pytest.approx(np.percentile((full * small).sum(1), 5), abs=1e-6)
    near, wanted = [], []
    for query in range(len(batch)):
        others = [row for row in range(len(batch)) if row != query]
        near.append(sorted(others, key=lambda row: -small[query] @ full[row]))
        wanted.append(sorted(others, key=lambda row: -full[query] @ full[row]))
    same = [a[0] == b[0] for a, b in zip(near, wanted, strict=True)]
    common = [len({*a[:10]} & {*b[:10]}) / 10 for a, b in zip(near, wanted, strict=True)]
    assert value["equal_top1"] == pytest.approx(np.mean(same))
    assert value["overlap_10"] == pytest.approx(np.mean(common))
    right, best = ([images.labels[a[0]] for a in each] == images.labels for each in (near, wanted))
    assert value["adaptive_1nn"] == pytest.approx(right.mean())
    assert value["difference"] == pytest.approx(right.mean() - best.mean())
    slice_of_m = (plain.embed(batch, plain.submodel("M")) * full).sum(1).mean()
    assert curve.points[1].measures["slice_cosine"].value == pytest.approx(slice_of_m, abs=1e-6)
    assert "slice_cosine" not in value
    assert curve.points[2].measures["cosine"].value == pytest.approx(1, abs=1e-6)


def test_a_table_has_the_same_columns_in_every_row(plain, refitted, images):
    encoder = encoder_of(refitted)
    table = compare(encoder, plain, images, encoder.space.curve).table()
    assert len(table) == len(encoder.space.curve)
    assert len({tuple(row) for row in table}) == 1
    assert table[0]["queries"] == 20
    assert table[0]["slice_cosine"] != ""
    assert table[1]["slice_cosine"] == ""


@pytest.mark.parametrize(
    "measures, said",
    [
        ({"cosine": 0.95}, None),
        ({"cosine": 0.85}, "S is not worth using: its cosine to the full encoder is 0.85"),
        ({"cosine": 0.85, "difference": -0.01}, None),
        ({"cosine": 0.99, "difference": -0.08}, "S is not worth using: it loses 8.0 points of 1-NN"),
        ({"cosine": 0.97, "slice_cosine": 0.98}, "S is no closer to the full encoder than a plain slice"),
    ],
    ids=str,
)
def test_what_is_not_worth_using_is_said(measures, said):
    estimates = {name: Estimate(value, (value, value)) for name, value in measures.items()}
    warning = why_poor(Point(Submodel((1, 1), labels=("S", "S")), Cost(1, 1), 0.5, estimates))
    assert (warning or "").startswith(said or "")
    assert (warning is None) == (said is None)


# --- the index of the original ---


def test_the_originals_index_takes_queries_of_submodels(original, refitted, many, tmp_path: Path):
    for name, model in (("original", original), ("elastic", refitted)):
        matvit.save(model, tmp_path / name)
    before = Encoder.open(tmp_path / "original", device="cpu", dtype="fp32")
    build_index(open_source(many), before, tmp_path / "index")
    manifest = read_manifest(tmp_path / "index")
    searcher = Searcher.open(tmp_path / "index", model=tmp_path / "elastic", device="cpu", dtype="fp32")
    query = Image.new("RGB", (SIDE, SIDE), "red")
    sliced = Searcher.open(tmp_path / "index", device="cpu", dtype="fp32")
    full, refit, plain_slice = (
        each.query(query, budget=budget, k=3)
        for each, budget in ((searcher, "XL"), (searcher, "M"), (sliced, "M"))
    )
    assert [hit.score for hit in full] == [hit.score for hit in sliced.query(query, budget="XL", k=3)]
    assert [hit.score for hit in refit] != [hit.score for hit in plain_slice]
    assert read_manifest(tmp_path / "index") == manifest


def test_what_was_calibrated_for_slices_is_not_auto_for_refits(original, refitted, many, tmp_path: Path):
    for name, model in (("original", original), ("elastic", refitted)):
        matvit.save(model, tmp_path / name)
    own = tmp_path / "index"
    build_index(open_source(many), Encoder.open(tmp_path / "original", device="cpu", dtype="fp32"), own)
    query = Image.new("RGB", (SIDE, SIDE), "red")

    def searcher(model: str) -> Searcher:
        return Searcher.open(own, model=tmp_path / model, device="cpu", dtype="fp32")

    for one, other in (("original", "elastic"), ("elastic", "original")):
        found = calibrate(searcher(one), open_source(many), max_drop=0.9)
        found.save(own)
        assert searcher(one).query(query, budget="auto").submodel == found.submodel
        with pytest.raises(BudgetError, match="was found for other submodels of the same full encoder"):
            searcher(other).query(query, budget="auto")


def test_the_index_of_another_model_is_refused(refitted, index, tmp_path: Path):
    other = elasticize(random_matvit(1), [torch.randn(6, 3, SIDE, SIDE)]).model
    matvit.save(other, tmp_path / "other")
    with pytest.raises(ValueError, match="weights"):
        Searcher.open(index, model=tmp_path / "other", device="cpu", dtype="fp32")
