"""What keys begin with: which prefixes may be, and which is chosen."""

import os
from pathlib import Path

import pyarrow as pa
import pytest
from small_index import build, rows_of

from indexes import Index, KeyPrefixError
from indexes.disk.key_prefixes import check_prefix, free_prefix, known_source, with_prefix


@pytest.mark.parametrize("prefix", ["", "2024/", "2024", "a/b/", "été ", "..a/", "C..", "鳥/", "~/"])
def test_prefixes_that_keys_may_have(prefix: str) -> None:
    check_prefix(prefix)


@pytest.mark.parametrize(
    "prefix, reason",
    [
        (os.fsdecode(b"caf\xe9/"), "not UTF-8"),
        ("a\n", "control character"),
        ("\x1b[31m", "control character"),
        ("\x85", "control character"),
        ("\0", "control character"),
        ("/photos/", "absolute"),
        ("../", "leads out"),
        ("a/../", "leads out"),
        ("a/..", "leads out"),
        ("x.tar:", "colon"),
    ],
)
def test_prefixes_that_they_may_not_have(prefix: str, reason: str) -> None:
    with pytest.raises(KeyPrefixError, match=reason) as caught:
        check_prefix(prefix)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "place, keys, expected",
    [
        ("/a/photos", ["x.png"], "photos/"),
        ("/a/photos", ["photos/x.png"], "a/photos/"),  # a folder of that name, in the first source
        ("/a/photos", ["photos/x.png", "a/photos/y.png"], "photos-2/"),
        ("/a/photos", ["photos/x", "a/photos/x", "photos-2/x"], "photos-3/"),
        ("/", ["x.png"], "images/"),
        ("/a/b:c\n", [], "b_c_/"),
        (os.fsdecode(b"/caf\xe9"), [], "caf_/"),
        ("/photos", ["photos"], "photos/"),
    ],
)
def test_the_shortest_prefix_that_no_key_has_yet(place: str, keys: list[str], expected: str) -> None:
    taken = [
        pa.chunked_array([pa.array(keys[:1], pa.string())]),
        pa.chunked_array([pa.array(keys[1:], pa.string())]),
    ]
    prefix = free_prefix(Path(place), taken)
    assert prefix == expected
    check_prefix(prefix)


def test_keys_alone_get_the_prefix() -> None:
    table = pa.table({"key": ["a", "b"], "path": ["/a", "/b"], "label": pa.array([None, "x"], pa.string())})
    assert with_prefix(table, "p/").to_pylist() == [
        {"key": "p/a", "path": "/a", "label": None},
        {"key": "p/b", "path": "/b", "label": "x"},
    ]
    assert with_prefix(table, "p/").schema == table.schema
    assert with_prefix(table, "") is table
    assert len(with_prefix(table.slice(0, 0), "p/")) == 0


def test_a_source_is_known_however_it_is_spelled(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to("photos")
    manifest = Index.open(build(tmp_path / "i", rows_of("a"), source=str(tmp_path / "photos"))).manifest
    for name in ("photos", "link", "link/../photos", "photos/"):
        assert known_source(manifest, f"{tmp_path}/{name}") == f"{tmp_path}/photos"
    assert known_source(manifest, f"{tmp_path}/other") is None
