"""What was removed from an index stays removed, whatever becomes of its files, until somebody asks for it."""

import os
import shutil
from pathlib import Path

import pytest
from nightly import folder, png
from small_world import write_shard

from indexes import Index, verify
from indexes.directory.change import gather
from retrieval import Encoder, add_to_index, build_index, open_source
from retrieval.upkeep.add import Added
from retrieval.upkeep.built import Built
from retrieval.upkeep.relocation import relocate_index


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return folder(tmp_path / "photos", "a.png", "b.png", "c/d.png")


@pytest.fixture
def out(photos: Path, encoder: Encoder, tmp_path: Path) -> Path:
    build_index(open_source(photos), encoder, tmp_path / "i")
    Index.open(tmp_path / "i").remove(["a.png"], command="")
    return tmp_path / "i"


def add(out: Path, images: Path, *, restore: bool = False, check_content: bool = False) -> Added:
    added = add_to_index(
        out, images, device="cpu", dtype="fp32", restore_removed=restore, check_content=check_content
    )
    assert verify(out) == []
    return added


def keys(out: Path) -> list[str]:
    found: list[str] = Index.open(out).entries(["key"])["key"].to_pylist()
    return sorted(found)


@pytest.mark.parametrize("check_content", [False, True])
def test_files_as_they_were_are_not_even_read(photos: Path, out: Path, check_content: bool) -> None:
    before = Index.open(out).manifest
    added = add(out, photos, check_content=check_content)
    assert (added.built, added.kept_out, added.restored) == (Built(), 1, 0)
    assert Index.open(out).manifest == before
    assert keys(out) == ["b.png", "c/d.png"]


def test_the_same_bytes_stay_out_touched_renamed_and_after_compacting(photos: Path, out: Path) -> None:
    gather([out], out, command="")
    os.utime(photos / "a.png", (1, 1))
    for _ in range(2):  # read once, and from then on known by size and time
        assert add(out, photos).kept_out == 1
        assert keys(out) == ["b.png", "c/d.png"]
    (photos / "a.png").rename(photos / "c" / "renamed.png")
    assert add(out, photos).built.kept_out == 1
    gather([out], out, command="")
    assert add(out, photos).built == Built()
    assert keys(out) == ["b.png", "c/d.png"]


def test_another_picture_in_the_same_file_is_a_new_image(photos: Path, out: Path) -> None:
    (photos / "a.png").write_bytes(png(9))
    assert add(out, photos).built == Built(new=1)
    assert keys(out) == ["a.png", "b.png", "c/d.png"]
    assert len(Index.open(out).kept_out()) == 0


def test_a_copy_that_was_removed_hides_none_of_the_others(photos: Path, out: Path) -> None:
    shutil.copy(photos / "b.png", photos / "copy.png")
    add(out, photos)
    Index.open(out).remove(["copy.png"], command="")
    os.utime(photos / "copy.png", (1, 1))
    shutil.copy(photos / "b.png", photos / "another.png")
    assert add(out, photos).built == Built(new=1, kept_out=1)
    assert keys(out) == ["another.png", "b.png", "c/d.png"]


@pytest.mark.parametrize("compacted", [False, True])
def test_restored_when_asked_and_then_as_any_other(photos: Path, out: Path, compacted: bool) -> None:
    if compacted:
        gather([out], out, command="")
    added = add(out, photos, restore=True)
    assert (added.built, added.kept_out, added.restored) == (Built(new=1), 0, 1)
    assert keys(out) == ["a.png", "b.png", "c/d.png"]
    assert "kept_out.parquet" not in {file.name for file in out.iterdir()}
    assert add(out, photos).built == Built()


def test_what_was_pruned_may_come_back(photos: Path, out: Path) -> None:
    (photos / "b.png").rename(photos.parent / "b.png")
    Index.open(out).remove_files(add(out, photos).gone, command="")
    (photos.parent / "b.png").rename(photos / "b.png")
    assert add(out, photos).built == Built(new=1)
    assert keys(out) == ["b.png", "c/d.png"]


def test_images_of_a_shard(encoder: Encoder, tmp_path: Path) -> None:
    shards, out = tmp_path / "shards", tmp_path / "i"
    images = {f"{n}.png": png(n) for n in range(3)} | {"same.png": png(2)}
    shards.mkdir()
    write_shard(shards / "x.tar", images)
    build_index(open_source(shards), encoder, out)
    Index.open(out).remove(["x.tar:0", "x.tar:same"], command="")
    assert add(out, shards).built == Built()
    write_shard(shards / "x.tar", images | {"new.png": png(7)})
    assert add(out, shards).built == Built(new=1, kept_out=2)
    assert keys(out) == ["x.tar:1", "x.tar:2", "x.tar:new"]
    assert add(out, shards, restore=True).restored == 2
    assert keys(out) == ["x.tar:0", "x.tar:1", "x.tar:2", "x.tar:new", "x.tar:same"]


def test_the_library_moves(photos: Path, out: Path) -> None:
    moved = photos.rename(photos.parent / "elsewhere")
    assert relocate_index(out, str(photos), str(moved), command="") == (2, 0)
    assert Index.open(out).kept_out()["path"].to_pylist() == [str(moved / "a.png")]
    assert add(out, moved).built == Built()


def test_merging_remembers_what_none_of_the_indexes_shows(
    photos: Path, out: Path, encoder: Encoder, tmp_path: Path
) -> None:
    other = folder(tmp_path / "other", "e.png", "f.png", first=10)
    build_index(open_source(other), encoder, tmp_path / "j")
    Index.open(tmp_path / "j").remove(["f.png"], command="")
    gather([out, tmp_path / "j"], tmp_path / "both", command="")
    assert sorted(Index.open(tmp_path / "both").kept_out()["key"].to_pylist()) == ["a.png", "f.png"]
    for images in (photos, other):
        assert add(tmp_path / "both", images).built == Built()


def test_a_new_source_with_a_removed_image(photos: Path, out: Path, tmp_path: Path) -> None:
    elsewhere = folder(tmp_path / "backup", "a.png", "z.png", first=0)
    (elsewhere / "z.png").write_bytes(png(8))
    assert add(out, elsewhere).built == Built(new=1, kept_out=1)
    assert keys(out) == ["b.png", "c/d.png", "z.png"]
