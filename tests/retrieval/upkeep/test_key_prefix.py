"""Sources with equal names in one index: found before the work, told apart by a prefix, which is remembered.

Kinds: two folders, folders within folders, two lists, shards of one name in one source and in two, a set, a
single image, images that failed, and clashes that only reading finds.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from entries import keys_of, labels_of, paths_of
from nightly import Nightly, folder, png, shards
from small_world import write_shard

from indexes import DuplicateKeyError, Index, KeyPrefixError
from indexes.disk.rows import read_failures
from retrieval import Encoder, Searcher, open_source
from retrieval.measuring.evaluate import evaluate
from retrieval.showing.thumbnail import thumbnail
from retrieval.sources.originals import originals
from retrieval.upkeep.known_files import Known
from retrieval.upkeep.reembed import reembed

Add = Callable[..., list[str]]


@pytest.fixture
def nightly(encoder: Encoder, tmp_path: Path) -> Nightly:
    return Nightly(encoder, tmp_path / "i")


@pytest.fixture
def add(nightly: Nightly) -> Add:
    return nightly.add


@pytest.fixture
def embedded(nightly: Nightly) -> list[int]:
    return nightly.embedded


def keys(index: Path) -> list[str]:
    return keys_of(Index.open(index))


def prefixes(index: Path) -> dict[str, str]:
    return Index.open(index).manifest.key_prefixes


def test_a_second_folder_with_equal_names(add: Add, embedded: list[int], tmp_path: Path) -> None:
    photos, more = folder(tmp_path / "photos", "0.png", "1.png"), folder(tmp_path / "more", "1.png", first=5)
    assert add(photos) == []
    assert add(more) == [
        f"the key '1.png' is taken by {photos}/1.png: from now on, keys of {more} begin with more/"
    ]
    assert keys(tmp_path / "i") == ["0.png", "1.png", "more/1.png"]
    assert prefixes(tmp_path / "i") == {str(more): "more/"}
    assert embedded == [2, 1]


def test_without_a_clash_there_is_no_prefix(add: Add, tmp_path: Path) -> None:
    add(folder(tmp_path / "photos", "0.png"))
    assert add(folder(tmp_path / "more", "1.png", first=1)) == []
    assert keys(tmp_path / "i") == ["0.png", "1.png"]
    assert prefixes(tmp_path / "i") == {}


def test_a_prefix_is_remembered_night_after_night(add: Add, tmp_path: Path) -> None:
    photos, more = folder(tmp_path / "photos", "0.png"), folder(tmp_path / "more", "0.png", first=5)
    (tmp_path / "link").symlink_to("more")
    add(photos)
    add(more)
    for night, name in enumerate((more, f"{more}/", tmp_path / "link", tmp_path / "photos/../more"), 10):
        folder(more, f"{night}.png", first=night)
        (more / f"{night - 1}.png").unlink(missing_ok=True)
        (more / "0.png").write_bytes(png(100 + night))
        os.utime(more / "0.png", ns=(0, night))
        assert add(name, prune=True) == []
        assert sorted(keys(tmp_path / "i")) == ["0.png", "more/0.png", f"more/{night}.png"]
    folder(photos, "9.png", first=9)
    assert add(photos) == []
    assert "9.png" in keys(tmp_path / "i")
    assert prefixes(tmp_path / "i") == {str(more): "more/"}
    assert Index.open(tmp_path / "i").manifest.sources == [str(photos), str(more)]


def test_a_prefix_that_was_asked_for(add: Add, tmp_path: Path) -> None:
    photos, more = folder(tmp_path / "photos", "a/0.png"), folder(tmp_path / "more", "a/0.png", first=5)
    assert add(photos, "2024/") == []
    assert add(more, "2025 ") == []
    folder(photos, "b.png", first=9)
    assert add(photos) == []
    assert keys(tmp_path / "i") == ["2024/a/0.png", "2025 a/0.png", "2024/b.png"]
    assert prefixes(tmp_path / "i") == {str(photos): "2024/", str(more): "2025 "}
    assert labels_of(Index.open(tmp_path / "i")) == ["a", "a", None], "classes are of the source"


@pytest.mark.parametrize("prefix", ["", "a/"])
def test_a_prefix_that_was_asked_for_and_clashes_is_refused_before_the_work(
    add: Add, embedded: list[int], tmp_path: Path, prefix: str
) -> None:
    add(folder(tmp_path / "photos", "0.png", "a/0.png"))
    before = (tmp_path / "i" / "manifest.json").read_bytes()
    with pytest.raises(
        DuplicateKeyError, match=f"the key '{prefix}0.png' is taken by .*: choose with --key-prefix"
    ):
        add(folder(tmp_path / "more", "0.png", first=5), prefix)
    assert embedded == [2]
    assert (tmp_path / "i" / "manifest.json").read_bytes() == before
    assert not (tmp_path / "i.partial").exists() or not list((tmp_path / "i.partial" / "parts").iterdir())


def test_another_prefix_for_a_source_that_is_there(add: Add, tmp_path: Path) -> None:
    """Rows that are there keep their keys, new ones get the new one, and so it stays."""
    photos = folder(tmp_path / "photos", "0.png")
    add(photos, "old/")
    for number, prefix in ((1, "new/"), (2, None), (3, ""), (4, None)):
        folder(photos, f"{number}.png", first=number)
        add(photos, prefix)
    assert keys(tmp_path / "i") == ["old/0.png", "new/1.png", "new/2.png", "3.png", "4.png"]


def test_what_no_key_may_begin_with(add: Add, tmp_path: Path) -> None:
    with pytest.raises(KeyPrefixError):
        add(folder(tmp_path / "photos", "0.png"), "../")
    assert not (tmp_path / "i").exists()


def test_folders_of_one_name_and_folders_within(add: Add, tmp_path: Path) -> None:
    add(folder(tmp_path / "2023" / "photos", "0.png", "photos/0.png"))
    add(folder(tmp_path / "2024" / "photos", "0.png", first=5))
    add(folder(tmp_path / "2025" / "photos", "0.png", first=6))
    assert keys(tmp_path / "i") == ["0.png", "photos/0.png", "2024/photos/0.png", "2025/photos/0.png"]


def test_a_folder_of_a_source_clashes_with_nothing_of_its_own(add: Add, tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", "a/0.png", "x.png")
    add(photos)
    os.utime(photos / "a" / "0.png", ns=(0, 1))  # its row is replaced, under the key of the smaller source
    add(photos / "a")
    assert keys(tmp_path / "i") == ["x.png", "0.png"]
    os.utime(photos / "a" / "0.png", ns=(0, 2))
    folder(photos, "a/x.png", first=9)
    add(photos / "a")
    assert sorted(keys(tmp_path / "i")) == ["photos/a/0.png", "photos/a/x.png", "x.png"]


def test_a_clash_that_comes_one_night_does_not_end_the_nightly_run(
    add: Add, embedded: list[int], tmp_path: Path
) -> None:
    photos, more = folder(tmp_path / "photos", "0.png"), folder(tmp_path / "more", "1.png", first=5)
    add(photos)
    add(more)
    folder(more, "0.png", first=7)
    assert len(add(more)) == 1
    folder(photos, "more/0.png", first=8)
    assert len(add(photos)) == 1
    assert keys(tmp_path / "i") == ["0.png", "1.png", "more/0.png", "photos/more/0.png"]
    assert prefixes(tmp_path / "i") == {str(more): "more/", str(photos): "photos/"}
    assert add(photos) == add(more) == []
    assert embedded == [1] * 4


def test_a_single_image(add: Add, tmp_path: Path) -> None:
    add(folder(tmp_path / "photos", "0.png"))
    add(folder(tmp_path / "more", "0.png", first=5) / "0.png")
    assert keys(tmp_path / "i") == ["0.png", "more/0.png"]


@pytest.mark.parametrize("text", [False, True])
def test_two_lists(add: Add, tmp_path: Path, text: bool) -> None:
    for place, first in (("a", 0), ("b", 5)):
        folder(tmp_path / place, "0.png", "1.png", first=first)
        if text:
            (tmp_path / place / "l.txt").write_text("0.png\n1.png\n")
        else:
            pq.write_table(
                pa.table({"path": ["0.png", "1.png"], "key": ["x", "y"]}), tmp_path / place / "l.parquet"
            )
        add(tmp_path / place / ("l.txt" if text else "l.parquet"))
    names = ["0.png", "1.png"] if text else ["x", "y"]
    assert keys(tmp_path / "i") == [*names, *(f"l/{name}" for name in names)]


def test_sets_of_torchvision(add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    raw = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    for name, shift in (("FashionMNIST", 0), ("MNIST", 1)):
        place = tmp_path / "torchvision" / name / "raw"
        place.mkdir(parents=True)
        for file, array in (("images-idx3", raw + shift), ("labels-idx1", np.arange(2, dtype=np.uint8))):
            header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
            for split in ("train", "t10k"):
                (place / f"{split}-{file}-ubyte").write_bytes(header + array.tobytes())
    add("torchvision:mnist")
    add("torchvision:fashion_mnist")
    assert keys(tmp_path / "i") == ["train/0", "train/1", "fashion_mnist/train/0", "fashion_mnist/train/1"]
    index = Index.open(tmp_path / "i")
    assert [key for key, _ in originals(paths_of(index)[3], [keys_of(index)[3]])] == ["fashion_mnist/train/1"]


# --- shards ---


def test_shards_of_one_name_in_one_source(add: Add, tmp_path: Path) -> None:
    place = shards(tmp_path / "s", "a/0.tar", "b/0.tar")
    assert open_source(place / "{a,b}/0.tar").note == (
        "some shards have one file name: keys begin with their folders, as a/0.tar:"
    )
    add(place / "{a,b}/0.tar")
    assert keys(tmp_path / "i") == ["a/0.tar:0", "a/0.tar:1", "b/0.tar:0", "b/0.tar:1"]
    # Which of them is new has no part in it.
    shards(place, "b/0.tar", first=7)
    add(place / "{a,b}/0.tar")
    assert keys(tmp_path / "i") == ["a/0.tar:0", "a/0.tar:1", "b/0.tar:0", "b/0.tar:1"]
    assert open_source(place / "a/0.tar").note is None


def test_what_a_shard_could_not_give_is_told_apart_too(add: Add, tmp_path: Path) -> None:
    place = shards(tmp_path / "s", "a/0.tar")
    for name in "bc":
        (place / name).mkdir()
        write_shard(place / name / "0.tar", {"0.png": png(50 + ord(name)), "1.png": b"broken"})
        (place / name / "1.tar").write_bytes(b"no tar")
    add(place / "{b,c}/{0,1}.tar")
    failed = read_failures(tmp_path / "i" / "failures.parquet")["key"].to_pylist()
    assert failed == ["b/0.tar:1", "b/1.tar", "c/0.tar:1", "c/1.tar"]
    assert keys(tmp_path / "i") == ["b/0.tar:0", "c/0.tar:0"]


def test_shards_of_one_name_in_two_sources(add: Add, embedded: list[int], tmp_path: Path) -> None:
    add(shards(tmp_path / "a", "0.tar", "1.tar"))
    with pytest.raises(DuplicateKeyError, match=r"'0\.tar' is taken by .*/a/0\.tar"):
        add(shards(tmp_path / "b", "0.tar", first=5), "")
    assert sum(embedded) == 4
    assert len(add(tmp_path / "b")) == 1
    add(shards(tmp_path / "c", "x/0.tar", "y/0.tar", first=7) / "{x,y}/0.tar")
    assert keys(tmp_path / "i")[4:] == [
        *("b/0.tar:0", "b/0.tar:1"),
        *("x/0.tar:0", "x/0.tar:1", "y/0.tar:0", "y/0.tar:1"),
    ]


def test_images_are_found_again_under_a_prefix(add: Add, encoder: Encoder, tmp_path: Path) -> None:
    add(shards(tmp_path / "a", "0.tar"))
    add(shards(tmp_path / "b", "0.tar", first=5))
    searcher = Searcher(Index.open(tmp_path / "i"), encoder)
    again = reembed(searcher, 10)
    assert (len(again.cosines), again.failures, again.changed) == (4, (), {})
    hit = searcher.query(png(51), k=1)[0]
    assert (hit.key, hit.location) == ("b/0.tar:1", f"{tmp_path}/b/0.tar:1")
    assert thumbnail(hit) is not None
    assert Known(searcher.index, check_content=True).unchanged([f"{tmp_path}/b/0.tar"]).all()


@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_queries_of_the_corpus_are_searched_without_themselves_under_a_prefix(
    add: Add, encoder: Encoder, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "photos"
    if kind == "folder":
        folder(place, "a/0.png", "a/1.png", "b/2.png", "b/3.png")
    else:
        place.mkdir()
        members = {f"{n}.png": png(n) for n in range(4)} | {
            f"{n}.cls": b"ab"[n // 2 : n // 2 + 1] for n in range(4)
        }
        write_shard(place / "x.tar", dict(sorted(members.items())))
    add(place, "2024/")
    searcher = Searcher(Index.open(tmp_path / "i"), encoder)
    result = evaluate(searcher, open_source(place), [encoder.space.full], same_encoder=True, workers=0)
    assert (result.queries, result.left_out) == (4, 4)


# --- what could not be read ---


def test_failures_of_two_folders_do_not_heal_each_other(add: Add, tmp_path: Path) -> None:
    photos, more = folder(tmp_path / "photos", "0.png"), folder(tmp_path / "more", "1.png", first=1)
    for place in (photos, more):
        (place / "bad.png").write_bytes(b"broken")
    add(photos)
    assert add(more) == [
        "the key 'bad.png' is taken by an image that could not be read: from now on, "
        f"keys of {more} begin with more/"
    ]

    def failed() -> list[str]:
        return read_failures(tmp_path / "i" / "failures.parquet")["key"].to_pylist()

    assert failed() == ["bad.png", "more/bad.png"]
    (more / "bad.png").write_bytes(png(7))
    assert add(more) == []
    assert failed() == ["bad.png"]
    (photos / "bad.png").write_bytes(png(8))
    assert add(photos / "bad.png") == [], "it is that very file, though named alone"
    assert failed() == []
    assert sorted(keys(tmp_path / "i")) == ["0.png", "bad.png", "more/1.png", "more/bad.png"]


# --- clashes that only reading finds ---


def test_what_was_embedded_is_kept_when_a_clash_is_found_at_the_end(
    add: Add, embedded: list[int], tmp_path: Path
) -> None:
    """The other file is gone, so that its image may be here now; it is not."""
    photos, more = folder(tmp_path / "photos", "0.png", "1.png"), folder(tmp_path / "more", "0.png", first=5)
    add(photos)
    (photos / "0.png").unlink()
    with pytest.raises(DuplicateKeyError, match=r"'0\.png' is taken by"):
        add(more, "")
    assert embedded == [2, 1]
    assert keys(tmp_path / "i") == ["0.png", "1.png"]
    add(more, "x/")
    assert embedded == [2, 1], "the part is used again"
    assert keys(tmp_path / "i") == ["0.png", "1.png", "x/0.png"]


def test_a_clash_that_is_found_at_the_end_is_settled_then(add: Add, tmp_path: Path) -> None:
    photos, more = folder(tmp_path / "photos", "0.png", "1.png"), folder(tmp_path / "more", "0.png", first=5)
    add(photos)
    (photos / "0.png").unlink()
    assert add(more) == [
        f"the key '0.png' is taken by {photos}/0.png: from now on, keys of {more} begin with more/"
    ]
    assert keys(tmp_path / "i") == ["0.png", "1.png", "more/0.png"]


def test_a_disk_that_is_not_mounted_keeps_its_rows(add: Add, tmp_path: Path) -> None:
    photos = folder(tmp_path / "mnt" / "photos", "0.png")
    add(photos)
    backup = shutil.copytree(photos, tmp_path / "backup")
    shutil.rmtree(photos)  # and leaves the empty folder that it was mounted on
    add(backup)
    assert keys(tmp_path / "i") == ["0.png", "backup/0.png"]
