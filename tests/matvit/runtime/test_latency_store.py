"""What is kept of times: every submodel comes back as it was."""

import json
from pathlib import Path

import pytest

from matvit import Submodel
from matvit.runtime.latency_store import keep, kept

KEY = {"structure": {}, "setting": {}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    return tmp_path / "latency"


def test_times_come_back_with_their_submodels() -> None:
    times = {Submodel((4, 8)): 2.0, Submodel((4, 8), image_size=168): 1.0, Submodel((8, 8)): 3.0}
    keep(KEY, times)
    assert kept(KEY) == times
    assert kept({**KEY, "setting": {"threads": 2}}) == {}


def test_times_that_an_earlier_version_kept_come_back(cache: Path) -> None:
    keep(KEY, {Submodel((4, 8)): 2.0})
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"key": KEY, "points": [{"widths": [4, 8], "ms": 2.0}]}))
    assert kept(KEY) == {Submodel((4, 8)): 2.0}


@pytest.mark.parametrize("size", [0, -1, 1.5, "168", [168]])
def test_a_size_that_is_none_is_damage(cache: Path, size: object) -> None:
    keep(KEY, {Submodel((4, 8)): 2.0})
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"key": KEY, "points": [{"widths": [4, 8], "image_size": size, "ms": 2.0}]}))
    assert kept(KEY) == {}
