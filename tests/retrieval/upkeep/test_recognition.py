"""Images that the index has already are not embedded again, and rows follow files that moved.

Kinds of moves: a file renamed or put into another folder, a folder renamed, half of one, one replaced by a
link to where it is now, shards renamed and repacked, a list's files; files copied or touched. What is none:
other images under the old names, files that are still there.
"""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from entries import column_of, labels_of, paths_of
from nightly import Nightly, folder, png, shards
from small_world import write_shard

from indexes import Index, IndexDamagedError, verify
from retrieval import Encoder, build_index, open_source
from retrieval.encoding.batches import batches
from retrieval.sources.sample import content_of
from retrieval.upkeep.recognition import KnownContents

NAMES = ("0.png", "a/1.png", "a/2.png", "b/3.png")


@pytest.fixture
def nightly(encoder: Encoder, tmp_path: Path) -> Nightly:
    return Nightly(encoder, tmp_path / "i")


@pytest.fixture
def photos(nightly: Nightly, tmp_path: Path) -> Path:
    """An indexed folder of four images, whose embedding is forgotten."""
    photos = folder(tmp_path / "photos", *NAMES)
    nightly.add(photos)
    nightly.embedded.clear()
    return photos


def told(known: int, moved: int) -> list[str]:
    return [
        f"{known} images are known by their bytes, and were not embedded again",
        f"{moved} rows follow files that moved",
    ]


def test_a_library_that_moved_is_kept(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    before = nightly.vectors
    photos.rename(tmp_path / "pictures")
    assert nightly.add(tmp_path / "pictures") == told(4, 4)
    assert nightly.embedded == []
    assert nightly.paths == {name: str(tmp_path / "pictures" / name) for name in NAMES}
    assert nightly.vectors == before
    assert nightly.add(tmp_path / "pictures", prune=True) == []
    assert labels_of(nightly.index)[-4:] == [None, "a", "a", "b"]


def test_a_file_renamed_or_moved_within_its_folder(nightly: Nightly, photos: Path) -> None:
    before = nightly.vectors
    (photos / "a" / "1.png").rename(photos / "b" / "one.png")
    (photos / "0.png").rename(photos / "zero.png")
    assert nightly.add(photos) == told(2, 2)
    assert sorted(nightly.keys) == ["a/2.png", "b/3.png", "b/one.png", "zero.png"]
    assert (nightly.embedded, nightly.vectors) == ([], before)
    assert [entry.label for entry in nightly.index.fetch(["b/one.png"])] == ["b"]


def test_two_files_that_changed_names(nightly: Nightly, photos: Path) -> None:
    before = nightly.vectors
    for old, new in (("a/1.png", "x"), ("a/2.png", "a/1.png"), ("x", "a/2.png")):
        (photos / old).rename(photos / new)
    nightly.add(photos)
    assert (nightly.embedded, nightly.vectors) == ([], before)
    contents = dict(zip(nightly.keys, column_of(nightly.index, "content"), strict=True))
    assert contents["a/1.png"] == content_of(png(2))


def test_half_of_a_library_moved(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (photos / "a").rename(tmp_path / "archive" / "a")
    folder(tmp_path / "archive", "a/9.png", first=9)
    assert nightly.add(tmp_path / "archive") == told(2, 2)
    assert nightly.embedded == [1]
    assert sorted(nightly.keys) == ["0.png", "a/1.png", "a/2.png", "a/9.png", "b/3.png"]


def test_files_that_were_touched_or_copied(nightly: Nightly, photos: Path) -> None:
    os.utime(photos / "0.png", ns=(0, 1))
    shutil.copy(photos / "a" / "1.png", photos / "copy.png")
    assert nightly.add(photos) == told(2, 0)[:1]
    assert nightly.embedded == []
    assert sorted(nightly.keys) == sorted([*NAMES, "copy.png"])
    assert nightly.index.duplicates == 1
    assert nightly.add(photos) == []


def test_a_folder_that_became_a_link(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    """The files are at their old paths still, by way of the link."""
    photos.rename(tmp_path / "disk")
    photos.symlink_to("disk")
    assert nightly.add(photos) == told(4, 4)
    assert nightly.paths == {name: str(tmp_path / "disk" / name) for name in NAMES}
    assert nightly.embedded == []


def test_a_linked_file_keeps_its_row(nightly: Nightly, tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", "a.png")
    (photos / "link.png").symlink_to("a.png")
    nightly.add(photos)
    os.utime(photos / "a.png", ns=(0, 1))
    nightly.add(photos)
    assert sorted(nightly.keys) == ["a.png", "link.png"]


def test_other_images_under_the_old_names_are_no_moved_ones(
    nightly: Nightly, photos: Path, tmp_path: Path
) -> None:
    """The rows of the old ones stay until they are pruned: nothing says where those images are."""
    shutil.rmtree(photos)
    assert len(nightly.add(folder(tmp_path / "new", *NAMES, first=20))) == 1
    assert nightly.embedded == [4]
    assert sorted(nightly.keys) == sorted([*NAMES, *(f"new/{name}" for name in NAMES)])


def test_rows_whose_files_are_still_there_stay(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    backup = shutil.copytree(photos, tmp_path / "backup")
    assert nightly.add(backup)[1:] == told(4, 0)[:1]
    assert sorted(nightly.keys) == sorted([*NAMES, *(f"backup/{name}" for name in NAMES)])
    assert nightly.embedded == []


def test_shards_that_were_renamed_and_repacked(nightly: Nightly, tmp_path: Path) -> None:
    place = shards(tmp_path / "s", "0.tar", "1.tar", "2.tar")
    nightly.add(place)
    before = nightly.vectors
    (place / "0.tar").rename(place / "zero.tar")
    members = {f"{name}-{n}.png": png(10 * name + n) for name in (1, 2) for n in range(2)}
    write_shard(place / "both.tar", members | {"new.png": png(99)})
    for name in ("1.tar", "2.tar"):
        (place / name).unlink()
    nightly.embedded.clear()
    assert nightly.add(place) == told(6, 6)
    assert nightly.embedded == [1]
    assert {key.partition(":")[0] for key in nightly.keys} == {"zero.tar", "both.tar"}
    assert len(nightly.keys) == 7
    assert before.items() <= nightly.vectors.items()


def test_a_list_whose_files_moved(nightly: Nightly, tmp_path: Path) -> None:
    place = folder(tmp_path / "photos", *NAMES)
    table = pa.table({"path": NAMES, "key": [f"key {name}" for name in NAMES], "year": ["2024"] * 4})
    pq.write_table(table, place / "l.parquet")
    nightly.add(place / "l.parquet")
    place.rename(tmp_path / "moved")
    nightly.embedded.clear()
    nightly.add(tmp_path / "moved" / "l.parquet")
    assert nightly.embedded == []
    assert sorted(nightly.keys) == sorted(f"key {name}" for name in NAMES)
    assert set(column_of(nightly.index, "year")) == {"2024"}


def test_an_index_whose_writer_kept_no_hashes_embeds_everything(encoder: Encoder) -> None:
    assert "0" * 32 not in KnownContents()
    assert "" not in KnownContents()


def test_only_rows_that_can_be_found_are_known(nightly: Nightly, photos: Path) -> None:
    Index.open(nightly.out).remove(["0.png"], command="")
    contents = KnownContents(nightly.index)
    assert content_of(png(0)) not in contents
    assert all(content_of(png(number)) in contents for number in (1, 2, 3))
    assert content_of(png(4)) not in contents
    assert contents.keys([content_of(png(number)) for number in (3, 1)]) == ["b/3.png", "a/1.png"]


def test_worker_processes_know_them_too(nightly: Nightly, photos: Path, encoder: Encoder) -> None:
    known = KnownContents(nightly.index)
    folder(photos, "new.png", first=9)
    found = list(batches(open_source(photos).parts, encoder, batch_size=2, workers=1, known=known))
    assert [(len(batch.known), len(batch.samples)) for batch in found] == [(2, 0), (2, 0), (0, 1)]


def test_damaged_vectors_are_not_sealed_as_sound(
    nightly: Nightly, photos: Path, encoder: Encoder, tmp_path: Path
) -> None:
    part = nightly.out / "vectors" / "part-00000.npy"
    data = bytearray(part.read_bytes())
    data[-1] ^= 1
    part.write_bytes(data)
    photos.rename(tmp_path / "pictures")
    with pytest.raises(IndexDamagedError, match=r"part-00000\.npy has changed since it was written"):
        build_index(open_source(tmp_path / "pictures"), encoder, nightly.out, extends=True)
    assert verify(nightly.out) == ["vectors/part-00000.npy: its bytes have changed"]
    assert paths_of(Index.open(nightly.out))[0] == str(photos / "0.png")
