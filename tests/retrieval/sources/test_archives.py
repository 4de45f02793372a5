"""Packed archives are refused with what to do, by themselves and in a folder."""

from pathlib import Path

import pytest
from small_world import write_shard

from retrieval.errors import ImageSourceError
from retrieval.sources.archives import is_packed_tar, why_packed
from retrieval.sources.open_images import open_source

PACKED = {
    "x.tar.gz": "gunzip",
    "x.TGZ": "gunzip",
    "x.tar.bz2": "bunzip2",
    "x.tbz2": "bunzip2",
    "x.tar.xz": "unxz",
    "x.txz": "unxz",
    "x.tar.zst": "unzstd",
    "x.zip": "unzip",
    "x.7z": "unpack",
    "x.rar": "unpack",
    "x.csv.gz": "gunzip",
}


@pytest.mark.parametrize("name, remedy", PACKED.items())
def test_packed_archives_say_what_to_do(tmp_path: Path, name: str, remedy: str) -> None:
    assert remedy in str(why_packed(name))
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    for place in (tmp_path / name, tmp_path):
        with pytest.raises(ImageSourceError, match=f"packed archives are not read; .*{remedy}") as caught:
            open_source(place)
        assert "\n" not in str(caught.value)
        assert name in str(caught.value)


def test_patterns_of_packed_shards_say_so_too() -> None:
    for text in ("x-{000..009}.tar.gz", "x-*.tgz"):
        with pytest.raises(ImageSourceError, match="packed archives are not read; run gunzip"):
            open_source(text)


def test_a_packed_shard_among_others_is_not_passed_over(tmp_path: Path) -> None:
    write_shard(tmp_path / "a.tar", {})
    (tmp_path / "meta.csv.gz").touch()
    assert [part.name for part in open_source(tmp_path).parts] == ["a.tar"]
    (tmp_path / "b.tar.gz").touch()
    with pytest.raises(ImageSourceError, match=r"b\.tar\.gz: packed archives are not read; run gunzip on it"):
        open_source(tmp_path)
    assert [part.name for part in open_source(tmp_path, excludes=["*.tar.gz"]).parts] == ["a.tar"]


@pytest.mark.parametrize("name", ["x.tar", "x.jpg", "gz", "x.gzip", "zip.png"])
def test_others_are_none(name: str) -> None:
    assert why_packed(name) is None
    assert not is_packed_tar(name)
