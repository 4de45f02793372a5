"""Images to an index: vectors, rows and labels belong together, wherever the images lie."""

import io
import math
import shutil
from copy import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from entries import column_of, keys_of, labels_of, paths_of, vector_of_key, vectors_of
from PIL import Image
from small_world import files_of, random_matvit, shard_of, write_shard
from watched import Watched, logged

from indexes import (
    DuplicateKeyError,
    EmptyIndexError,
    Index,
    IndexDamagedError,
    IndexExistsError,
    WrongEncoderError,
    verify,
)
from indexes.disk.rows import read_failures
from indexes.faiss_kinds.options import KindOptions
from matvit import CheckpointError
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.encoding.batches import batches
from retrieval.encoding.encoder import NO_EMBEDDING
from retrieval.encoding.preprocess import Preprocess
from retrieval.sources import folder_walk
from retrieval.sources.sample import content_of
from retrieval.upkeep.known_files import Known


def test_vectors_are_the_full_encoder_s_joined_by_key(index: Path, corpus: Path, encoder: Encoder) -> None:
    opened = Index.open(index)
    assert keys_of(opened) == [file.relative_to(corpus).as_posix() for file in files_of(corpus)]
    assert paths_of(opened) == [str(file) for file in files_of(corpus)]
    assert labels_of(opened) == [file.parent.name for file in files_of(corpus)]
    for key, vector in vector_of_key(opened).items():
        expected = encoder.embed(encoder.preprocess(corpus / key)[None])[0]
        np.testing.assert_allclose(vector, expected, atol=1e-3)
    assert verify(index) == []


def test_manifest_says_what_made_it(index: Path, corpus: Path, encoder: Encoder, checkpoint: Path) -> None:
    manifest = Index.open(index).manifest
    assert manifest.encoder == encoder.identity
    assert (manifest.dtype, manifest.device) == ("float32", "cpu")
    assert (manifest.sources, manifest.checkpoint) == ([str(corpus)], str(checkpoint))
    assert manifest.classes == ["blue", "checks", "green", "red", "stripes"]


def test_shards_and_a_folder_of_the_same_images_agree(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    files = files_of(corpus)
    for i in range(3):
        shard_of(tmp_path / f"x-{i:03}.tar", files[i::3])
    build_index(open_source(f"{tmp_path}/x-{{000..002}}.tar"), encoder, tmp_path / "shards.index")

    def normal(opened: Index) -> dict[str, tuple[str | None, np.ndarray]]:
        vectors = vector_of_key(opened)
        return {
            key.rpartition(":")[2].replace("-", "/").partition(".")[0]: (label, vectors[key])
            for key, label in zip(keys_of(opened), labels_of(opened), strict=True)
        }

    folder, shards = normal(Index.open(index)), normal(Index.open(tmp_path / "shards.index"))
    assert folder.keys() == shards.keys()
    for key, (label, vector) in folder.items():
        assert shards[key][0] == label == key.partition("/")[0]
        np.testing.assert_allclose(shards[key][1], vector, atol=1e-3)


def interrupt_after_20(what: str, done: int, total: int | None) -> None:
    if what == "images embedded" and done > 20:
        raise KeyboardInterrupt


def test_batches_never_cross_parts_and_change_nothing(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 7)
    counted = Watched("images embedded")
    build_index(open_source(corpus), encoder, tmp_path / "i", batch_size=5, workers=1, progress=counted)
    assert counted.steps == [0, *[5, 2] * 5, 5]
    assert set(counted.totals) == {40}
    one, many = Index.open(index), Index.open(tmp_path / "i")
    assert len(many.manifest.vector_files()) == 6
    assert (keys_of(one), labels_of(one)) == (keys_of(many), labels_of(many))
    for key, vector in vector_of_key(one).items():
        np.testing.assert_allclose(vector_of_key(many)[key], vector, atol=1e-3)


def test_an_interrupted_build_goes_on_after_its_last_whole_part(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 10)
    source = open_source(corpus)
    with pytest.raises(KeyboardInterrupt):
        build_index(source, encoder, tmp_path / "i", batch_size=5, progress=interrupt_after_20)
    assert not (tmp_path / "i").exists()

    counted = Watched("images embedded")
    with logged("retrieval") as lines:
        build_index(source, encoder, tmp_path / "i", progress=counted)
    assert lines == ["20 images were embedded before this run was interrupted, and were not repeated"]
    assert counted.steps == [20, 10, 10], "those of before count at once"
    assert keys_of(Index.open(tmp_path / "i")) == keys_of(Index.open(index))
    assert verify(tmp_path / "i") == []


def test_captions_and_failures_of_shards_are_kept(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    image = files_of(corpus)[1].read_bytes()
    write_shard(
        tmp_path / "a.tar",
        {"1.png": image, "1.txt": b"a cat", "2.png": b"broken", "2.txt": b"lost", "3.png": image},
    )
    build_index(open_source(tmp_path), encoder, tmp_path / "i")
    opened = Index.open(tmp_path / "i")
    assert opened.entries(["key", "caption", "label"]).to_pylist() == [
        {"key": "a.tar:1", "caption": "a cat", "label": None},
        {"key": "a.tar:3", "caption": None, "label": None},
    ]
    assert read_failures(tmp_path / "i" / "failures.parquet").to_pylist() == [
        {"key": "a.tar:2", "reason": "not an image"}
    ]


def test_an_existing_index_is_refused_and_left_alone(index: Path, corpus: Path, encoder: Encoder) -> None:
    before = (index / "manifest.json").read_bytes()
    with pytest.raises(IndexExistsError, match="exists"):
        build_index(open_source(corpus), encoder, index)
    assert (index / "manifest.json").read_bytes() == before


def test_a_corpus_without_one_readable_image_makes_no_index(encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("no image")
    with pytest.raises(EmptyIndexError, match=r"a\.jpg: not an image"):
        build_index(open_source(tmp_path / "photos"), encoder, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_two_images_of_one_key_make_no_index(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    image = files_of(corpus)[1].read_bytes()
    write_shard(tmp_path / "a.tar", {"b:c.png": image})
    source = open_source(tmp_path)
    twice = replace(source, parts=source.parts * 2)
    with pytest.raises(DuplicateKeyError, match=r"a\.tar:b:c"):
        build_index(twice, encoder, tmp_path / "i")
    assert not (tmp_path / "i").exists()


def test_labels_reach_batches_with_their_images(corpus: Path, encoder: Encoder) -> None:
    (part,) = open_source(corpus).parts
    for batch in batches([part], encoder, batch_size=16):
        for sample, image in zip(batch.samples, batch.images, strict=True):
            assert sample.label == Path(sample.path).parent.name
            assert image.equal(encoder.preprocess(sample.path))


# --- what rows remember of their images ---


def test_rows_remember_the_bytes_and_the_file_they_came_from(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    files = files_of(corpus)

    def columns(opened: Index) -> list[tuple[str, str]]:
        table = opened.entries(["content", "state"]).to_pydict()
        return list(zip(table["content"], table["state"], strict=True))

    def state(file: Path) -> str:
        return f"{file.stat().st_size} {file.stat().st_mtime_ns}"

    contents = [content_of(file.read_bytes()) for file in files]
    assert len(set(contents)) == 40
    assert columns(Index.open(index)) == list(zip(contents, map(state, files), strict=True))

    shards = [shard_of(tmp_path / f"{i}.tar", files[i * 20 :][:20]) for i in range(2)]
    build_index(open_source(tmp_path), encoder, tmp_path / "i")
    states = [state(shard) for shard in shards for _ in range(20)]
    assert columns(Index.open(tmp_path / "i")) == list(zip(contents, states, strict=True))


def test_exact_duplicates_name_the_first_of_them(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    first, second = files_of(corpus)[1:3]
    for name, file in (("a", first), ("b", second), ("c", first), ("d", first), ("e", second)):
        (photos / f"{name}.png").write_bytes(file.read_bytes())
    (photos / "f.png").write_bytes(first.read_bytes() + b"\0")  # the same picture in another file
    build_index(open_source(photos), encoder, tmp_path / "i")
    opened = Index.open(tmp_path / "i")
    assert column_of(opened, "duplicate_of") == [None, None, "a.png", "a.png", "b.png", None]
    assert opened.duplicates == 3
    [found] = opened.search(vectors_of(opened)[:1], 6, "duplicate_of is null").entries
    assert sorted(entry.key for entry in found) == ["a.png", "b.png", "f.png"]

    (photos / "a.png").unlink()
    (photos / "e.png").write_bytes(first.read_bytes())
    (photos / "g.png").write_bytes(second.read_bytes())
    known = Known(opened)
    source = open_source(photos, known=known.unchanged)
    Index.open(tmp_path / "i").remove_files(known.gone(source), command="")
    build_index(source, encoder, tmp_path / "i", extends=True)
    opened = Index.open(tmp_path / "i")
    live = opened.entries(["key", "duplicate_of"]).to_pydict()
    assert dict(zip(live["key"], live["duplicate_of"], strict=True)) == {
        "b.png": None,
        "c.png": None,
        "d.png": "c.png",
        "f.png": None,
        "e.png": "c.png",
        "g.png": "b.png",
    }


def test_shards_find_their_duplicates_across_parts(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    files = files_of(corpus)[:3]
    for name in "xy":
        shard_of(tmp_path / f"{name}.tar", files)
    build_index(open_source(tmp_path), encoder, tmp_path / "i")
    opened = Index.open(tmp_path / "i")
    assert column_of(opened, "duplicate_of") == [None] * 3 + keys_of(opened)[:3]


# --- extending ---


def test_extending_is_as_if_built_at_once(
    index: Path, corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 7)
    photos = tmp_path / "photos"
    copies = [shutil.copytree(corpus / name, photos / name).name for name in ("blue", "red")]
    assert copies == ["blue", "red"]
    (photos / "blue" / "broken.png").write_bytes(b"broken")
    build_index(open_source(photos), encoder, tmp_path / "i")
    for name in ("checks", "green", "stripes"):
        shutil.copytree(corpus / name, photos / name)
        opened = Index.open(tmp_path / "i")
        source = open_source(photos, known=Known(opened).unchanged)
        counted = Watched("images embedded")
        build_index(source, encoder, tmp_path / "i", extends=True, progress=counted)
        assert counted.done[-1] == 8 + 1, "what could not be read is tried again"
    opened, whole = Index.open(tmp_path / "i"), Index.open(index)
    assert (len(opened), opened.manifest.ntotal, opened.manifest.removed) == (40, 40, 0)
    assert dict(zip(keys_of(opened), labels_of(opened), strict=True)) == dict(
        zip(keys_of(whole), labels_of(whole), strict=True)
    )
    for key, vector in vector_of_key(whole).items():
        np.testing.assert_allclose(vector_of_key(opened)[key], vector, atol=1e-3)
    failures = read_failures(tmp_path / "i" / "failures.parquet").to_pylist()
    assert failures == [{"key": "blue/broken.png", "reason": "not an image"}]
    assert verify(tmp_path / "i") == []
    assert opened.manifest.sources == [str(photos)]


def test_what_is_extended_keeps_its_kind(
    corpus: Path, queries: Path, encoder: Encoder, tmp_path: Path
) -> None:
    options = KindOptions(factory="HNSW16", rerank=20)
    build_index(open_source(corpus / "red"), encoder, tmp_path / "i", options=options)
    built = Index.open(tmp_path / "i").manifest.kind
    build_index(open_source(queries / "blue" / "50.png"), encoder, tmp_path / "i", extends=True)
    manifest = Index.open(tmp_path / "i").manifest
    assert (manifest.kind.factory, manifest.kind.rerank) == (built.factory, built.rerank) == ("HNSW16", 20)
    assert (manifest.ntotal, manifest.kind.recall) == (9, 1)
    assert manifest.sources == [str(corpus / "red"), str(queries / "blue" / "50.png")]


def test_an_interrupted_extension_leaves_the_index_and_goes_on(
    corpus: Path, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 10)
    build_index(open_source(corpus / "red"), encoder, tmp_path / "i")
    before = Index.open(tmp_path / "i")
    source = open_source(corpus, known=Known(before).unchanged)
    with pytest.raises(KeyboardInterrupt):
        build_index(source, encoder, tmp_path / "i", extends=True, batch_size=5, progress=interrupt_after_20)
    assert Index.open(tmp_path / "i").manifest == before.manifest
    counted = Watched("images embedded")
    build_index(source, encoder, tmp_path / "i", extends=True, progress=counted)
    assert counted.steps[0] == 20
    after = Index.open(tmp_path / "i")
    assert (len(after), verify(tmp_path / "i")) == (40, [])
    assert sorted(paths_of(after)) == [str(file) for file in files_of(corpus)]


def test_only_what_is_there_and_of_these_weights_can_be_extended(
    corpus: Path, encoder: Encoder, other_checkpoint: Path, tmp_path: Path
) -> None:
    with pytest.raises(IndexDamagedError, match="there is no index at"):
        build_index(open_source(corpus), encoder, tmp_path / "i", extends=True)
    assert list(tmp_path.iterdir()) == []
    build_index(open_source(corpus / "red"), encoder, tmp_path / "i")
    before = (tmp_path / "i" / "manifest.json").read_bytes()
    other = Encoder.open(other_checkpoint, device="cpu", dtype="fp32")
    with pytest.raises(WrongEncoderError):
        build_index(open_source(corpus), other, tmp_path / "i", extends=True)
    assert (tmp_path / "i" / "manifest.json").read_bytes() == before


def test_keys_that_are_taken_leave_the_index_as_it_was(
    corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    build_index(open_source(corpus / "red"), encoder, tmp_path / "i")
    before = (tmp_path / "i" / "manifest.json").read_bytes()
    with pytest.raises(
        DuplicateKeyError, match=r"'00\.jpg' is taken by .*/red/00\.jpg: choose with --key-prefix"
    ):
        build_index(open_source(corpus / "blue"), encoder, tmp_path / "i", extends=True, key_prefix="")
    assert (tmp_path / "i" / "manifest.json").read_bytes() == before
    assert verify(tmp_path / "i") == []


def test_what_changed_and_cannot_be_read_any_more(corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    """Its row stays: a file that is half-copied tonight may be whole tomorrow."""
    photos = shutil.copytree(corpus / "red", tmp_path / "photos")
    build_index(open_source(photos), encoder, tmp_path / "i")
    (photos / "01.png").write_bytes(b"broken")
    source = open_source(photos, known=Known(Index.open(tmp_path / "i")).unchanged)
    build_index(source, encoder, tmp_path / "i", extends=True)
    opened = Index.open(tmp_path / "i")
    assert (len(opened), "01.png" in keys_of(opened)) == (8, True)
    failures = read_failures(tmp_path / "i" / "failures.parquet").to_pylist()
    assert failures == [{"key": "01.png", "reason": "not an image"}]


class Blinded:
    """Preprocessing that makes what no model can embed of some images, as overflow in one of them would."""

    def __init__(self, preprocess: Preprocess, blinded: bytes) -> None:
        self._preprocess, self._blinded = preprocess, blinded

    def read(self, image: bytes) -> Image.Image:
        read = self._preprocess.read(image)
        read.info["blinded"] = image == self._blinded
        return read

    def tensor(self, image: Image.Image) -> torch.Tensor:
        return self._preprocess.tensor(image) * (torch.nan if image.info["blinded"] else 1)


def test_an_embedding_that_is_not_finite_is_a_failure_by_name(
    corpus: Path, encoder: Encoder, tmp_path: Path
) -> None:
    blind = copy(encoder)
    victim = files_of(corpus)[3]
    blind.preprocess = Blinded(encoder.preprocess, victim.read_bytes())
    built = build_index(open_source(corpus), blind, tmp_path / "x.index", batch_size=3)
    assert built.new == len(files_of(corpus)) - 1
    assert read_failures(tmp_path / "x.index" / "failures.parquet").to_pylist() == [
        {"key": victim.relative_to(corpus).as_posix(), "reason": NO_EMBEDDING}
    ]
    assert verify(tmp_path / "x.index") == []


# The kind: weights that are not finite, of any tensor, and finite ones that make nothing of anything.
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["pos_embed", "blocks.1.mlp.fc2.bias", "norm.weight"])
def test_weights_that_are_not_finite_are_found_before_the_work(
    corpus: Path, tmp_path: Path, name: str, value: float
) -> None:
    model = random_matvit(0)
    model.state_dict()[name].flatten()[-1] = value
    broken = Encoder(model, device=torch.device("cpu"), dtype=torch.float32, location="broken/")
    with pytest.raises(
        CheckpointError, match=rf"^broken/: its weights are not finite \(the first, {name}\)$"
    ):
        build_index(open_source(corpus), broken, tmp_path / "x.index")
    assert list(tmp_path.iterdir()) == []


def test_weights_that_embed_nothing_are_told_in_one_line(corpus: Path, tmp_path: Path) -> None:
    model = random_matvit(0)
    for tensor in model.state_dict().values():
        tensor.zero_()
    zero = Encoder(model, device=torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(EmptyIndexError, match=f"^no image could be embedded, 40 failed .*{NO_EMBEDDING}"):
        build_index(open_source(corpus), zero, tmp_path / "x.index")


def test_an_index_goes_on_reading_as_it_was_made(encoder: Encoder, tmp_path: Path) -> None:
    # Made before orientation and transparency were regarded: neither is recorded.
    folder = tmp_path / "images"
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(colours).save(folder / "odd.png", exif=exif)
    before, out = encoder.reading_as({}), tmp_path / "x.index"
    build_index(open_source(folder), before, out)
    assert "alpha" not in Index.open(out).manifest.encoder.preprocess
    old = Searcher(Index.open(out), encoder)
    assert old.query(folder / "odd.png")[0].score > 0.999

    (folder / "more.png").write_bytes((folder / "odd.png").read_bytes())
    build_index(open_source(folder), encoder, out, extends=True)
    vectors = vector_of_key(Index.open(out))
    assert np.array_equal(vectors["odd.png"], vectors["more.png"])
    assert Searcher(Index.open(out), encoder).query(folder / "more.png")[0].score > 0.999

    build_index(open_source(folder), encoder, tmp_path / "new.index")
    new = Index.open(tmp_path / "new.index")
    recorded = new.manifest.encoder.preprocess
    assert (recorded["exif_transpose"], recorded["alpha"]) == (True, "white")
    assert vector_of_key(new)["odd.png"] @ vectors["odd.png"] < 0.999
    assert Searcher(new, before).query(folder / "odd.png")[0].score > 0.999


def test_of_a_thousand_fuzzed_images_each_is_a_row_or_a_failure(encoder: Encoder, tmp_path: Path) -> None:
    """Damage of every kind: the sum of rows and failures is what was put in, and the reasons are true."""
    random = np.random.default_rng(7)
    folder = tmp_path / "images"
    folder.mkdir()
    whole = {}
    for form in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM", "TGA", "ICO", "QOI"):
        file = io.BytesIO()
        pixels = random.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(file, form)
        whole[form.lower().replace("jpeg2000", "jp2")] = file.getvalue()
    sound = {}
    for number in range(1000):
        suffix = list(whole)[number % len(whole)]
        data = bytearray(whole[suffix])
        match number // len(whole) % 5:
            case 0:
                pass
            case 1:
                data = data[: random.integers(len(data))]
            case 2:
                for place in random.integers(0, len(data), 8):
                    data[place] = random.integers(256)
            case 3:
                for place in random.integers(0, min(64, len(data)), 3):
                    data[place] = random.integers(256)
            case 4:
                data = bytearray(random.bytes(len(data)))
        sound[f"{number:04}.{suffix}"] = bytes(data) == whole[suffix]
        (folder / f"{number:04}.{suffix}").write_bytes(data)
    out = tmp_path / "x.index"
    build_index(open_source(folder), encoder, out, workers=0)
    index, failures = Index.open(out), read_failures(out / "failures.parquet").to_pylist()
    failed = {failure["key"]: failure["reason"] for failure in failures}
    assert len(failed) == len(failures)
    assert sorted([*keys_of(index), *failed]) == sorted(sound)
    assert not [key for key in failed if sound[key]]
    for key, reason in failed.items():
        true = (
            "empty file",
            "not an image",
            "truncated image",
            "corrupt image: ",
            "pixels",
            "is not read here",
        )
        assert any(part in reason for part in true), (key, reason)
        assert not (reason.startswith("empty") and (folder / key).stat().st_size)
    assert 100 < len(failed) < 900
