"""Search by image at a budget."""

import os
import threading
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import timm
import torch
from counting import counting
from entries import keys_of, labels_of, paths_of, vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from small_world import CLASSES, files_of, picture, random_matvit, shard_of
from timm.models import save_for_hf

import matvit
import retrieval.searcher
from indexes import FilterError, Index, UnknownKeyError, WrongEncoderError
from indexes.directory.change import gather
from matvit.vision.embedding import embed_only
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.encoding.preprocess import Preprocess
from retrieval.errors import UnreadableImageError
from retrieval.hits import Hit, Hits
from retrieval.sources.decode import Reading


def test_a_corpus_image_finds_itself_first(searcher: Searcher, corpus: Path) -> None:
    for file in files_of(corpus):
        first = searcher.query(file)[0]
        assert (first.key, first.path) == (file.relative_to(corpus).as_posix(), str(file))
        assert first.label == file.parent.name
        assert first.score == pytest.approx(1, abs=2e-3)


def test_no_images_find_nothing_and_a_batch_is_one_tensor(searcher: Searcher, queries: Path) -> None:
    assert searcher.query_batch([]) == []
    batch = torch.stack([torch.from_numpy(np.array(Image.open(f).convert("RGB"))) for f in files_of(queries)])
    assert searcher.query_batch(batch.permute(0, 3, 1, 2)) == searcher.query_batch(files_of(queries))


@pytest.mark.parametrize("budget", [0.6, 60, True, ("S", "M")], ids=repr)
def test_a_budget_that_is_no_text_is_one_line(searcher: Searcher, queries: Path, budget: object) -> None:
    with pytest.raises(
        matvit.BudgetError, match="a budget is a text such as '60%' or 'M', or a Submodel; got"
    ):
        searcher.query(files_of(queries)[0], budget=budget)


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
    scores = vectors_of(searcher.index) @ query
    best = np.argsort(-scores, kind="stable")[:k]
    assert len(hits) == min(k, 40)
    np.testing.assert_allclose([hit.score for hit in hits], scores[best], atol=1e-5)
    for hit in hits:
        row = keys_of(searcher.index).index(hit.key)
        assert hit.score == pytest.approx(scores[row], abs=1e-5)
        assert (hit.path, hit.label) == (paths_of(searcher.index)[row], labels_of(searcher.index)[row])


def test_a_query_says_which_submodel_answered_and_what_it_cost(
    searcher: Searcher, checkpoint: Path, queries: Path
) -> None:
    encoder, file = searcher.encoder, files_of(queries)[0]
    for budget in ("S", "60%", "0.0006gmacs", "S*2+M*2", "100,100,120,128", encoder.space.full):
        hits = searcher.query(file, budget=budget)
        assert hits.submodel == encoder.submodel(budget)
        model = matvit.load(checkpoint)
        embed_only(model)
        with counting() as counter, torch.inference_mode():
            model(torch.zeros(1, 3, 16, 16), hits.submodel)
        assert hits.gmacs == counter.get_total_flops() / 2e9


@pytest.mark.parametrize("budget", ["M@8px", "XL~8+4+0*2", "L~4@12px"])
def test_a_query_may_read_a_smaller_image_or_merge_tokens(
    searcher: Searcher, encoder: Encoder, queries: Path, budget: str
) -> None:
    files = files_of(queries)[:3]
    submodel = encoder.submodel(budget)
    preprocess = encoder.preprocess_for(submodel)
    vectors = encoder.embed(torch.stack([preprocess(file) for file in files]), submodel)
    wanted = searcher.query_vectors(vectors, k=3)
    for hits, other in zip(searcher.query_batch(files, budget=budget, k=3), wanted, strict=True):
        assert hits.hits == other.hits
        assert str(hits.submodel) == budget
        assert hits.cost == encoder.cost(submodel)
        assert hits.cost.macs < encoder.cost(encoder.space.full).macs


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


def test_a_clip_tower_is_indexed_as_projected_and_what_came_before_is_refused(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"embed_dim": 64, "depth": 2, "num_heads": 2, "img_size": 32, "patch_size": 16}
    model, old, new = (tmp_path / name for name in ("tower", "old.index", "new.index"))
    torch.manual_seed(0)
    matvit.save(matvit.elastic("vit_base_patch32_clip_224.openai", **small), model)
    with monkeypatch.context() as patch:
        for module in ("matvit.vision.projection", "matvit.weights.checkpoint", "retrieval.encoding.encoder"):
            patch.setattr(f"{module}.projection_of", lambda _: None)
        build_index(open_source(corpus), Encoder.open(model, device="cpu", dtype="fp32"), old)
    assert Index.open(old).manifest.encoder.embed_dim == 64
    with pytest.raises(WrongEncoderError, match="before its projection to 512 numbers: build it again"):
        Searcher.open(old, device="cpu")
    build_index(open_source(corpus), Encoder.open(model, device="cpu", dtype="fp32"), new)
    searcher, file = Searcher.open(new, device="cpu"), files_of(corpus)[0]
    assert searcher.index.manifest.encoder.embed_dim == 512
    assert searcher.query(file)[0].score == pytest.approx(1, abs=2e-3)
    stored = vectors_of(searcher.index)[[paths_of(searcher.index).index(str(file))]]
    embedded = searcher.encoder.embed(searcher.encoder.preprocess(file)[None])
    np.testing.assert_allclose(stored, embedded, atol=1e-3)


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


@pytest.fixture(scope="module")
def plain_index(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by an encoder that is not nested."""
    place = tmp_path_factory.mktemp("plain")
    model = random_matvit(0)
    matvit.save(model.extract(model.space.full), place / "model")
    build_index(
        open_source(corpus), Encoder.open(place / "model", device="cpu", dtype="fp32"), place / "index"
    )
    return place / "index"


def test_budgets_of_an_encoder_that_is_not_nested_shrink_images(plain_index: Path, queries: Path) -> None:
    searcher = Searcher.open(plain_index, device="cpu", dtype="fp32")
    hits = searcher.query(files_of(queries)[0], budget="60%")
    assert str(hits.submodel) == "XL@12px"


def test_narrower_layers_of_such_an_encoder_answer_only_if_forced(plain_index: Path, queries: Path) -> None:
    searcher, file = Searcher.open(plain_index, device="cpu", dtype="fp32"), files_of(queries)[0]
    for budget in ("M", "S*2+XL*2", "M@12px"):
        with pytest.raises(matvit.BudgetError, match="never trained, refitted or measured: run `matvit elas"):
            searcher.query(file, budget=budget)
        forced = searcher.submodel(budget, force=True)
        assert searcher.query(file, budget=forced).submodel == forced


# --- among some rows, near enough, by key, by vector ---


@pytest.fixture
def doubles(encoder: Encoder, tmp_path: Path) -> Searcher:
    """Five pictures, of which 1.png is there three times."""
    (tmp_path / "photos").mkdir()
    for number in range(5):
        picture("red", number).save(tmp_path / "photos" / f"{number}.png")
    for name in ("copy.png", "sub/copy.png"):
        (tmp_path / "photos" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "photos" / name).write_bytes((tmp_path / "photos" / "1.png").read_bytes())
    build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    return Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")


def keys(hits: Hits) -> list[str]:
    return [hit.key for hit in hits]


@pytest.mark.parametrize(
    "where, chosen",
    [
        ("label = 'red'", lambda hit: hit.label == "red"),
        (
            "label in ('red', 'blue') and key not like '%.jpg'",
            lambda hit: hit.key[0] in "rb" and "png" in hit.key,
        ),
        ("label is null", lambda hit: False),
    ],
)
def test_a_condition_leaves_the_nearest_of_the_rest(
    searcher: Searcher, queries: Path, where: str, chosen: Callable[[Hit], bool]
) -> None:
    file = files_of(queries)[7]
    expected = [hit for hit in searcher.query(file, budget="M", k=40) if chosen(hit)]
    hits = searcher.query(file, budget="M", k=40, where=where)
    assert keys(hits) == keys(expected)
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-6)
    assert keys(searcher.query(file, budget="M", k=2, where=where)) == keys(expected)[:2]
    assert str(len(expected)) in hits.searched
    assert {len(hits) for hits in searcher.query_batch([file] * 3, k=40, where=where)} == {len(expected)}


def test_a_condition_that_cannot_be_understood(searcher: Searcher, queries: Path) -> None:
    for where in ("colour = 'red'", "label =", ""):
        with pytest.raises(FilterError):
            searcher.query(files_of(queries)[0], where=where)


def test_results_reach_the_threshold(searcher: Searcher, queries: Path) -> None:
    file = files_of(queries)[3]
    everything = searcher.query(file, k=40)
    scores = [hit.score for hit in everything]
    for threshold in (-1.0, scores[5], scores[5] + 1e-7, 0.0, 1.1):
        hits = searcher.query(file, k=40, threshold=threshold)
        assert keys(hits) == [hit.key for hit in everything if hit.score >= threshold]
    assert len(searcher.query(file, k=3, threshold=scores[20])) == 3
    for hits in (
        searcher.query_key("red/01.png", k=40, threshold=0.9),
        *searcher.query_vectors(np.eye(32)[:2], threshold=0.1),
    ):
        assert all(hit.score >= 0.1 for hit in hits)
    assert searcher.query_batch([file] * 2, threshold=1.1)[1].hits == ()


def test_a_row_does_not_find_itself_but_its_copies(doubles: Searcher) -> None:
    hits = doubles.query_key("1.png", k=4)
    assert set(keys(hits)[:2]) == {"copy.png", "sub/copy.png"}
    assert [hit.score for hit in hits[:2]] == pytest.approx([1, 1], abs=2e-3)
    assert (len(hits), "1.png" in keys(hits)) == (4, False)
    assert keys(doubles.query_key("1.png", k=1))[0] in ("copy.png", "sub/copy.png")
    assert set(keys(doubles.query_key("sub/copy.png", k=2))) == {"1.png", "copy.png"}
    assert len(doubles.query_key("1.png", k=100)) == 6
    assert len(doubles.query_key("1.png", k=6, threshold=0.9999)) == 2


def test_unique_finds_one_of_each(doubles: Searcher, tmp_path: Path) -> None:
    image = tmp_path / "photos" / "1.png"
    everything = [key.replace("sub/", "") for key in keys(doubles.query(image, k=7))]
    once = list(
        dict.fromkeys(key.replace("copy", "1") for key in everything)
    )  # which of them is first may vary
    for k in (1, 2, 5, 100):
        found = [key.replace("sub/copy", "1") for key in keys(doubles.query(image, k=k, unique=True))]
        assert [key.replace("copy", "1") for key in found] == once[:k]
    assert len(doubles.query(image, unique=True, where="key like '%copy%'")) == 1
    for name in ("1.png", "copy.png"):  # nor does a copy find what it is a copy of
        assert set(keys(doubles.query_key(name, k=100, unique=True))) == {"0.png", "2.png", "3.png", "4.png"}
    assert len(doubles.query_vectors(np.eye(32)[:2], unique=True)[1]) == 5


def test_a_row_outside_the_condition_takes_no_result_s_place(doubles: Searcher) -> None:
    assert keys(doubles.query_key("1.png", k=2, where="key like '%copy%'")) == ["copy.png", "sub/copy.png"]
    assert keys(doubles.query_key("1.png", k=1, where="key = '1.png'")) == []


def test_a_row_finds_the_rows_nearest_to_it_at_no_cost(searcher: Searcher) -> None:
    vectors, keys_N = vectors_of(searcher.index), np.array(keys_of(searcher.index))
    for row in range(0, 40, 7):
        scores = vectors @ vectors[row] / np.linalg.norm(vectors[row])
        scores[row] = -1
        hits = searcher.query_key(keys_N[row], k=9)
        assert keys(hits) == keys_N[np.argsort(-scores)[:9]].tolist()
        assert [hit.score for hit in hits] == pytest.approx(np.sort(scores)[::-1][:9], abs=1e-5)
        assert (hits.submodel, hits.cost, hits.macs, hits.gmacs) == (None, None, 0, 0)


def test_keys_that_no_row_has(doubles: Searcher) -> None:
    for key in ("nowhere.png", "", "1.PNG"):
        with pytest.raises(UnknownKeyError, match=f"has no row with the key '{key}'"):
            doubles.query_key(key)
    place = doubles.index.path
    Index.open(place).remove(["2.png"], command="")
    later = Searcher.open(place, device="cpu", dtype="fp32")
    with pytest.raises(UnknownKeyError):
        later.query_key("2.png")
    assert "2.png" not in keys(later.query_key("1.png", k=100))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("length", [1, 3e-5, 300, 6e4])
def test_vectors_are_normalised_here(searcher: Searcher, dtype: type, length: float) -> None:
    units = np.random.default_rng(0).standard_normal((3, 32))
    units /= np.abs(units).max(axis=1, keepdims=True)  # length of 6e4 stays within float16
    vectors = (units * length).astype(dtype)
    scores = units / np.linalg.norm(units, axis=1, keepdims=True)
    scores = scores @ vectors_of(searcher.index).T
    for hits, expected in zip(searcher.query_vectors(vectors, k=5), scores, strict=True):
        found = [keys_of(searcher.index).index(hit.key) for hit in hits]
        assert [hit.score for hit in hits] == pytest.approx(np.sort(expected)[::-1][:5], abs=0.03)
        assert [hit.score for hit in hits] == pytest.approx(expected[found], abs=0.03 if length < 1 else 1e-3)
    extreme = np.array([[1e200, *[0.0] * 31], [5e-324, *[0.0] * 31]])
    first, second = searcher.query_vectors(extreme, k=5)
    assert first == second


def test_vectors_find_what_their_images_find_at_no_cost(searcher: Searcher, queries: Path) -> None:
    files = files_of(queries)[:4]
    encoder = searcher.encoder
    vectors = encoder.embed(torch.stack([encoder.preprocess(file) for file in files]), encoder.submodel("M"))
    for hits, image_hits in zip(
        searcher.query_vectors(vectors * 7, k=4), searcher.query_batch(files, budget="M", k=4), strict=True
    ):
        assert keys(hits) == keys(image_hits)
        assert (hits.submodel, hits.cost, hits.macs, hits.gmacs) == (None, None, 0, 0.0)
        assert (image_hits.submodel, image_hits.macs > 0) == (encoder.submodel("M"), True)
        assert hits.searched == image_hits.searched == "Flat"
    assert searcher.query_vectors(np.empty((0, 32), np.float32)) == []


@pytest.mark.parametrize(
    "vectors, reason",
    [
        (np.zeros((1, 32)), "zero or not finite"),
        (np.vstack([np.ones(32), np.zeros(32)]), "zero or not finite"),
        (np.full((1, 32), np.nan), "zero or not finite"),
        (np.array([[np.inf, *[1.0] * 31]]), "zero or not finite"),
        (np.ones((1, 31)), r"\(1, 31\), not \(Q, 32\)"),
        (np.ones((2, 1, 32)), r"\(2, 1, 32\), not \(Q, 32\)"),
        (np.ones(32), r"\(32,\), not \(Q, 32\)"),
        (np.ones((1, 0)), "not"),
    ],
)
def test_what_is_no_vector_of_this_index_is_refused(
    searcher: Searcher, vectors: np.ndarray, reason: str
) -> None:
    with pytest.raises(ValueError, match=reason):
        searcher.query_vectors(vectors)


def test_hits_say_where_they_are() -> None:
    assert Hit("a/b.png", 1, None, "/photos/a/b.png").location == "/photos/a/b.png"
    assert Hit("x.tar:a/b:c", 1, None, "/data/x.tar").location == "/data/x.tar:a/b:c"
    assert Hit("a:b.TAR:c", 1, None, "/data/a:b.TAR").location == "/data/a:b.TAR:c"


def test_a_searcher_that_lives_long_goes_on_with_the_index_that_replaced_its_own(
    corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    files, out = files_of(corpus), tmp_path / "i"
    build_index(open_source(corpus), encoder, out)
    searcher = Searcher(Index.open(out), encoder)
    Index.open(out).remove(["red/00.jpg"], command="")
    hits = searcher.query(corpus / "red" / "00.jpg", k=50, where="label = 'red'")
    assert sorted(hit.key for hit in hits) == [f"red/{f.name}" for f in files if f.parent.name == "red"][1:]

    # By key, too: its vector is read from what was replaced.
    searcher = Searcher(Index.open(out), encoder)
    Index.open(out).remove(["red/01.png"], command="")
    assert "red/01.png" not in keys(searcher.query_key("red/02.png", k=50))
    assert searcher.hit("red/02.png").path == str(corpus / "red" / "02.png")
    with pytest.raises(UnknownKeyError):
        searcher.query_key("red/01.png")
    # And a key that has come since.
    build_index(open_source(corpus), encoder, out, extends=True, restore_removed=True)
    assert searcher.hit("red/01.png").path == str(corpus / "red" / "01.png")


# The kind: whatever of an index one query reads (vectors, conditions, keys, paths, labels, calibration) while
# another thread asks with other conditions, or a writer replaces the index.
def test_threads_with_conditions_of_their_own_get_their_own_answers(
    corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    out = tmp_path / "i"
    build_index(open_source(corpus), encoder, out)
    searcher = Searcher(Index.open(out), encoder)
    vectors = vectors_of(searcher.index)
    vector_of = dict(zip(keys_of(searcher.index), vectors, strict=True))
    doomed = [key for key in vector_of if "/00" in key or "/01" in key]
    stop, wrong, asked = threading.Event(), [], [0] * 8

    def ask(number: int) -> None:
        random = np.random.default_rng(number)
        label = CLASSES[number % len(CLASSES)]
        while not stop.is_set() and not wrong:
            try:
                query = random.standard_normal(32)
                if number % 3:
                    [hits] = searcher.query_vectors(query[None], k=5, where=f"label = '{label}'")
                else:
                    hits = searcher.query_key(f"{label}/07.png", k=5, where=f"label = '{label}'")
                    query = vector_of[f"{label}/07.png"]
                query = query / np.linalg.norm(query)
                assert len(hits) >= 5
                for hit in hits:
                    assert hit.key.startswith(f"{label}/"), f"{hit.key} for {label}"
                    assert (hit.label, hit.path) == (label, str(corpus / hit.key))
                    assert hit.score == pytest.approx(vector_of[hit.key] @ query, abs=2e-3)
                asked[number] += 1
            except Exception as error:
                wrong.append(error)

    def tracer(frame: FrameType, event: str, _: object) -> Callable | None:
        if frame.f_code.co_filename != retrieval.searcher.__file__:
            return None
        if event == "line":
            time.sleep(0)  # to another thread, between any two lines
        return tracer

    threading.settrace(tracer)
    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    try:
        for thread in threads:
            thread.start()
        for key in doomed:
            Index.open(out).remove([key], command="")
            gather([out], out, command="")  # which numbers the rows anew
        build_index(open_source(corpus), encoder, out, extends=True, restore_removed=True)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        threading.settrace(None)
    assert wrong == []
    assert min(asked) > 0
    assert not set(keys(searcher.query_key("red/07.png", k=50))) & set(doomed) - set(keys_in(out))


def keys_in(place: Path) -> list[str]:
    return keys_of(Index.open(place))


def test_scores_stay_within_one(searcher: Searcher) -> None:
    vectors = vectors_of(searcher.index)
    for where in (None, "label is not null", "key like 'red/%'"):
        for hits in searcher.query_vectors(vectors, k=3, where=where):
            assert all(-1 <= hit.score <= 1 for hit in hits)


def test_a_query_that_the_model_cannot_embed_is_refused_by_name(
    index: Path, encoder: Encoder, queries: Path
) -> None:
    blind = copy(encoder)
    blind.preprocess = Blind(encoder.preprocess)
    file = files_of(queries)[0]
    for image, named in [(file, f"{file}: "), (file.read_bytes(), "")]:
        with pytest.raises(UnreadableImageError, match=f"^{named}the model's embedding of it is zero or not"):
            Searcher(Index.open(index), blind).query(image, budget="S")


class Blind:
    """Preprocessing that makes what no model can embed."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._preprocess = preprocess
        self.data = preprocess.data

    def reading_as(self, reading: Reading) -> "Blind":
        return Blind(self._preprocess.reading_as(reading))

    def at(self, image_size: int | None) -> "Blind":
        return Blind(self._preprocess.at(image_size))

    def __call__(self, image: object) -> torch.Tensor:
        return self._preprocess(image) * torch.nan
