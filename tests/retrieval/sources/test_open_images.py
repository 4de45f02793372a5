"""A folder with everything that can be wrong in it, and what counts as a source."""

import errno
import io
import os
import pickle
import signal
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from failing_disk import fail_below
from PIL import Image
from small_world import write_shard

from retrieval.sources.open_images import (
    Failure,
    ImageSource,
    ImageSourceError,
    Sample,
    UnreadableImageError,
    decode,
    open_source,
    open_sources,
)


@pytest.fixture
def no_hang() -> Iterator[None]:
    """Fail rather than wait for ever, say for someone to write into a FIFO."""

    def give_up(*_: object) -> None:
        raise TimeoutError("hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def encoded(colour: tuple[int, int, int] = (200, 10, 10), *, form: str = "PNG", side: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), colour).save(buffer, form)
    return buffer.getvalue()


def png_bomb(side: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(2**20))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def read(source: ImageSource) -> list[Sample | Failure]:
    return [sample for part in source.parts for sample in part.read()]


@pytest.mark.usefixtures("no_hang")
def test_seven_broken_images_among_a_thousand_are_reported_and_stop_nothing(tmp_path: Path) -> None:
    for number in range(993):
        (tmp_path / f"{number:04}.png").write_bytes(encoded((number % 256, number // 256, 0)))
    (tmp_path / "wrong.heic").write_text("not what the name says either")
    (tmp_path / "truncated.jpg").write_bytes(encoded(form="JPEG", side=64)[:-60])
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not what the name says")
    (tmp_path / "bomb.png").write_bytes(png_bomb(60_000))
    (tmp_path / "x.jpg").mkdir()
    (tmp_path / "x.jpg" / "inside.png").write_bytes(encoded())
    (tmp_path / "link.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "y.jpg")
    (tmp_path / "notes.txt").write_text("ignored")

    source = open_source(tmp_path)
    decoded, failures = [], {}
    for sample in read(source):
        if isinstance(sample, Failure):
            failures[sample.key] = sample.reason
            continue
        try:
            decoded.append((sample.key, decode(sample.data).getpixel((0, 0))))
        except UnreadableImageError as error:
            failures[sample.key] = str(error)

    assert source.size == 1001
    inside = decoded.pop()
    assert decoded == [(f"{number:04}.png", (number % 256, number // 256, 0)) for number in range(993)]
    assert inside == ("x.jpg/inside.png", (200, 10, 10)), "a folder is a folder, whatever its name"
    assert failures == {
        "truncated.jpg": "truncated image",
        "empty.jpg": "empty file (0 bytes)",
        "text.jpg": "not an image",
        "wrong.heic": "not an image",
        "bomb.png": "60000 x 60000 pixels is over the limit of 178956970",
        "link.jpg": "broken symlink",
        "y.jpg": "not a regular file (FIFO)",
    }


def test_one_image_file_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "cat.PNG").write_bytes(encoded())
    source = open_source(str(tmp_path / "cat.PNG"))
    assert read(source) == [Sample("cat.PNG", str(tmp_path / "cat.PNG"), None, {}, encoded())]
    assert source.text == str(tmp_path / "cat.PNG")


@pytest.mark.parametrize("name", ["IMG_0001", "cat.jpg.bak", "x.dat"])
def test_an_image_file_is_one_whatever_its_name(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(encoded())
    assert read(open_source(tmp_path / name)) == [Sample(name, str(tmp_path / name), None, {}, encoded())]


def test_only_folders_have_something_to_exclude(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "list.txt").write_text("a.png")
    (tmp_path / "x.tar").write_bytes(bytes(10240))
    for text in (tmp_path / "a.png", tmp_path / "list.txt", tmp_path / "x.tar", "torchvision:cifar10"):
        with pytest.raises(ImageSourceError, match="--exclude is for folders, which this is not"):
            open_source(text, excludes=["*.gif"])


def test_what_is_left_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "thumbs").mkdir()
    for name in ("a.png", "b.gif", "thumbs/c.png"):
        (tmp_path / name).write_bytes(encoded())
    source = open_source(tmp_path, excludes=["*.gif", "thumbs/", "*.gif"])
    assert ([item.key for item in read(source)], source.excluded) == (["a.png"], 2)
    assert source.excludes == ("*.gif", "thumbs/")
    with pytest.raises(ImageSourceError, match=r"no images .* with 3 files and folders excluded; name one"):
        open_source(tmp_path, excludes=["*"])
    both = open_sources([str(tmp_path), str(tmp_path / "thumbs")], {str(tmp_path): ["thumbs/", "b.gif"]})
    assert [item.key for item in read(both)] == ["a.png", "c.png"]


def test_shards_are_excluded_by_name(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar", ".c.tar"):
        (tmp_path / name).write_bytes(bytes(10240))
    assert [part.name for part in open_source(tmp_path, excludes=["a.*"]).parts] == ["b.tar"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_source_that_does_not_answer_is_not_said_to_be_missing(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    fail_below(tmp_path / "photos", number, monkeypatch)
    for name in ("photos", "photos/a.jpg", "photos/list.txt"):
        with pytest.raises(ImageSourceError, match=rf"cannot be read \({os.strerror(number)}\)"):
            open_source(tmp_path / name)


def test_shards_beside_a_folder_that_cannot_be_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def listing(path: str) -> object:
        if str(path) == str(tmp_path / "closed"):
            raise PermissionError(errno.EACCES, "")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    assert read(open_source(tmp_path)) == [Failure("closed", "permission denied")]


def test_relative_sources_yield_absolute_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "photos [2024]").mkdir()
    (tmp_path / "photos [2024]" / "a.png").write_bytes(encoded())
    monkeypatch.chdir(tmp_path)
    (sample,) = read(open_source("photos [2024]"))
    assert isinstance(sample, Sample)
    assert sample.path == str(tmp_path / "photos [2024]" / "a.png")


def test_a_list_of_files_is_a_source(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    expected = [Sample("a.png", str(tmp_path / "a.png"), None, {}, encoded())]
    for name in ("list.txt", "LIST.LST"):
        (tmp_path / name).write_text("a.png\n")
        assert read(open_source(tmp_path / name)) == expected
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "list.Parquet")
    assert read(open_source(tmp_path / "list.Parquet")) == expected


def test_a_folder_named_like_a_list_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "photos.txt").mkdir()
    (tmp_path / "photos.txt" / "a.png").write_bytes(encoded())
    assert [sample.key for sample in read(open_source(tmp_path / "photos.txt"))] == ["a.png"]


def test_a_source_says_what_opens_it_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.png").write_bytes(encoded())
    (tmp_path / "list.txt").write_text("a.png")
    places = [open_source(text).location for text in (".", "a.png", "list.txt", str(tmp_path))]
    assert places == [str(tmp_path), f"{tmp_path}/a.png", f"{tmp_path}/list.txt", str(tmp_path)]


@pytest.mark.parametrize("kind", ["folder", "flat", "list", "parquet", "file", "no labels"])
def test_labels_that_are_known_before_reading_are_those_that_are_read(tmp_path: Path, kind: str) -> None:
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded())
    (tmp_path / "a.csv").write_text("path,label\ncat/1.png,tom\n3.png,\n")
    images = pa.array([{"bytes": encoded(), "path": None}] * 2)
    pq.write_table(pa.table({"image": images, "label": ["rex", None]}), tmp_path / "b.parquet")
    places = {"flat": "cat", "list": "a.csv", "parquet": "b.parquet", "file": "3.png"}
    source = open_source(tmp_path / places.get(kind, ""), labels=kind != "no labels")
    found = [(item.key, item.label) for item in read(source) if isinstance(item, Sample)]
    assert source.labels() == found
    assert len(found) == source.size
    assert any(label for _, label in found) == (kind in ("folder", "list", "parquet"))


def test_of_names_that_cannot_be_read_no_label_is_known(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for name in (b"1.png", b"\xff.png"):
        (tmp_path / "cat" / os.fsdecode(name)).write_bytes(encoded())
    source = open_source(tmp_path, labels=True)
    assert (source.size, source.labels()) == (2, [("cat/1.png", "cat")])


def test_of_shards_only_reading_tells_the_labels(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {"1.png": encoded(), "1.cls": b"cat"})
    assert open_source(tmp_path / "a.tar").labels() is None


def test_parts_can_be_sent_to_workers(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encoded())
    source = open_source(tmp_path)
    assert read(pickle.loads(pickle.dumps(source))) == read(source)


def test_a_folder_of_shards_is_a_source_only_without_images(tmp_path: Path) -> None:
    (tmp_path / "b.tar").write_bytes(bytes(10240))
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    assert [part.name for part in open_source(tmp_path).parts] == ["a.tar", "b.tar"]
    assert open_source(tmp_path).size is None
    (tmp_path / "a.png").write_bytes(encoded())
    # Neither may be dropped in silence.
    with pytest.raises(ImageSourceError, match=r"holds both images and \.tar shards"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "no such file or folder"),
        ("nowhere", "no such file or folder"),
        ("nowhere.jpg", "no such file or folder"),
        ("n" * 5000, "cannot be read"),
        ("empty", "no images and no .tar shards"),
        ("list.doc", "understood are a folder"),
        ("list.csv", "not a table with a header line"),
        ("list.jsonl", "no column of paths among"),
        ("list.txt", "no entries"),
        ("list.parquet", "not a parquet file, or a damaged one"),
        ("torchvision:CIFAR10", "torchvision keeps its sets in"),
        ("torchvision:CIFAR10/", "write torchvision:cifar10"),
        ("{torchvision:CIFAR10,x}.tar", "understood are a folder"),
        ("https://example.org/x.tar", "understood are a folder"),
        (b"caf\xe9".decode("utf-8", "surrogateescape"), "not UTF-8"),
    ],
)
def test_what_is_no_source_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    (tmp_path / "empty").mkdir()
    for name in ("list.doc", "list.csv", "list.jsonl", "list.txt", "list.parquet"):
        (tmp_path / name).touch()
    with pytest.raises(ImageSourceError, match=message) as caught:
        open_source(text)
    assert "\n" not in str(caught.value)
    str(caught.value).encode()
