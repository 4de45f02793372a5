"""Rows embedded once more: near 1 where nothing happened, and the row named where something did."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from entries import keys_of
from small_world import SIDE, files_of, picture, shard_of, write_shard
from watched import Watched

from indexes import Index
from retrieval import Encoder, Searcher, build_index, open_source
from retrieval.upkeep.reembed import reembed


@pytest.fixture
def searching(encoder: Encoder, tmp_path: Path) -> Callable[[str | Path], Searcher]:
    def build(images: str | Path) -> Searcher:
        build_index(open_source(images), encoder, tmp_path / "i")
        return Searcher.open(tmp_path / "i", device="cpu", dtype="fp32")

    return build


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for number in range(8):
        picture("red", number).save(tmp_path / "photos" / f"{number}.png")
    return tmp_path / "photos"


def test_nothing_has_changed(searcher: Searcher, index: Path) -> None:
    watched = Watched("images embedded")
    again = reembed(searcher, 1000, progress=watched)
    assert again.cosines.keys() == set(keys_of(searcher.index))
    assert all(cosine == pytest.approx(1, abs=1e-6) for cosine in again.cosines.values())
    assert again.worst == min(again.cosines.items(), key=lambda pair: pair[1])
    assert (again.failures, watched.done[-1], set(watched.totals)) == ((), 40, {40})


def test_as_many_as_asked_for_at_random(searcher: Searcher) -> None:
    chosen = [frozenset(reembed(searcher, 7, seed=seed).cosines) for seed in (0, 0, 1, 2, None, None)]
    assert {len(keys) for keys in chosen} == {7}
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 3
    assert all(keys <= set(keys_of(searcher.index)) for keys in chosen)


def test_another_picture_in_its_place_is_the_worst(searching: Callable, photos: Path) -> None:
    searcher = searching(photos)
    picture("checks", 0).save(photos / "3.png")
    again = reembed(searcher, 8)
    key, cosine = again.worst
    assert (key, again.failures) == ("3.png", ())
    assert cosine < 0.99
    assert [k for k, c in again.cosines.items() if c < 1 - 1e-6] == ["3.png"]


def test_what_is_gone_or_broken_is_reported(searching: Callable, photos: Path) -> None:
    searcher = searching(photos)
    (photos / "0.png").unlink()
    (photos / "1.png").write_bytes(b"broken")
    (photos / "2.png").unlink()
    (photos / "2.png").mkdir()
    again = reembed(searcher, 8)
    assert dict(again.failures) == {
        "0.png": f"no longer at {photos}/0.png",
        "1.png": "not an image",
        "2.png": f"no longer at {photos}/2.png",
    }
    assert sorted(again.cosines) == [f"{number}.png" for number in range(3, 8)]


def test_when_all_are_gone_there_is_no_worst(searching: Callable, photos: Path) -> None:
    searcher = searching(photos)
    for file in files_of(photos):
        file.unlink()
    again = reembed(searcher, 3)
    assert (again.cosines, len(again.failures)) == ({}, 3)


def test_rows_of_shards(searching: Callable, corpus: Path, tmp_path: Path) -> None:
    files = files_of(corpus)
    for number in range(2):
        shard_of(tmp_path / f"x-{number}.tar", files[number * 5 :: 10])
    searcher = searching(tmp_path)
    again = reembed(searcher, 100)
    assert again.cosines.keys() == set(keys_of(searcher.index))
    assert again.worst[1] == pytest.approx(1, abs=1e-6)

    buffer = io.BytesIO()
    picture("stripes", 0, side=SIDE).save(buffer, "PNG")
    stems = [key.partition(":")[2] for key in keys_of(searcher.index) if key.startswith("x-0.tar:")]
    first, second, *others = stems
    write_shard(tmp_path / "x-0.tar", {f"{first}.png": buffer.getvalue(), f"{second}.jpg": b"x"})
    again = reembed(searcher, 100)
    assert again.worst[0] == f"x-0.tar:{first}"
    assert dict(again.failures) == {f"x-0.tar:{second}": "not an image"} | {
        f"x-0.tar:{stem}": f"no longer at {tmp_path}/x-0.tar" for stem in others
    }


def test_rows_of_lists(searching: Callable, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("photos/0.png\nphotos/../photos/0.png\nphotos/1.png\n")
    searcher = searching(tmp_path / "l.txt")
    assert sorted(reembed(searcher, 9).cosines) == [
        "photos/../photos/0.png",
        "photos/0.png",
        "photos/1.png",
    ]
    (photos / "0.png").unlink()
    assert [key for key, _ in reembed(searcher, 9).failures] == ["photos/0.png", "photos/../photos/0.png"]


def test_removed_rows_are_left_alone(searching: Callable, photos: Path, tmp_path: Path) -> None:
    searching(photos)
    Index.open(tmp_path / "i").remove(["4.png"], command="")
    (photos / "4.png").unlink()
    again = reembed(Searcher.open(tmp_path / "i", device="cpu", dtype="fp32"), 100)
    assert (len(again.cosines), again.failures) == (7, ())
