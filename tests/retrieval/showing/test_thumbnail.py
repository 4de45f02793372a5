"""Small pictures of queries and of rows."""

from pathlib import Path

from PIL import Image

from retrieval.hits import Hit
from retrieval.showing.thumbnail import thumbnail


def test_thumbnails_are_small_and_keep_their_shape(tmp_path: Path) -> None:
    Image.new("L", (640, 320), 77).save(tmp_path / "a.png")
    for image in (tmp_path / "a.png", str(tmp_path / "a.png"), Hit("a", 1.0, None, str(tmp_path / "a.png"))):
        small = thumbnail(image)
        assert small is not None
        assert (small.size, small.getpixel((3, 3))) == ((240, 120), (77, 77, 77))
