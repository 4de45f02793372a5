"""Manifests that say something else, with seals that fit."""

import dataclasses
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from indexes.disk.durable import ends_sha256, sha256_of
from indexes.disk.manifest import read_manifest

GOLDEN = Path(__file__).parents[1] / "indexes" / "directory" / "golden_format_1"
"""An index of format 1: three rows in two parts, of which one is removed, a failure and a calibration."""
GOLDEN_2 = GOLDEN.with_name("golden_format_2")
"""One of format 2, as `tests/indexes/test_golden.py` tells."""

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NASTY: list[Any] = [
    *(None, True, False, -1, 0, 1, 3.0, 60.0, 1.5, -0.5, 2**31, 2**63, 2**70, 1e300),
    *("", "5", "x", "cat", "\0", "a\nb", "[red]", ":100:", "\udcff", "../x", "/", "f" * 64, "x" * 5000),
    *([], [5], ["x"], [None], [[]], {}, {"x": 1}, {"x": {"y": 1}}, {"": None}),
]


def paths_of(value: Any) -> list[tuple[Any, ...]]:
    """Where the values in nested dictionaries and lists are, and where one more might be."""
    if isinstance(value, dict):
        inside = [(name, *rest) for name, each in value.items() for rest in [(), *paths_of(each)]]
        return [*inside, ("more",)]
    if isinstance(value, list):
        return [(i, *rest) for i, each in enumerate(value) for rest in [(), *paths_of(each)]]
    return []


def put(value: Any, path: tuple[Any, ...], new: Any) -> None:
    """Put another value where a path leads."""
    *folders, last = path
    for name in folders:
        value = value[name]
    value[last] = new


def reseal(path: Path, **changes: Any) -> None:
    """Make a manifest that is right about the files of an index as they are now."""
    manifest = read_manifest(path)
    files = {
        name: dataclasses.replace(
            entry,
            bytes=(path / name).stat().st_size,
            sha256=sha256_of(path / name),
            ends_sha256=entry.ends_sha256 and ends_sha256(path / name),
        )
        for name, entry in manifest.files.items()
    }
    (path / "manifest.json").write_bytes(dataclasses.replace(manifest, files=files, **changes).to_json())
