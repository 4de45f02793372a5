"""The images behind rows, read again: from files, shards and sets, or not at all where they are gone."""

import io
import os
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from entries import keys_of, paths_of
from PIL import Image
from small_world import files_of, picture, shard_of, write_shard

from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.hits import Hit
from retrieval.showing.thumbnail import thumbnail
from retrieval.sources.originals import everything, originals


def encoded(label: str, number: int, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture(label, number).save(buffer, form)
    return buffer.getvalue()


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    members = {f"{n}.png": encoded("red", n) for n in range(4)} | {"4.jpg": b"broken", "5.txt": b"no image"}
    return write_shard(tmp_path / "x.tar", members)


def test_an_image_file_stands_for_whatever_keys_it_has(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded("red", 0))
    found = list(originals(str(tmp_path / "a.png"), ["sub/a.png", "another name"]))
    assert found == [("sub/a.png", encoded("red", 0)), ("another name", encoded("red", 0))]
    assert list(everything(str(tmp_path / "a.png"))) == [("", encoded("red", 0))]


def test_of_a_shard_only_the_rows_asked_for(shard: Path) -> None:
    found = originals(str(shard), ["x.tar:2", "x.tar:0", "x.tar:7", "x.tar:4"])
    assert list(found) == [
        ("x.tar:0", encoded("red", 0)),
        ("x.tar:2", encoded("red", 2)),
        ("x.tar:4", b"broken"),
    ]
    assert [key for key, _ in everything(str(shard))] == [f"x.tar:{n}" for n in range(5)]


def test_a_shard_is_read_no_further_than_needed(shard: Path) -> None:
    whole = shard.read_bytes()
    shard.write_bytes(whole[: whole.index(encoded("red", 1)) + 10])
    assert list(originals(str(shard), ["x.tar:0", "x.tar:1"])) == [("x.tar:0", encoded("red", 0))]
    unread = originals(str(shard), ["x.tar:0"])
    assert next(unread) == ("x.tar:0", encoded("red", 0))


@pytest.mark.parametrize(
    "name", ["x-{0..1}.tar", "x[1].tar", "x*.TAR", "a:b.tar", "${HOME}.tar", "pipe:x.tar"]
)
def test_shards_of_any_name_are_found_again(
    name: str, encoder: Encoder, corpus: Path, tmp_path: Path
) -> None:
    shard_of(tmp_path / name, files_of(corpus)[:6])
    build_index(open_source(tmp_path), encoder, tmp_path / "i")
    index = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").index
    for row, key in enumerate(keys_of(index)):
        hit = Hit(key, 1.0, None, paths_of(index)[row])
        small = thumbnail(hit)
        assert small is not None
        np.testing.assert_array_equal(np.asarray(small), np.asarray(Image.open(files_of(corpus)[row])))
        assert hit.location == f"{tmp_path}/{key}"


def test_images_of_a_shard_are_found_again_by_keys_of_every_kind(encoder: Encoder, tmp_path: Path) -> None:
    """Names with dots, images that share a sample or a stem, two tars in one, one that comes too late."""
    keys = {
        "Screenshot 2024-01-05 at 10.31.00.png": "Screenshot 2024-01-05 at 10.31.00",
        "Screenshot 2024-01-05 at 10.31.07.png": "Screenshot 2024-01-05 at 10.31.07",
        "St. Peter.gif": "St. Peter",
        "a.jpg": "a",
        "a.png": "a.png",
        "s0.left.png": "s0.left",
        "s0.right.png": "s0.right",
        "v1.0/deep.er/x.tiff": "v1.0/deep.er/x",
    }
    forms = {"jpg": "JPEG", "gif": "GIF", "tiff": "TIFF"}
    files = {
        name: encoded("red", n, forms.get(name.rpartition(".")[2], "PNG")) for n, name in enumerate(keys)
    }
    halves = (
        dict(list(files.items())[:4]),
        dict(list(files.items())[4:]) | {"a.gif": encoded("red", 0, "GIF")},
    )
    shards = [write_shard(tmp_path / f"{n}.part", half).read_bytes() for n, half in enumerate(halves)]
    (tmp_path / "x.tar").write_bytes(b"".join(shards))
    build_index(open_source(tmp_path / "x.tar"), encoder, tmp_path / "i")
    index = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").index
    assert list(keys_of(index)) == [f"x.tar:{key}" for key in keys.values()]
    assert pq.read_table(tmp_path / "i" / "failures.parquet")["key"].to_pylist() == ["x.tar:a.gif"]
    assert dict(originals(str(tmp_path / "x.tar"), keys_of(index))) == {
        f"x.tar:{key}": files[name] for name, key in keys.items()
    }
    for row, key in enumerate(keys.values()):
        hit = Hit(keys_of(index)[row], 1.0, None, paths_of(index)[row])
        assert hit.location == f"{tmp_path}/x.tar:{key}"
        assert thumbnail(hit) is not None


def test_images_of_torchvision_s_sets_are_found_again(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    raw = tmp_path / "torchvision" / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    greys = np.random.default_rng(0).integers(0, 256, (3, 28, 28), dtype=np.uint8)
    for name, array in (("images-idx3", greys), ("labels-idx1", np.arange(3, dtype=np.uint8))):
        header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
        for split in ("train", "t10k"):
            (raw / f"{split}-{name}-ubyte").write_bytes(header + array.tobytes())
    build_index(open_source("torchvision:fashion_mnist"), encoder, tmp_path / "i")
    index = Searcher.open(tmp_path / "i", device="cpu", dtype="fp32").index
    assert list(originals(paths_of(index)[0], ["train/3"])) == []
    for row, grey in enumerate(greys):
        small = thumbnail(Hit(keys_of(index)[row], 1.0, None, paths_of(index)[row]))
        assert small is not None
        np.testing.assert_array_equal(np.asarray(small)[..., 0], grey)


@pytest.mark.parametrize("fate", ["gone", "empty", "text", "fifo", "folder"])
@pytest.mark.parametrize("name", ["x.tar", "x.png"])
def test_what_is_no_longer_there_is_nothing(tmp_path: Path, name: str, fate: str) -> None:
    place = tmp_path / name
    match fate:
        case "empty":
            place.touch()
        case "text":
            place.write_text("no image and no tar" * 100)
        case "fifo":
            os.mkfifo(place)
        case "folder":
            place.mkdir()
    key = "x.tar:0" if name == "x.tar" else "x.png"
    assert [found for found in originals(str(place), [key]) if found[1] != place.read_bytes()] == []
    assert thumbnail(Hit(key, 1.0, None, str(place))) is None
    assert thumbnail(place) is None
