"""Search by image at a budget."""

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import files_of, picture, random_matvit, shard_of
from timm.models import save_for_hf
from torch.utils.flop_counter import FlopCounterMode

import matvit
from indexes import Index, WrongEncoderError
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.errors import UnreadableImageError


def test_a_corpus_image_finds_itself_first(searcher: Searcher, corpus: Path) -> None:
    for file in files_of(corpus):
        first = searcher.query(file)[0]
        assert (first.key, first.path) == (file.relative_to(corpus).as_posix(), str(file))
        assert first.label == file.parent.name
        assert first.score == pytest.approx(1, abs=2e-3)


def test_path_bytes_and_image_find_the_same(searcher: Searcher, queries: Path) -> None:
    file = files_of(queries)[0]
    given = (file, str(file), file.read_bytes(), Image.open(file))
    results = [searcher.query(image, budget="M") for image in given]
    assert all(hits == results[0] for hits in results)


@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 12), number=st.integers(0, 99), k=st.integers(1, 100))
def test_hits_are_the_nearest_rows_best_first(searcher: Searcher, position: int, number: int, k: int) -> None:
    submodel = searcher.encoder.space.curve[position]
    image = picture("red", 1000 + number)
    hits = searcher.query(image, budget=submodel, k=k)
    (query,) = searcher.encoder.embed(searcher.encoder.preprocess(image)[None], submodel)
    scores = np.concatenate(list(searcher.index.vectors.blocks())) @ query
    best = np.argsort(-scores, kind="stable")[:k]
    assert len(hits) == min(k, 40)
    np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)
    for hit in hits:
        row = searcher.index.keys.index(hit.key)
        assert hit.score == pytest.approx(scores[row], abs=1e-5)
        assert (hit.path, hit.label) == (searcher.index.paths[row], searcher.index.labels[row])


def test_a_query_says_which_submodel_answered_and_what_it_cost(
    searcher: Searcher, checkpoint: Path, queries: Path
) -> None:
    encoder, file = searcher.encoder, files_of(queries)[0]
    for budget in ("S", "60%", "0.0006gmacs", "S*2+M*2", "100,100,120,128", encoder.space.full):
        hits = searcher.query(file, budget=budget)
        assert hits.submodel == encoder.submodel(budget)
        plain = matvit.load(checkpoint).extract(hits.submodel)
        plain.reset_classifier(0)
        with FlopCounterMode(display=False) as counter, torch.inference_mode():
            plain(torch.zeros(1, 3, 16, 16))
        assert hits.gmacs == counter.get_total_flops() / 2e9


def test_without_a_budget_the_full_encoder_answers_whatever_its_granularity_is_called(
    tmp_path: Path, corpus: Path
) -> None:
    matvit.save(random_matvit(0, granularities={"quarter": 0.25, "full": 1}), tmp_path / "model")
    build_index(open_source(corpus), Encoder.open(tmp_path / "model", device="cpu"), tmp_path / "index")
    searcher, file = Searcher.open(tmp_path / "index", device="cpu"), files_of(corpus)[0]
    hits = searcher.query(file)
    assert str(hits.submodel) == "full"
    assert hits.submodel == searcher.encoder.space.full
    assert hits[0].path == str(file)
    assert [each.submodel for each in searcher.query_batch([file, file])] == [hits.submodel] * 2
    with pytest.raises(matvit.BudgetError, match="write quarter full, 60%"):
        searcher.query(file, budget="XL")


def test_several_queries_in_one_pass_are_as_one_by_one(searcher: Searcher, queries: Path) -> None:
    files = files_of(queries)[:5]
    together = searcher.query_batch(files, budget="M", k=3)
    for hits, file in zip(together, files, strict=True):
        alone = searcher.query(file, budget="M", k=3)
        assert [hit.key for hit in hits] == [hit.key for hit in alone]


def test_every_point_of_the_curve_may_query_and_another_model_may_not(
    searcher: Searcher, index: Path, other_checkpoint: Path, queries: Path
) -> None:
    for submodel in searcher.encoder.space.curve:
        assert searcher.query(files_of(queries)[0], budget=submodel).submodel == submodel
    needed = searcher.index.manifest.encoder.weights_sha256
    with pytest.raises(WrongEncoderError, match=f"needs matvit_tiny_patch16_224 .weights {needed[:12]}"):
        Searcher.open(index, model=other_checkpoint)
    with pytest.raises(WrongEncoderError):
        Searcher(Index.open(index), Encoder.open(other_checkpoint))


@pytest.mark.parametrize(
    "what, reason",
    [
        ("text", "not an image"),
        ("empty", "empty file"),
        ("truncated", "truncated image|corrupt image"),
        ("fifo", "FIFO"),
        ("folder", "is a directory"),
        ("gone", "no such file"),
        ("shard", "not an image"),
        ("line", "too elongated"),
    ],
)
def test_an_unreadable_query_is_named(
    searcher: Searcher, corpus: Path, tmp_path: Path, what: str, reason: str
) -> None:
    file = tmp_path / "query.png"
    match what:
        case "text":
            file.write_text("no image")
        case "empty":
            file.touch()
        case "truncated":
            file.write_bytes(files_of(corpus)[1].read_bytes()[:-40])
        case "fifo":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "shard":
            shard_of(file, files_of(corpus)[:3])
        case "line":
            Image.new("RGB", (20_000, 2)).save(file)
    with pytest.raises(UnreadableImageError, match=f"{file}: .*({reason})"):
        searcher.query(file)


def test_an_index_remembers_a_name_as_a_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, corpus: Path
) -> None:
    name = "matvit-b16-in1k"
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    matvit.save(random_matvit(3), tmp_path / "cache" / "published" / name)
    encoder = Encoder.open(name, device="cpu")
    build_index(open_source(corpus), encoder, tmp_path / "index")
    searcher = Searcher.open(tmp_path / "index", device="cpu")
    assert searcher.encoder.location == name
    assert searcher.query(files_of(corpus)[0], budget="S").submodel == encoder.space.smallest


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"])
def test_a_plain_timm_encoder_can_make_an_index(name: str, tmp_path: Path, corpus: Path) -> None:
    size = 28 if "eva" in name else 32
    plain = timm.create_model(
        name, img_size=size, depth=2, pretrained_cfg_overlay={"input_size": (3, size, size)}
    )
    save_for_hf(plain, str(tmp_path / "model"), safe_serialization=True)
    encoder = Encoder.open(tmp_path / "model", device="cpu", dtype="fp32")
    build_index(open_source(corpus), encoder, tmp_path / "index")
    file = files_of(corpus)[0]
    hits = Searcher.open(tmp_path / "index", device="cpu", dtype="fp32").query(file, budget="XL", k=1)
    assert hits[0].path == str(file)
    assert hits[0].score == pytest.approx(1, abs=2e-3)
