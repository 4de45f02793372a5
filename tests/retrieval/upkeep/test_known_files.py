"""Adding to an index: which files are as they were, which are new, and which are gone."""

import errno
import io
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from entries import keys_of, vector_of_key
from failing_disk import fail_below
from hypothesis import given, settings
from hypothesis import strategies as st
from small_index import DIM, ENCODER, origin
from small_world import files_of, picture, write_shard

from indexes import Index, IndexWriter, verify
from indexes.directory.change import gather
from retrieval import Encoder, build_index, open_source
from retrieval.sources.open_images import ImageSource
from retrieval.sources.sample import Failure
from retrieval.upkeep.known_files import Known, in_use


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    picture("red", number).save(buffer, "PNG")
    return buffer.getvalue()


def folder_of(place: Path) -> Path:
    for label in "ab":
        (place / label).mkdir(parents=True)
        for number in range(3):
            (place / label / f"{number}.png").write_bytes(png(number + 10 * ord(label)))
    return place


def shards_of(place: Path) -> Path:
    place.mkdir()
    for name in "xy":
        members = {f"{number}.png": png(number + 10 * ord(name)) for number in range(3)}
        write_shard(place / f"{name}.tar", members | {"3.png": b"broken", "4.txt": b"no image"})
    return place


def list_of(place: Path) -> Path:
    folder_of(place)
    paths = [str(file.relative_to(place)) for file in files_of(place)]
    pq.write_table(
        pa.table({"path": paths, "key": [f"key of {path}" for path in paths]}), place / "l.parquet"
    )
    return place / "l.parquet"


def text_list_of(place: Path) -> Path:
    folder_of(place)
    (place / "l.txt").write_text("\n".join(str(file) for file in files_of(place)))
    return place / "l.txt"


EVERY_SOURCE = pytest.mark.parametrize("make", [folder_of, shards_of, list_of, text_list_of])
BY_BOTH = pytest.mark.parametrize("check_content", [False, True])


@pytest.fixture
def indexed(encoder: Encoder, tmp_path: Path) -> Callable[[str | Path], Path]:
    def index(images: str | Path) -> Path:
        build_index(open_source(images), encoder, tmp_path / "i")
        return tmp_path / "i"

    return index


def look(index: Path, images: str | Path, *, check_content: bool = False) -> tuple[ImageSource, Known]:
    known = Known(Index.open(index), check_content=check_content)
    return open_source(images, known=known.unchanged), known


def keys(source: ImageSource) -> list[str]:
    return [item.key for part in source.parts for item in part.read()]


def new(index: Path, images: str | Path, *, check_content: bool = False) -> list[str]:
    return keys(look(index, images, check_content=check_content)[0])


def touch(file: Path) -> None:
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))


def change_quietly(file: Path) -> None:
    """Other bytes under the same size and time."""
    status, data = file.stat(), file.read_bytes()
    at = data.index(b"IDAT") + 20
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_size == status.st_size


@EVERY_SOURCE
@BY_BOTH
def test_nothing_is_new_where_nothing_changed(
    indexed: Callable, tmp_path: Path, make: Callable, check_content: bool
) -> None:
    images = make(tmp_path / "images")
    source, known = look(indexed(images), images, check_content=check_content)
    assert (source.parts, source.size) == ((), 0)
    assert known.skipped == (2 if make is shards_of else 6)
    assert known.gone(source) == []


@pytest.mark.parametrize(
    "change, by_state, by_content",
    [
        (touch, True, False),
        (change_quietly, False, True),
        (lambda file: file.write_bytes(png(99)), True, True),
        (lambda file: file.write_bytes(file.read_bytes() + b"\0"), True, True),
    ],
    ids=["time", "same size and time", "picture", "size"],
)
@pytest.mark.parametrize("make", [folder_of, list_of])
def test_what_is_noticed_of_a_changed_file(
    indexed: Callable, tmp_path: Path, make: Callable, change: Callable, by_state: bool, by_content: bool
) -> None:
    images = make(tmp_path / "images")
    index = indexed(images)
    change(tmp_path / "images/a/1.png")
    key = "a/1.png" if make is folder_of else "key of a/1.png"
    assert new(index, images) == [key] * by_state
    assert new(index, images, check_content=True) == [key] * by_content


@pytest.mark.parametrize(
    "change, by_state, by_content",
    [
        (touch, True, False),
        (change_quietly, False, True),
        (lambda shard: write_shard(shard, {"0.png": png(0), "1.png": png(1)}), True, True),
    ],
    ids=["time", "same size and time", "members"],
)
def test_what_is_noticed_of_a_changed_shard(
    indexed: Callable, tmp_path: Path, change: Callable, by_state: bool, by_content: bool
) -> None:
    images = shards_of(tmp_path / "images")
    index = indexed(images)
    change(images / "y.tar")
    for check_content, noticed in ((False, by_state), (True, by_content)):
        found = new(index, images, check_content=check_content)
        assert {key.partition(":")[0] for key in found} == ({"y.tar"} if noticed else set())


def test_a_shard_is_known_by_its_images_in_any_order(indexed: Callable, tmp_path: Path) -> None:
    members = {f"{number}.png": png(number) for number in range(3)}
    shard = write_shard(tmp_path / "x.tar", members)
    index = indexed(shard)
    write_shard(shard, dict(reversed(members.items())))
    assert new(index, shard, check_content=True) == []
    write_shard(shard, members | {"3.png": png(2)})  # once more a picture that is there
    assert len(new(index, shard, check_content=True)) == 4


def test_an_image_in_a_shard_that_was_broken_and_is_whole_now_is_noticed(
    indexed: Callable, tmp_path: Path
) -> None:
    images = shards_of(tmp_path / "images")
    index = indexed(images)
    members = {f"{number}.png": png(number + 10 * ord("x")) for number in range(4)}
    write_shard(images / "x.tar", members)
    assert new(index, images, check_content=True) == [f"x.tar:{number}" for number in range(4)]


@EVERY_SOURCE
def test_only_what_was_added_is_new(indexed: Callable, tmp_path: Path, make: Callable) -> None:
    images, place = make(tmp_path / "images"), tmp_path / "images"
    index = indexed(images)
    if make is shards_of:
        write_shard(place / "z.tar", {"0.png": png(0)})
        expected = "z.tar:0"
    else:
        (place / "a/9.png").write_bytes(png(9))
        expected = "a/9.png"
    if make is list_of:
        pq.write_table(pa.table({"path": ["a/0.png", "a/9.png", "b/2.png"]}), images)
    if make is text_list_of:
        images.write_text("a/0.png\na/9.png\nb/2.png\n")
    for check_content in (False, True):
        assert new(index, images, check_content=check_content) == [expected]


def test_what_could_not_be_read_is_tried_again(indexed: Callable, tmp_path: Path) -> None:
    folder_of(tmp_path / "images")
    (tmp_path / "images/a/bad.png").write_bytes(b"broken")
    (tmp_path / "images/a/gone.png").symlink_to("nowhere")
    assert new(indexed(tmp_path / "images"), tmp_path / "images") == ["a/bad.png", "a/gone.png"]


def test_pruned_rows_are_new_again(indexed: Callable, tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images")
    index = indexed(images)
    Index.open(index).remove_files([str(images / "a/1.png")], command="")
    for check_content in (False, True):
        assert new(index, images, check_content=check_content) == ["a/1.png"]


@BY_BOTH
def test_of_an_index_whose_writer_did_not_say_everything_is_new(tmp_path: Path, check_content: bool) -> None:
    images = folder_of(tmp_path / "images")
    rows = [{"key": f.name, "path": str(f), "label": None} for f in files_of(images)[:1]]
    with IndexWriter(tmp_path / "i", ENCODER) as writer:
        writer.plan([("all", "")])
        writer.write_part(0, np.eye(1, DIM, dtype=np.float16), rows, [])
        writer.commit(origin())
    assert len(new(tmp_path / "i", images, check_content=check_content)) == 6


@BY_BOTH
def test_a_folder_has_many_names(
    indexed: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check_content: bool
) -> None:
    images = folder_of(tmp_path / "images")
    (tmp_path / "link").symlink_to("images")
    monkeypatch.chdir(tmp_path)
    index = indexed("link/")
    (images / "a/1.png").unlink()
    for name in (images, f"{images}/", "images", "./images/", "link", "images/../link", images / "a"):
        source, known = look(index, name, check_content=check_content)
        assert source.parts == ()
        assert known.gone(source) == [f"{images}/a/1.png"], name
    source, known = look(index, images / "b", check_content=check_content)
    assert known.gone(source) == []


@BY_BOTH
def test_a_single_image_is_known_from_its_folder(
    indexed: Callable, tmp_path: Path, check_content: bool
) -> None:
    images = folder_of(tmp_path / "images")
    index = indexed(images)
    assert new(index, images / "a/1.png", check_content=check_content) == []
    (images / "a/9.png").write_bytes(png(9))
    assert new(index, images / "a/9.png", check_content=check_content) == ["9.png"]


def test_a_folder_is_known_from_a_list_of_its_files(indexed: Callable, tmp_path: Path) -> None:
    index = indexed(text_list_of(tmp_path / "images"))
    assert new(index, tmp_path / "images") == []


@BY_BOTH
def test_names_that_are_not_utf_8_are_never_known_and_harm_nothing(
    indexed: Callable, tmp_path: Path, check_content: bool
) -> None:
    images = folder_of(tmp_path / "images")
    (images / os.fsdecode(b"caf\xe9.png")).write_bytes(png(7))
    source, known = look(indexed(images), images, check_content=check_content)
    assert [item for part in source.parts for item in part.read()] == [
        Failure("caf\\udce9.png", "file name is not UTF-8")
    ]
    assert known.skipped == 6
    assert known.gone(source) == []


def test_gone_are_deleted_files_of_that_folder_alone(indexed: Callable, tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images")
    index = indexed(tmp_path / "images")
    (images / "a/0.png").unlink()
    (images / "a/1.png").rename(images / "a/renamed.png")
    (images / "b/2.png").unlink()
    (images / "b/2.png").symlink_to("nowhere.png")
    (tmp_path / "imag").mkdir()  # whose name others begin with
    (tmp_path / "imag/x.png").write_bytes(png(0))
    source, known = look(index, images)
    assert keys(source) == ["a/renamed.png", "b/2.png"]
    assert known.gone(source) == [f"{images}/{name}" for name in ("a/0.png", "a/1.png")]
    assert known.doubts == {"broken symlink": 1}, "a link may lead to a disk that is not mounted"
    source, known = look(index, tmp_path / "imag")
    assert known.gone(source) == []


@BY_BOTH
@pytest.mark.parametrize(
    "number, reason",
    [
        (errno.EACCES, "permission denied"),
        (errno.EIO, "cannot be opened: Input/output error"),
        (errno.ESTALE, "cannot be opened: Stale file handle"),
        (errno.ENAMETOOLONG, "cannot be opened: File name too long"),
    ],
)
def test_a_folder_that_does_not_answer_keeps_its_rows_and_fails_by_name(
    indexed: Callable,
    tmp_path: Path,
    number: int,
    reason: str,
    check_content: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = folder_of(tmp_path / "images")
    index = indexed(images)
    (images / "b/0.png").unlink()
    fail_below(images / "a", number, monkeypatch)
    source, known = look(index, images, check_content=check_content)
    assert [item for part in source.parts for item in part.read()] == [Failure("a", reason)]
    assert known.gone(source) == [f"{images}/b/0.png"]
    assert known.doubts == {reason: 3}


@pytest.mark.parametrize("fate", ["emptied", "unmounted link"])
def test_a_disk_within_a_folder_that_is_not_mounted_keeps_its_rows(
    indexed: Callable, tmp_path: Path, fate: str
) -> None:
    images = folder_of(tmp_path / "images")
    (images / "a").rename(tmp_path / "disk")
    (images / "a").symlink_to(tmp_path / "disk")
    index = indexed(images)
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    if fate == "emptied":
        (tmp_path / "disk").mkdir()
    source, known = look(index, images)
    assert (source.parts, known.gone(source)) == ((), [])
    (reason,) = known.doubts
    assert ("is empty, as where a disk is not mounted" in reason) == (fate == "emptied")
    assert known.doubts.total() == 3


def test_excluded_are_files_that_a_folder_s_own_rows_come_from(
    indexed: Callable, encoder: Encoder, tmp_path: Path
) -> None:
    images = folder_of(tmp_path / "images")
    index = indexed(images)
    build_index(look(index, images / "a")[0], encoder, index, extends=True)  # nothing: they are known
    (images / "a/9.png").write_bytes(png(9))
    build_index(look(index, images / "a")[0], encoder, index, extends=True)  # as 9.png, which was named so
    known = Known(Index.open(index))
    for globs, names in (([], []), (["a"], ["a/0.png", "a/1.png", "a/2.png"]), (["/b/1.*"], ["b/1.png"])):
        source = open_source(images, known=known.unchanged, excludes=globs)
        assert known.excluded(source) == [f"{images}/{name}" for name in names]
        assert known.gone(source) == []
    (images / "b/1.png").unlink()
    source = open_source(images, known=known.unchanged, excludes=["/b/1.*"])
    assert known.excluded(source) == [], "it is gone"


def test_excluded_are_no_files_of_a_folder_within_whose_keys_begin_with_its_name(
    encoder: Encoder, tmp_path: Path
) -> None:
    images, index = folder_of(tmp_path / "images"), tmp_path / "i"
    build_index(open_source(images, excludes=["a"]), encoder, index)
    build_index(open_source(images / "a"), encoder, index, extends=True, key_prefix="a/")
    known = Known(Index.open(index))
    assert known.excluded(open_source(images, excludes=["a"])) == []
    assert known.excluded(open_source(images, excludes=["b/1.*"])) == [f"{images}/b/1.png"]


def written(place: Path, text: str) -> Path:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(text)
    return place


def mixed_list(place: Path) -> Path:
    """A parquet file that holds an image and names another."""
    images = [{"bytes": png(5), "path": "x"}, {"bytes": None, "path": "a/0.png"}]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    pq.write_table(pa.table({"image": pa.array(images, kind)}), place)
    return place


OTHERS = {
    "list in the folder": lambda images: written(images / "l.txt", "a/0.png"),
    "list above the folder": lambda images: written(images.parent / "l.txt", "images/a/0.png"),
    "list within the folder": lambda images: written(images / "b/l.txt", "../a/0.png"),
    "list elsewhere": lambda images: written(images.parent / "lists/l.txt", f"{images}/a/0.png"),
    "table with keys": lambda images: written(
        images.parent / "lists/l.csv", f"key,path\na/0.png,{images}/a/0.png"
    ),
    "parquet that holds images": lambda images: mixed_list(images / "l.parquet"),
    "folder above": lambda images: images.parent,
    "folder within": lambda images: images / "a",
    "file": lambda images: images / "a/0.png",
}


@pytest.mark.parametrize("prefix", [None, "a/"])
@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_excluded_are_no_files_of_rows_that_another_source_brought(
    encoder: Encoder, tmp_path: Path, make: Callable, prefix: str | None
) -> None:
    images, index = folder_of(tmp_path / "images"), tmp_path / "i"
    build_index(open_source(images, excludes=["a"]), encoder, index)
    source = open_source(make(images), known=Known(Index.open(index)).unchanged)
    build_index(source, encoder, index, extends=True, key_prefix=prefix)
    paths = Index.open(index).entries(["path"])["path"].to_pylist()
    assert str(images / "a/0.png") in map(os.path.realpath, paths)
    known = Known(Index.open(index))
    assert known.excluded(open_source(images, excludes=["a"])) == []
    assert known.excluded(open_source(images, excludes=["a", "b/1.*"])) == [f"{images}/b/1.png"]
    assert not known.claims


@pytest.mark.parametrize("make", OTHERS.values(), ids=OTHERS)
def test_excluded_are_a_folder_s_own_files_whatever_other_sources_there_are(
    encoder: Encoder, tmp_path: Path, make: Callable
) -> None:
    images, index = folder_of(tmp_path / "images"), tmp_path / "i"
    build_index(open_source(images), encoder, index)
    build_index(
        open_source(make(images), known=Known(Index.open(index)).unchanged), encoder, index, extends=True
    )
    known = Known(Index.open(index))
    assert known.excluded(open_source(images, excludes=["a/1.*", "b"])) == [
        f"{images}/{name}" for name in ("a/1.png", "b/0.png", "b/1.png", "b/2.png")
    ]


def test_excluded_are_no_files_whose_name_alone_another_source_brought(
    encoder: Encoder, tmp_path: Path
) -> None:
    images, index = folder_of(tmp_path / "images"), tmp_path / "i"
    shards = shards_of(tmp_path / "shards")
    shutil.copy(images / "a/0.png", images / "0.png")
    for folder, file in ((images, "0.png"), (shards, "y.tar")):
        shutil.rmtree(index, ignore_errors=True)
        build_index(open_source(folder, excludes=[file]), encoder, index)
        build_index(open_source(folder / file), encoder, index, extends=True)
        assert Known(Index.open(index)).excluded(open_source(folder, excludes=[file])) == []


def test_a_list_that_no_longer_names_a_file_does_not_keep_its_rows(encoder: Encoder, tmp_path: Path) -> None:
    images, index = folder_of(tmp_path / "images"), tmp_path / "i"
    build_index(open_source(images, excludes=["a"]), encoder, index)
    files = written(images / "l.txt", "a/0.png\na/1.png")
    build_index(open_source(files), encoder, index, extends=True)
    files.write_text("a/1.png")
    assert Known(Index.open(index)).excluded(open_source(images, excludes=["a"])) == [f"{images}/a/0.png"]


@pytest.mark.parametrize(
    "name, claimed",
    [
        ("images/l.txt", True),
        ("l.txt", False),  # it calls them images/a/0.png
        ("lists/l.txt", False),  # their names would lead out of its folder, or be absolute
        ("lists/l.csv", True),  # which may have had keys
    ],
)
def test_what_a_list_that_is_gone_may_have_brought_keeps_its_rows(
    encoder: Encoder, tmp_path: Path, name: str, claimed: bool
) -> None:
    images, index, files = folder_of(tmp_path / "images"), tmp_path / "i", tmp_path / name
    build_index(open_source(images), encoder, index)
    written(files, ("path\n" if files.suffix == ".csv" else "") + f"{images}/b/0.png")
    build_index(open_source(files), encoder, index, extends=True)
    files.unlink()
    known = Known(Index.open(index))
    names = [f"{images}/a/{number}.png" for number in range(3)]
    assert known.excluded(open_source(images, excludes=["a"])) == ([] if claimed else names)
    assert known.claims == ({str(files): 3} if claimed else {})


def test_shards_that_are_gone_claim_no_image_files(encoder: Encoder, tmp_path: Path) -> None:
    images, index, shards = folder_of(tmp_path / "images"), tmp_path / "i", tmp_path / "shards"
    build_index(open_source(images), encoder, index)
    build_index(open_source(f"{shards_of(shards)}/*.tar"), encoder, index, extends=True)
    shutil.rmtree(shards)
    known = Known(Index.open(index))
    names = [f"{images}/a/{number}.png" for number in range(3)]
    assert known.excluded(open_source(images, excludes=["a"])) == names
    assert not known.claims


def test_a_list_that_is_gone_may_have_called_files_from_the_root_on(encoder: Encoder, tmp_path: Path) -> None:
    images, index = folder_of(tmp_path / "images"), tmp_path / "i"
    build_index(open_source(images, excludes=["a"]), encoder, index)
    files = written(tmp_path / "lists/l.txt", f"{images}/a/0.png")
    build_index(open_source(files), encoder, index, extends=True, key_prefix="l/")
    files.unlink()
    assert Known(Index.open(index)).excluded(open_source(images, excludes=["a"])) == []


def test_a_file_that_two_rows_come_from_is_excluded_if_both_are_the_folder_s(
    encoder: Encoder, tmp_path: Path
) -> None:
    """As where indexes are merged."""
    images = folder_of(tmp_path / "images")
    files = written(tmp_path / "l.txt", f"{images}/a/0.png")
    build_index(open_source(images), encoder, tmp_path / "i")
    build_index(open_source(files), encoder, tmp_path / "j")
    gather([tmp_path / "i", tmp_path / "j"], tmp_path / "both", command="")
    assert Known(Index.open(tmp_path / "both")).excluded(open_source(images, excludes=["a"])) == [
        f"{images}/a/{number}.png" for number in (1, 2)
    ]


def test_excluded_shards(indexed: Callable, tmp_path: Path) -> None:
    images = shards_of(tmp_path / "images")
    known = Known(Index.open(indexed(images)))
    source = open_source(images, known=known.unchanged, excludes=["y*"])
    assert known.excluded(source) == [f"{images}/y.tar"]


def test_a_deleted_shard_is_gone(indexed: Callable, tmp_path: Path) -> None:
    images = shards_of(tmp_path / "images")
    index = indexed(images)
    (images / "x.tar").unlink()
    source, known = look(index, images)
    assert source.parts == ()
    assert known.gone(source) == [str(images / "x.tar")]
    source, known = look(index, images / "y.tar")
    assert known.gone(source) == [], "one shard says nothing of the others"


@pytest.mark.parametrize("make", [list_of, text_list_of])
def test_of_a_list_nothing_is_gone(indexed: Callable, tmp_path: Path, make: Callable) -> None:
    images = make(tmp_path / "images")
    index = indexed(images)
    (tmp_path / "images/a/1.png").unlink()
    source, known = look(index, images)
    assert [item.reason for part in source.parts for item in part.read() if isinstance(item, Failure)] == [
        "no such file"
    ]
    assert known.gone(source) == []


def test_which_files_images_come_from(indexed: Callable, tmp_path: Path) -> None:
    images = shards_of(tmp_path / "images")
    index = Index.open(indexed(images))
    assert in_use(index, [f"{images}/y.tar", "/none", f"{images}/x.tar"]) == [
        f"{images}/x.tar",
        f"{images}/y.tar",
    ]
    index.remove_files([f"{images}/x.tar"], command="")
    assert in_use(index.reopened(), [f"{images}/y.tar", f"{images}/x.tar"]) == [f"{images}/y.tar"]
    assert in_use(index, []) == []


def test_extending_replaces_what_changed_and_keeps_the_rest(
    indexed: Callable, encoder: Encoder, tmp_path: Path
) -> None:
    images = shards_of(tmp_path / "images")
    index = indexed(images)
    before = vector_of_key(Index.open(index))
    write_shard(images / "y.tar", {"1.png": png(1), "7.png": png(7)})
    write_shard(images / "z.tar", {"0.png": png(0)})
    build_index(look(index, images)[0], encoder, index, extends=True)

    after = Index.open(index)
    assert keys_of(after) == [*(f"x.tar:{n}" for n in range(3)), "y.tar:1", "y.tar:7", "z.tar:0"]
    assert (after.manifest.ntotal, after.manifest.removed) == (9, 3)
    for key, vector in vector_of_key(after).items():
        shard, _, stem = key.partition(":")
        if shard == "x.tar":
            np.testing.assert_array_equal(vector, before[key])
        number = int(stem) + (10 * ord("x") if shard == "x.tar" else 0)
        expected = encoder.embed(encoder.preprocess(png(number))[None])[0]
        np.testing.assert_allclose(vector, expected, atol=1e-3)
    assert look(index, images)[0].parts == ()


@settings(max_examples=12, deadline=None)
@given(
    nights=st.lists(
        st.lists(
            st.tuples(
                st.sampled_from(["write", "touch", "rewrite quietly", "remove", "copy"]), st.integers(0, 4)
            ),
            max_size=4,
        ),
        min_size=1,
        max_size=3,
    ),
    check_content=st.booleans(),
)
def test_night_after_night_the_index_is_as_if_built_anew(
    encoder: Encoder,
    tmp_path_factory: pytest.TempPathFactory,
    nights: list[list[tuple[str, int]]],
    check_content: bool,
) -> None:
    place = tmp_path_factory.mktemp("nights")
    images, count = place / "images", itertools.count()

    def write(file: Path) -> None:
        picture("red", next(count)).save(file)  # all of one size

    images.mkdir()
    for number in range(5):
        write(images / f"{number}.bmp")
    build_index(open_source(images), encoder, place / "i")
    for changes in nights:
        for change, number in changes:
            file = images / f"{number}.bmp"
            if change == "write" or not file.exists():
                write(file)
                touch(file)
            elif change == "touch":
                touch(file)
            elif change == "remove" and number:
                file.unlink()
            elif change == "copy":
                shutil.copy(file, images / f"{number + 3}.bmp")
            elif check_content:
                before = file.stat().st_mtime_ns
                write(file)
                os.utime(file, ns=(0, before))
        source, known = look(place / "i", images, check_content=check_content)
        gone = known.gone(source)
        if source.parts:
            build_index(source, encoder, place / "i", extends=True)
        Index.open(place / "i").remove_files(gone, command="")

    build_index(open_source(images), encoder, place / "anew")
    opened, anew = Index.open(place / "i"), Index.open(place / "anew")
    vectors = vector_of_key(opened)
    assert sorted(vectors) == keys_of(anew)
    for key, vector in vector_of_key(anew).items():
        np.testing.assert_allclose(vectors[key], vector, atol=1e-3)
    assert opened.duplicates == anew.duplicates
    assert verify(place / "i") == []
