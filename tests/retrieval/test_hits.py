"""Where the image of a hit is."""

from pathlib import Path

import pytest

from retrieval.hits import Hit


@pytest.mark.parametrize(
    "key, path, file, location",
    [
        ("a/b.jpg", "/photos/a/b.jpg", "/photos/a/b.jpg", "/photos/a/b.jpg"),
        ("x.tar:a/b", "/photos/x.tar", None, "/photos/x.tar:a/b"),
        ("p.parquet:7", "/photos/p.parquet", None, "/photos/p.parquet:7"),
        ("test/3", "torchvision:/photos/cifar10", None, "torchvision:/photos/cifar10"),
    ],
)
def test_only_an_image_of_its_own_is_a_file(key: str, path: str, file: str | None, location: str) -> None:
    hit = Hit(key, 1.0, None, path)
    assert hit.file == (file and Path(file))
    assert hit.location == location
