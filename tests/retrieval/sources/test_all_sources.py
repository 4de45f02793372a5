"""Every kind of source answers for its own texts and rows, and a further one is a class and a line."""

import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from entries import keys_of, paths_of
from small_world import CLASSES, picture, write_shard
from watched import logged

from indexes import Index, verify
from matvit.errors import TrainingError
from retrieval import Encoder, Hit, Searcher, build_index, open_source
from retrieval.errors import ImageSourceError
from retrieval.measuring.evaluate import evaluate
from retrieval.showing.thumbnail import thumbnail
from retrieval.sources import all_sources as sources
from retrieval.sources.all_sources import container_endings, container_of, kind_holding, kind_of, own_key
from retrieval.sources.labelled import open_labelled, splits
from retrieval.sources.open_images import ImageSource, location_of
from retrieval.sources.originals import everything, originals
from retrieval.sources.sample import Part, Sample, encoded_images
from retrieval.sources.source import Source
from retrieval.upkeep.known_files import Known
from retrieval.upkeep.reembed import reembed


def png(number: int) -> bytes:
    file = io.BytesIO()
    picture(CLASSES[number % len(CLASSES)], number).save(file, "PNG")
    return file.getvalue()


# --- a further kind: all of it ---


class Drawings(Source):
    """``toy:N``: N drawings, of as many classes as there are."""

    help = "toy:N for N drawings"
    summary = "toy:N"

    def recognises(self, text: str) -> bool:
        return text.startswith("toy:")

    def open(self, text: str, known: Any, excludes: Any) -> ImageSource:
        parts = () if known([text]).all() else _parts(text)
        return ImageSource(text, text, Path(text.replace(":", "-")), parts)

    def location(self, text: str) -> str:
        return text

    def holds(self, path: str) -> bool:
        return self.recognises(path)

    def images(self, path: str) -> Iterator[tuple[str, bytes]]:
        return encoded_images(_parts(path))

    def own_key(self, path: str, key: str) -> str:
        return key.rpartition("/")[2]


def _parts(text: str) -> tuple[Part, ...]:
    count = text.removeprefix("toy:")
    if not count.isdecimal():
        raise ImageSourceError(f"{text}: no number of drawings; write toy:10")
    names = [(str(number), text) for number in range(int(count))]
    return (Part(f"drawings {count}", count, len(names), partial(_draw, names), lambda: names),)


def _draw(names: Sequence[tuple[str, str]]) -> Iterator[Sample]:
    for number, (key, path) in enumerate(names):
        yield Sample(key, path, CLASSES[number % len(CLASSES)], {}, png(number))


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "SOURCES", (Drawings(), *sources.SOURCES))


@pytest.mark.usefixtures("toy")
def test_a_further_kind_is_indexed_found_again_and_evaluated(encoder: Encoder, tmp_path: Path) -> None:
    place = tmp_path / "i"
    build_index(open_source("toy:10"), encoder, place)
    searcher = Searcher.open(place, device="cpu", dtype="fp32")
    index = searcher.index
    assert (keys_of(index), set(paths_of(index))) == ([str(number) for number in range(10)], {"toy:10"})
    assert index.manifest.sources == ["toy:10"]
    assert dict(originals("toy:10", ["3", "7"])) == {"3": png(3), "7": png(7)}
    assert reembed(searcher, 10).changed == {}
    assert thumbnail(Hit("3", 1.0, None, "toy:10")) is not None

    queries = open_source("toy:14")
    result = evaluate(searcher, queries, [encoder.space.full], same_encoder=True)
    assert (result.queries, result.left_out) == (14, 0)
    assert result.points[0]["adaptive_1nn"] == result.points[0]["same_encoder_1nn"]
    assert evaluate(searcher, open_source("toy:10"), [encoder.space.full]).left_out == 10


@pytest.mark.usefixtures("toy")
def test_a_further_kind_is_added_once_and_told_apart_by_its_name(encoder: Encoder, tmp_path: Path) -> None:
    place = tmp_path / "i"
    build_index(open_source("toy:10"), encoder, place)
    known = Known(Index.open(place))
    again = open_source("toy:10", known=known.unchanged)
    assert (again.parts, known.skipped) == ((), 1)
    assert len(known.gone(again)) == len(known.excluded(again)) == 0
    with logged("retrieval") as lines:
        build_index(open_source("toy:12", known=known.unchanged), encoder, place, extends=True)
    assert "from now on, keys of toy:12 begin with toy-12/" in lines[0]
    assert "10 images are known by their bytes, and were not embedded again" in lines
    index = Index.open(place)
    assert (len(index), verify(place)) == (22, [])
    assert dict(originals("toy:12", ["toy-12/11", "toy-12/0"])) == {"toy-12/11": png(11), "toy-12/0": png(0)}
    assert open_source("toy:12", known=Known(index).unchanged).parts == ()


@pytest.mark.usefixtures("toy")
def test_a_further_kind_is_named_to_users_and_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    assert sources.images_help().startswith("Toy:N for N drawings, a folder of images")
    with pytest.raises(ImageSourceError, match="understood are toy:N, a folder of images or"):
        open_source("https://example.org/x.tar")
    with pytest.raises(ImageSourceError, match="toy:many: no number of drawings; write toy:10"):
        open_source("toy:many")
    with pytest.raises(ImageSourceError, match="--exclude is for folders, which this is not"):
        open_source("toy:10", excludes=["*.gif"])
    with pytest.raises(TrainingError, match="no images in class folders under toy:10"):
        open_labelled("toy:10", "RGB")
    assert splits("toy:10") == ("toy:10", None)
    assert list(everything("toy:many")) == []
    assert location_of("toy:10") == "toy:10"


def test_without_its_line_it_is_unknown() -> None:
    with pytest.raises(ImageSourceError, match="toy: is not read; understood are a folder"):
        open_source("toy:10")


# --- which kind a text or a row is for ---


@pytest.fixture
def sorts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of every kind, and what comes near."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "folder.tar", "folder.parquet", "folder.jpg", "folder.txt"):
        (tmp_path / name).mkdir()
    for name in ("a.png", "IMG_1", "list.png.txt", "x.tar.gz", "pipe:x.png"):
        (tmp_path / name).write_bytes(png(0))
    write_shard(tmp_path / "x.TAR", {"0.png": png(0)})
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "paths.Parquet")
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    images = pa.array([{"bytes": png(0), "path": None}], kind)
    pq.write_table(pa.table({"image": images}), tmp_path / "images.PARQUET")
    (tmp_path / "broken.parquet").write_text("PAR1")
    return tmp_path


KINDS: Mapping[str, str | None] = {
    "photos": "FolderSource",
    "./photos/": "FolderSource",
    "folder.tar": "FolderSource",
    "folder.parquet": "FolderSource",
    "folder.jpg": "FolderSource",
    "folder.txt": "FolderSource",
    "x.TAR": "ShardSource",
    "nowhere-{0..9}.tar": "ShardSource",
    "images.PARQUET": "EmbeddedSource",
    "paths.Parquet": "ListSource",
    "broken.parquet": "ListSource",
    "list.png.txt": "ListSource",
    "torchvision:": "TorchvisionSource",
    "torchvision:cifar10.tar": "TorchvisionSource",
    "a.png": "FileSource",
    "IMG_1": "FileSource",
    "./pipe:x.png": "FileSource",
    "": None,
    "nowhere": None,
    "nowhere.png": None,
    "nowhere.txt": None,
    "nowhere.parquet": None,
    "x.tar.gz": None,
    "pipe:x.png": None,
    "pipe:x.tar": None,
    "a.png\0": None,
}


@pytest.mark.usefixtures("sorts")
@pytest.mark.parametrize("text", KINDS)
def test_the_kind_of_a_text(text: str) -> None:
    kind = kind_of(text)
    assert (kind and type(kind).__name__) == KINDS[text]


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/s/x.tar", "ShardSource"),
        ("/s/X.TAR", "ShardSource"),
        ("/s/x.tar/a.png", "FileSource"),
        ("/s/x.parquet", "EmbeddedSource"),
        ("/s/x.csv", "FileSource"),
        ("torchvision:cifar10/train", "TorchvisionSource"),
        ("/s/torchvision:cifar10/train", "FileSource"),
        ("/photos/a.png", "FileSource"),
        ("", "FileSource"),
    ],
)
def test_the_kind_that_finds_images_again(path: str, kind: str) -> None:
    assert type(kind_holding(path)).__name__ == kind


@pytest.mark.parametrize(
    "path, key, own",
    [
        ("/s/x.tar", "x.tar:1", "x.tar:1"),
        ("/s/x.tar", "2024/x.tar:1", "x.tar:1"),
        ("/s/x.tar", "2024x.tar:1", "x.tar:1"),
        ("/s/x.tar", "a/b/x.tar:x.tar:1", "x.tar:x.tar:1"),
        ("/s/a:b.tar", "p/a:b.tar:1", "a:b.tar:1"),
        ("/s/X.TAR", "p/X.TAR:1", "X.TAR:1"),
        ("/s/x.tar", "p/x.tar", "p/x.tar"),
        ("/s/x.parquet", "p/x.parquet:a:b", "x.parquet:a:b"),
        ("torchvision:cifar10/train", "train/12", "train/12"),
        ("torchvision:cifar10/train", "cifar10/train/12", "train/12"),
        ("torchvision:cifar10/test", "train/test/2", "test/2"),
        ("/photos/a.png", "p/a.png", ""),
        ("/photos/a.png", "key of a list", ""),
    ],
)
def test_the_key_that_a_shard_or_a_set_knows(path: str, key: str, own: str) -> None:
    assert own_key(path, key) == own


@pytest.mark.parametrize(
    "key, container",
    [
        ("x.tar:1", "x.tar"),
        ("p/X.TAR:1", "p/X.TAR"),
        ("a:b.tar:1", "a:b.tar"),
        ("x.tar:y.tar:1", "x.tar"),
        ("p/photos.parquet:a/b.png", "p/photos.parquet"),
        ("x.tar", "x.tar"),
        ("a:b.png", "a:b.png"),
        ("x.tar.gz:1", "x.tar.gz:1"),
        ("", ""),
    ],
)
def test_the_file_that_a_key_begins_with(key: str, container: str) -> None:
    assert container_of(key) == container
    assert container_endings() == (".tar", ".parquet")


@pytest.mark.usefixtures("sorts")
def test_what_opens_a_source_from_anywhere_even_one_that_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for text in ("photos", "a.png", "x.TAR", "x-{0..9}.tar", "images.PARQUET", "nowhere", "n" * 5000):
        assert location_of(text) == str(tmp_path / text)
    assert location_of("torchvision:cifar10/test") == "torchvision:cifar10/test"


# --- for training ---


@pytest.mark.parametrize(
    "text, expected",
    [
        ("torchvision:cifar10", ("torchvision:cifar10/train", "torchvision:cifar10/test")),
        ("torchvision:CIFAR10/train", ("torchvision:CIFAR10/train", None)),
        ("torchvision:cifar10/test", ("torchvision:cifar10/test", None)),
        ("torchvision:no set", ("torchvision:no set", None)),
        ("nowhere", ("nowhere", None)),
        ("photos", ("photos", None)),
        ("x.TAR", ("x.TAR", None)),
    ],
)
@pytest.mark.usefixtures("sorts")
def test_what_is_held_out(text: str, expected: tuple[str, str | None]) -> None:
    assert splits(text) == expected


@pytest.mark.usefixtures("sorts")
@pytest.mark.parametrize("text", ["a.png", "paths.Parquet", "images.PARQUET", "list.png.txt", ""])
def test_what_training_does_not_read(text: str) -> None:
    with pytest.raises(TrainingError, match=f"^no images in class folders under {text}$"):
        open_labelled(text, "RGB")


@pytest.mark.usefixtures("sorts")
@pytest.mark.parametrize("text", ["https://example.org/x.tar", "pipe:x.png", "{pipe:x,y}.tar", "S3://bucket"])
def test_training_reads_local_files_only(text: str) -> None:
    with pytest.raises(ImageSourceError, match=r": is not read; understood are .* put \./ before it"):
        open_labelled(text, "RGB")


# --- what they cost ---


def test_naming_the_kinds_loads_nothing_heavy() -> None:
    heavy = ("numpy", "pyarrow", "PIL", "torch", "torchvision", "timm", "faiss", "webdataset", "pathspec")
    code = "import sys, retrieval.sources.all_sources as all; all.images_help(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {*heavy} & {*done.stdout.split()}
