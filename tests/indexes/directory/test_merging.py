"""Indexes with equal keys are joined: the first keeps its keys, later ones get their own name before them.

Kinds of equal names: of files in two folders, of shards, of three indexes and more, of indexes of one name,
of keys that have a prefix already, of images that failed, and of the very same image in both, which alone is
refused.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from entries import keys_of
from small_index import Row, build, contents, expected

from indexes import DuplicateKeyError, Index, IndexDamagedError, verify
from indexes.directory.change import gather, remove
from indexes.disk.rows import read_failures

NAMES = ("IMG_0000.jpg", "IMG_0001.jpg")


def camera(out: Path, *names: str, number: int = 0, failed: tuple[str, ...] = (), path: str = "") -> Path:
    """An index of a folder whose files are called as every camera calls them."""
    folder = path or f"/photos/{out.stem}"
    rows = [Row(name, f"{folder}/{name}", out.stem, number, f"{out.stem} {name}") for name in names]
    failures = [(key, "broken") for key in failed]
    return build(out, rows[:1], rows[1:], failures=failures, source=folder)


class Prefixes(logging.Handler):
    """Those that are told of: index and prefix."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[Path, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        path, prefix, out = record.args
        said = f"{path} has names that are taken: its keys begin with {prefix} in {out}"
        assert record.getMessage() == said
        self.told.append((path, prefix))


def gathered(paths: Sequence[Path], out: Path) -> list[tuple[Path, str]]:
    """Indexes whose keys got a prefix, and which."""
    logger, prefixes = logging.getLogger("indexes.directory.change"), Prefixes()
    level = logger.level
    logger.addHandler(prefixes)
    logger.setLevel(logging.INFO)
    try:
        gather(paths, out, command="merge")
    finally:
        logger.removeHandler(prefixes)
        logger.setLevel(level)
    return prefixes.told


def merge(*paths: Path, out: Path) -> dict[str, str]:
    """Prefixes that were told of, by name of the index."""
    told = {path.name: prefix for path, prefix in gathered(paths, out)}
    assert verify(out) == []
    return told


def keys(out: Path) -> list[str]:
    return keys_of(Index.open(out))


def vectors(out: Path) -> dict[str, bytes]:
    """Path -> vector."""
    return {path: vector for path, _, vector in contents(out).values()}


def test_the_two_years_of_the_readme(tmp_path: Path) -> None:
    years = [camera(tmp_path / f"{year}.index", *NAMES, number=year) for year in (2024, 2025)]
    out = tmp_path / "all.index"
    assert merge(*years, out=out) == {"2025.index": "2025/"}
    assert keys(out) == [*NAMES, *(f"2025/{name}" for name in NAMES)]
    assert vectors(out) == vectors(years[0]) | vectors(years[1])
    manifest = Index.open(out).manifest
    assert manifest.sources == ["/photos/2024", "/photos/2025"]
    assert manifest.key_prefixes == {"/photos/2025": "2025/"}
    assert manifest.classes == ["2024", "2025"]
    assert [keys(year) for year in years] == [list(NAMES)] * 2, "they are left as they were"


def test_one_clash_is_enough_and_none_changes_nothing(tmp_path: Path) -> None:
    first = camera(tmp_path / "a.index", "0.jpg", "1.jpg")
    one = camera(tmp_path / "b.index", "1.jpg", "2.jpg")
    none = camera(tmp_path / "c.index", "3.jpg")
    out = tmp_path / "all"
    assert merge(first, one, none, out=out) == {"b.index": "b/"}
    assert keys(out) == ["0.jpg", "1.jpg", "b/1.jpg", "b/2.jpg", "3.jpg"]


def test_of_three_with_equal_names_each_later_one_gets_its_own(tmp_path: Path) -> None:
    indexes = [camera(tmp_path / f"{name}.index", *NAMES) for name in "abc"]
    assert merge(*indexes, out=tmp_path / "all") == {"b.index": "b/", "c.index": "c/"}
    assert keys(tmp_path / "all") == [*NAMES, *(f"b/{n}" for n in NAMES), *(f"c/{n}" for n in NAMES)]


def test_indexes_of_one_name_and_names_that_are_folders_already(tmp_path: Path) -> None:
    first = camera(tmp_path / "1" / "photos.index", "a.jpg", "photos/a.jpg", path="/one")
    second = camera(tmp_path / "2" / "photos.index", "a.jpg", path="/two")
    third = camera(tmp_path / "3" / "photos.index", "a.jpg", path="/three")
    assert gathered([first, second, third], tmp_path / "all") == [
        (second, "2/photos/"),
        (third, "3/photos/"),
    ]


def test_prefixes_nest(tmp_path: Path) -> None:
    a, b, c, d = (camera(tmp_path / f"{name}.index", *NAMES) for name in "abcd")
    merge(a, b, out=tmp_path / "ab.index")
    merge(c, d, out=tmp_path / "cd.index")
    assert merge(tmp_path / "ab.index", tmp_path / "cd.index", out=tmp_path / "all.index") == {
        "cd.index": "cd/"
    }
    assert keys(tmp_path / "all.index") == [
        *NAMES,
        *(f"b/{name}" for name in NAMES),
        *(f"cd/{name}" for name in NAMES),
        *(f"cd/d/{name}" for name in NAMES),
    ]
    assert Index.open(tmp_path / "all.index").manifest.key_prefixes == {
        "/photos/b": "b/",
        "/photos/c": "cd/",
        "/photos/d": "cd/d/",
    }
    # And stay, whatever is done to the index later.
    remove(tmp_path / "all.index", lambda index: index.with_keys(["cd/d/IMG_0000.jpg"]), command="")
    gather([tmp_path / "all.index"], tmp_path / "all.index", command="compact")
    assert Index.open(tmp_path / "all.index").manifest.key_prefixes["/photos/d"] == "cd/d/"
    assert "cd/d/IMG_0000.jpg" not in keys(tmp_path / "all.index")


def test_shards_of_one_name(tmp_path: Path) -> None:
    paths = []
    for place in "ab":
        rows = [Row(f"00000.tar:{n}", f"/{place}/00000.tar", content=f"{place}{n}") for n in range(2)]
        paths.append(build(tmp_path / f"{place}.index", rows, source=f"/{place}"))
    merge(*paths, out=tmp_path / "all")
    assert keys(tmp_path / "all") == ["00000.tar:0", "00000.tar:1", "b/00000.tar:0", "b/00000.tar:1"]


@pytest.mark.parametrize("names", [("bad.jpg",), ("b.jpg", "bad.jpg")])
def test_neither_of_two_failures_hides_the_other_nor_a_row(tmp_path: Path, names: tuple[str, ...]) -> None:
    first = camera(tmp_path / "a.index", "a.jpg", failed=("bad.jpg",))
    second = camera(tmp_path / "b.index", "c.jpg", *names[:-1], failed=(names[-1],))
    merge(first, second, out=tmp_path / "all")
    failures = read_failures(tmp_path / "all" / "failures.parquet")["key"].to_pylist()
    assert failures == ["bad.jpg", "b/bad.jpg"]


def test_removed_rows_take_no_names(tmp_path: Path) -> None:
    first, second = (camera(tmp_path / f"{name}.index", *NAMES) for name in "ab")
    remove(first, lambda index: index.with_keys([NAMES[0]]), command="")
    remove(second, lambda index: index.with_keys([NAMES[1]]), command="")
    assert merge(first, second, out=tmp_path / "all") == {}
    assert sorted(keys(tmp_path / "all")) == list(NAMES)


def test_of_removed_rows_nothing_comes_along_under_a_prefix(tmp_path: Path) -> None:
    first, second = (camera(tmp_path / f"{name}.index", "0", "1", "2") for name in "ab")
    remove(second, lambda index: index.with_keys(["1"]), command="")
    merge(first, second, out=tmp_path / "all")
    assert keys(tmp_path / "all") == ["0", "1", "2", "b/0", "b/2"]


def test_other_images_that_were_once_at_one_path(tmp_path: Path) -> None:
    """A memory card is read in the same place every year."""
    indexes = [camera(tmp_path / f"{year}.index", *NAMES, path="/media/card") for year in (2024, 2025)]
    merge(*indexes, out=tmp_path / "all")
    assert keys(tmp_path / "all") == [*NAMES, *(f"2025/{name}" for name in NAMES)]
    assert Index.open(tmp_path / "all").manifest.key_prefixes == {}, "new ones go on as in the first"


@pytest.mark.parametrize("again", ["itself", "copy", "third"])
def test_the_very_same_image_in_two_of_them_is_refused(tmp_path: Path, again: str) -> None:
    first = camera(tmp_path / "a.index", *NAMES)
    indexes = [first, first]
    if again == "copy":
        indexes[1] = shutil.copytree(first, tmp_path / "b.index")
    elif again == "third":
        indexes.insert(0, camera(tmp_path / "b.index", *NAMES))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(
        DuplicateKeyError, match=r"'IMG_0000.jpg' of /photos/a/.* occurs more than once, in .*a\.index"
    ):
        merge(*indexes, out=tmp_path / "all")
    assert sorted(tmp_path.iterdir()) == before


def test_merged_into_one_of_them_again_and_again(tmp_path: Path) -> None:
    """Which is what a shell script does every year."""
    out = camera(tmp_path / "all.index", *NAMES)
    for year in (2024, 2025, 2026):
        merge(out, camera(tmp_path / f"{year}.index", *NAMES), out=out)
    assert keys(out) == [*NAMES, *(f"{year}/{name}" for year in (2024, 2025, 2026) for name in NAMES)]


def test_damaged_rows_are_not_sealed_under_a_prefix(tmp_path: Path) -> None:
    first, second = (camera(tmp_path / f"{name}.index", *NAMES) for name in "ab")
    rows = second / "vectors" / "part-00000.parquet"
    data = bytearray(rows.read_bytes())
    data[-20] ^= 1
    rows.write_bytes(data)
    with pytest.raises(IndexDamagedError):
        merge(first, second, out=tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_rows_without_hashes_are_told_apart_by_their_files(tmp_path: Path) -> None:
    first = build(tmp_path / "a.index", [Row("a", "/1/a")])
    second = build(tmp_path / "b.index", [Row("a", "/2/a")])
    merge(first, second, out=tmp_path / "all")
    assert contents(tmp_path / "all") == expected([Row("a", "/1/a")]) | {
        "b/a": ("/2/a", None, Row("a", "").vector.tobytes())
    }
