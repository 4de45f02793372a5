"""Raw pixels as a floor, against NumPy."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_world import files_of, picture

from retrieval import open_source
from retrieval.errors import EvaluationError
from retrieval.measuring.pixels import raw_pixel_1nn


def grey(files: list[Path]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(file).convert("L"), dtype=float).ravel() for file in files])


def test_both_distances_are_numpy_s(corpus: Path, queries: Path) -> None:
    known, asked = files_of(corpus), files_of(queries)
    rows, wanted = grey(known), grey(asked)
    squared = ((wanted[:, None] - rows[None]) ** 2).sum(-1)
    cosine = (wanted / np.linalg.norm(wanted, axis=1, keepdims=True)) @ (
        rows / np.linalg.norm(rows, axis=1, keepdims=True)
    ).T

    def right(best: np.ndarray) -> int:
        return sum(known[b].parent.name == file.parent.name for b, file in zip(best, asked, strict=True))

    floors = raw_pixel_1nn(open_source(corpus), open_source(queries))
    assert {name: (share.count, share.total) for name, share in floors.items()} == {
        "euclidean": (right(squared.argmin(1)), 20),
        "cosine": (right(cosine.argmax(1)), 20),
    }


def test_corpus_images_are_searched_without_themselves(corpus: Path) -> None:
    files = files_of(corpus)
    rows = grey(files)
    squared = ((rows[:, None] - rows[None]) ** 2).sum(-1)
    np.fill_diagonal(squared, np.inf)
    right = sum(
        files[b].parent.name == file.parent.name for b, file in zip(squared.argmin(1), files, strict=True)
    )
    floors = raw_pixel_1nn(open_source(corpus), open_source(corpus))
    assert (floors["euclidean"].count, floors["euclidean"].total) == (right, 40)
    assert floors["cosine"].value < 1


def folder_of(place: Path, *images: Image.Image) -> Path:
    (place / "red").mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(place / "red" / f"{number}.png")
    return place


def test_unreadable_images_are_left_out_and_black_ones_are_not(tmp_path: Path) -> None:
    known = folder_of(tmp_path / "known", picture("red", 0))
    asked = folder_of(tmp_path / "asked", picture("red", 1), Image.new("L", (16, 16)))
    for place in (known, asked):
        (place / "red" / "broken.png").write_text("no image")
    floors = raw_pixel_1nn(open_source(known, labels=True), open_source(asked, labels=True))
    assert {name: (share.count, share.total) for name, share in floors.items()} == {
        "euclidean": (2, 2),
        "cosine": (2, 2),
    }


def test_sizes_must_agree(tmp_path: Path) -> None:
    small, large = picture("red", 0), picture("red", 0, side=20)
    mixed = folder_of(tmp_path / "mixed", small, large)
    one = folder_of(tmp_path / "one", small)
    other = folder_of(tmp_path / "other", large)
    turned = folder_of(tmp_path / "turned", Image.new("RGB", (8, 32)))
    for corpus, queries in ((one, mixed), (mixed, one), (one, other), (one, turned)):
        with pytest.raises(EvaluationError, match="one size"):
            raw_pixel_1nn(open_source(corpus), open_source(queries))


def test_labels_are_needed(tmp_path: Path, corpus: Path) -> None:
    picture("red", 0).save(tmp_path / "a.png")
    with pytest.raises(EvaluationError, match="labelled images"):
        raw_pixel_1nn(open_source(corpus), open_source(tmp_path))
