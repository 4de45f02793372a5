"""The demo's images: all of scikit-learn's digits, once each, split by class."""

import resource
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits
from small_world import files_of

from retrieval.sources.digits import write_digits, write_off_centre


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_digits(tmp_path_factory.mktemp("digits"))


def test_the_split_is_stratified_and_disjoint(folders: tuple[Path, Path]) -> None:
    train, test = map(files_of, folders)
    assert (len(train), len(test)) == (1437, 360)
    rows = [int(file.stem) for file in train + test]
    assert sorted(rows) == list(range(1797))
    whole = Counter(load_digits().target.tolist())
    for label, count in Counter(int(file.parent.name) for file in test).items():
        assert abs(count - 0.2 * whole[label]) < 1


def test_pixels_are_scikit_learn_s(folders: tuple[Path, Path]) -> None:
    digits = load_digits()
    for file in files_of(folders[1])[::40]:
        with Image.open(file) as image:
            assert (image.mode, image.size) == ("L", (8, 8))
            np.testing.assert_allclose(np.asarray(image) / 255 * 16, digits.images[int(file.stem)], atol=0.04)
        assert file.parent.name == str(digits.target[int(file.stem)])


def test_every_call_writes_the_same_files(folders: tuple[Path, Path], tmp_path: Path) -> None:
    again = write_digits(tmp_path)
    for first, second in zip(folders, again, strict=True):
        assert {file.relative_to(first): file.read_bytes() for file in files_of(first)} == {
            file.relative_to(second): file.read_bytes() for file in files_of(second)
        }


def test_off_centre_each_digit_is_moved_by_a_pixel_in_eight_directions(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    few = tmp_path / "few"
    for file in files_of(folders[1])[::60]:
        (few / file.parent.name).mkdir(parents=True, exist_ok=True)
        (few / file.parent.name / file.name).write_bytes(file.read_bytes())
    moved = write_off_centre(few, tmp_path / "moved")
    assert len(files_of(moved)) == 8 * len(files_of(few)) == 48
    for file in files_of(few):
        framed = np.pad(np.asarray(Image.open(file)), 1)
        for name, (down, right) in {"n": (-1, 0), "se": (1, 1), "w": (0, -1)}.items():
            copy = np.asarray(Image.open(moved / file.parent.name / f"{file.stem}-{name}.png"))
            np.testing.assert_array_equal(copy, framed[1 - down : 9 - down, 1 - right : 9 - right])


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60, usual[1]))
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            write_digits(tmp_path / "digits")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert str(caught.value.filename).startswith(f"{tmp_path}/digits/train/")
