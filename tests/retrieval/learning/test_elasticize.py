"""A pretrained encoder made elastic, and the index of the original."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from small_world import SIDE, random_matvit

import matvit
from indexes.disk.manifest import read_manifest
from matvit.errors import BudgetError
from matvit.refitting.first_pass import elasticize
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.measuring.calibrate import calibrate


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
