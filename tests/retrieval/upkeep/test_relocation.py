"""`relocate`: an index follows images that moved, after a look at each, and nothing is embedded.

Kinds of sources: a folder, a folder of one, a single image, shards, a list beside its images or elsewhere.
Kinds of moves: renamed, copied with and without times, through a link. Kinds of mistakes: a wrong old or new
place, other images there, some missing, rows of both places.
"""

import os
import shutil
from pathlib import Path

import pytest
from entries import paths_of
from nightly import Nightly, folder, png, shards
from watched import Watched

from indexes import Index, IndexBusyError, RelocationError, verify
from indexes.directory.change import note_excludes
from indexes.disk.staging import Staging
from retrieval import Encoder
from retrieval.upkeep.relocation import relocate_index

NAMES = ("0.png", "a/1.png", "a/2.png", "b/3.png")


@pytest.fixture
def nightly(encoder: Encoder, tmp_path: Path) -> Nightly:
    return Nightly(encoder, tmp_path / "i")


@pytest.fixture
def photos(nightly: Nightly, tmp_path: Path) -> Path:
    photos = folder(tmp_path / "photos", *NAMES)
    nightly.add(photos, "p/")
    nightly.embedded.clear()
    return photos


def relocate(nightly: Nightly, old: Path | str, new: Path | str, **options: bool) -> tuple[int, int]:
    return relocate_index(nightly.out, str(old), str(new), command="relocate", **options)


def unchanged(nightly: Nightly, old: Path | str, new: Path | str, message: str, **options: bool) -> None:
    before = {file: file.read_bytes() for file in nightly.out.rglob("*") if file.is_file()}
    with pytest.raises(RelocationError, match=message) as caught:
        relocate(nightly, old, new, **options)
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in nightly.out.rglob("*") if file.is_file()} == before
    assert not nightly.out.with_name("i.partial").exists()


@pytest.mark.parametrize("how", ["renamed", "copied", "copied without times", "content"])
def test_a_folder_that_moved(nightly: Nightly, photos: Path, tmp_path: Path, how: str) -> None:
    before, inodes = nightly.vectors, vector_inodes(nightly.out)
    new = tmp_path / "new" / "pictures"
    new.parent.mkdir()
    if how in ("renamed", "content"):
        photos.rename(new)
    else:
        shutil.copytree(photos, new, copy_function=shutil.copy2 if how == "copied" else shutil.copy)
    compared = Watched("files compared")
    counts = relocate(nightly, photos, new, check_content=how == "content", progress=compared)
    assert (counts, compared.done, set(compared.totals)) == ((4, 0), [0, 1, 2, 3, 4], {4})
    assert nightly.paths == {f"p/{name}": str(new / name) for name in NAMES}
    assert nightly.vectors == before
    assert vector_inodes(nightly.out) == inodes, "no vector is written"
    manifest = nightly.index.manifest
    assert (manifest.sources, manifest.key_prefixes) == ([str(new)], {str(new): "p/"})
    assert manifest.command == "relocate"
    assert verify(nightly.out) == []
    # And the night after, nothing is new.
    folder(new, "9.png", first=9)
    assert nightly.add(new, prune=True) == []
    assert nightly.embedded == [1]
    assert sorted(nightly.keys) == sorted(f"p/{name}" for name in (*NAMES, "9.png"))


def vector_inodes(out: Path) -> list[int]:
    return [file.stat().st_ino for file in sorted((out / "vectors").glob("*.npy"))]


def test_there_and_back_again(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    before = nightly.paths, nightly.index.manifest.sources
    photos.rename(tmp_path / "new")
    relocate(nightly, photos, tmp_path / "new")
    (tmp_path / "new").rename(photos)
    relocate(nightly, tmp_path / "new", photos)
    assert (nightly.paths, nightly.index.manifest.sources) == before


def test_places_are_named_in_many_ways(
    nightly: Nightly, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos.rename(tmp_path / "new")
    (tmp_path / "link").symlink_to("new")
    assert relocate(nightly, "./photos/", "link/") == (4, 0)
    assert nightly.paths["p/0.png"] == str(tmp_path / "new" / "0.png")


def test_the_old_place_is_a_link_to_the_new_one(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    photos.rename(tmp_path / "new")
    photos.symlink_to("new")
    assert relocate(nightly, photos, tmp_path / "new") == (4, 0)
    assert nightly.add(photos) == []
    assert nightly.embedded == []


def test_one_folder_of_a_source(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    (photos / "a").rename(tmp_path / "archive")
    assert relocate(nightly, photos / "a", tmp_path / "archive") == (2, 0)
    assert nightly.paths == {f"p/{name}": str(photos / name) for name in NAMES if name[0] != "a"} | {
        f"p/a/{n}.png": str(tmp_path / "archive" / f"{n}.png") for n in (1, 2)
    }
    assert nightly.index.manifest.key_prefixes == {str(photos): "p/", str(tmp_path / "archive"): "p/a/"}
    folder(tmp_path / "archive", "9.png", first=9)
    nightly.add(tmp_path / "archive")
    nightly.add(photos, prune=True)
    assert sorted(nightly.keys) == sorted(f"p/{name}" for name in (*NAMES, "a/9.png"))


def test_what_was_mounted_is_the_root_now(nightly: Nightly, tmp_path: Path) -> None:
    """As where an index was built in a container, of a disk that it sees elsewhere."""
    mounted, new = tmp_path / "mnt", tmp_path / "photos"
    photos = folder(mounted / new.relative_to("/"), *NAMES)
    nightly.add(mounted)
    photos.rename(new)
    assert relocate(nightly, mounted, "/") == (4, 0)
    assert sorted(nightly.paths.values()) == sorted(str(new / name) for name in NAMES)
    assert nightly.index.manifest.sources == ["/"]


def test_a_single_image(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    (photos / "a" / "1.png").rename(tmp_path / "one.png")
    assert relocate(nightly, photos / "a" / "1.png", tmp_path / "one.png") == (1, 0)
    assert nightly.paths["p/a/1.png"] == str(tmp_path / "one.png")
    assert nightly.index.manifest.sources == [str(photos)]


@pytest.mark.parametrize("check_content", [False, True])
@pytest.mark.parametrize("pattern", ["", "*.tar", "{0,1}.tar"])
def test_shards(nightly: Nightly, tmp_path: Path, pattern: str, check_content: bool) -> None:
    place, new = shards(tmp_path / "s", "0.tar", "1.tar"), tmp_path / "t"
    nightly.add(place / pattern if pattern else place)
    place.rename(new)
    os.utime(new / "0.tar", ns=(0, 1))
    assert relocate(nightly, place, new, check_content=check_content) == (2, 0)
    assert nightly.index.manifest.sources == [str(new / pattern) if pattern else str(new)]
    nightly.embedded.clear()
    assert nightly.add(new / pattern if pattern else new) == []
    assert nightly.embedded == []


def test_a_shard_of_other_images(nightly: Nightly, tmp_path: Path) -> None:
    place, new = shards(tmp_path / "s", "0.tar", "1.tar"), shards(tmp_path / "t", "0.tar", first=5)
    nightly.add(place)
    (place / "1.tar").rename(new / "1.tar")
    unchanged(nightly, place, new, r"1 of 2 files .* 0 are missing there; .*/t/0\.tar, is another image")


@pytest.mark.parametrize("beside", [True, False])
def test_a_list(nightly: Nightly, tmp_path: Path, beside: bool) -> None:
    place, new = folder(tmp_path / "photos", *NAMES), tmp_path / "new"
    lines = [name if beside else str(place / name) for name in NAMES]
    text = (place if beside else tmp_path) / "l.txt"
    text.write_text("\n".join(lines))
    nightly.add(text)
    place.rename(new)
    assert relocate(nightly, place, new) == (4, 0)
    assert nightly.index.manifest.sources == [str(new / "l.txt") if beside else str(text)]
    nightly.embedded.clear()
    if not beside:
        text.write_text("\n".join(str(new / name) for name in NAMES))
    assert nightly.add(new / "l.txt" if beside else text) == []
    assert (nightly.embedded, nightly.keys) == ([], lines)


# --- mistakes ---


def test_a_wrong_old_place(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    for old in ("nowhere", "photo", "photos/c", "photos/0.pn"):
        message = r"no image of .* comes from .*; it has .*/photos"
        unchanged(nightly, tmp_path / old, tmp_path, message)


def test_a_wrong_new_place(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    unchanged(nightly, photos, tmp_path / "nowhere", "nowhere: no such file or folder")
    (tmp_path / "empty").mkdir()
    for keep in (False, True):
        unchanged(
            nightly, photos, tmp_path / "empty", "4 of 4 .* 4 are missing .* check both", keep_missing=keep
        )
    unchanged(nightly, photos, tmp_path, "4 of 4 files .* 4 are missing there")


@pytest.mark.parametrize("keep", [False, True])
def test_other_images_in_the_new_place(nightly: Nightly, photos: Path, tmp_path: Path, keep: bool) -> None:
    folder(tmp_path / "new", *NAMES, first=20)
    unchanged(nightly, photos, tmp_path / "new", "0 are missing there.*is another image", keep_missing=keep)


def test_other_bytes_of_the_same_size_and_time(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    new = shutil.copytree(photos, tmp_path / "new")
    file = new / "0.png"
    status, data = file.stat(), bytearray(file.read_bytes())
    data[-20] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    unchanged(nightly, photos, new, r"1 of 4 .*0\.png, is another image", check_content=True)


def test_half_of_the_files_are_missing(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    new = shutil.copytree(photos, tmp_path / "new")
    (new / "a" / "2.png").unlink()
    (new / "0.png").write_bytes(png(50))
    unchanged(nightly, photos, new, "2 of 4 files .* 1 are missing there; .* --missing keep")
    assert relocate(nightly, photos, new, keep_missing=True) == (2, 2)
    assert nightly.paths == {
        "p/0.png": str(photos / "0.png"),
        "p/a/1.png": str(new / "a" / "1.png"),
        "p/a/2.png": str(photos / "a" / "2.png"),
        "p/b/3.png": str(new / "b" / "3.png"),
    }
    manifest = nightly.index.manifest
    assert manifest.key_prefixes == {str(photos): "p/", str(new): "p/"}
    assert verify(nightly.out) == []


def test_files_of_the_new_place_that_have_rows_already(
    nightly: Nightly, photos: Path, tmp_path: Path
) -> None:
    new = shutil.copytree(photos, tmp_path / "new")
    nightly.add(new)
    unchanged(nightly, photos, new, "4 rows come from files at .*/new already .*: remove them")
    Index.open(nightly.out).remove_where("path like '%/new/%'", command="")
    assert relocate(nightly, photos, new) == (4, 0)


def test_rows_of_other_places_and_removed_ones_stay(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    other = folder(tmp_path / "photos2", "0.png", first=30)
    nightly.add(other)
    Index.open(nightly.out).remove(["p/a/1.png"], command="")
    photos.rename(tmp_path / "new")
    assert relocate(nightly, photos, tmp_path / "new") == (3, 0)
    assert nightly.paths["0.png"] == str(other / "0.png")
    assert "p/a/1.png" not in nightly.keys
    assert nightly.index.manifest.sources == [str(tmp_path / "new"), str(other)]


def test_a_busy_index(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    new = shutil.copytree(photos, tmp_path / "new")
    with Staging(nightly.out, replaces=True), pytest.raises(IndexBusyError):
        relocate(nightly, photos, new)
    assert paths_of(Index.open(nightly.out))[0] == str(photos / "0.png")


def test_what_is_excluded_moves_along(nightly: Nightly, photos: Path, tmp_path: Path) -> None:
    note_excludes(nightly.out, str(photos), ["raw/", "/a/thumbs"])
    photos.rename(tmp_path / "new")
    relocate(nightly, photos, tmp_path / "new")
    assert nightly.index.manifest.excludes == {str(tmp_path / "new"): ["raw/", "/a/thumbs"]}
    (tmp_path / "new" / "a").rename(tmp_path / "a")
    relocate(nightly, tmp_path / "new" / "a", tmp_path / "a")
    assert nightly.index.manifest.excludes == {
        str(tmp_path / "new"): ["raw/", "/a/thumbs"],
        str(tmp_path / "a"): ["raw/"],
    }
