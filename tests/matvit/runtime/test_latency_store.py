"""What is kept of times: every submodel comes back as it was."""

import json
from pathlib import Path

import pytest

from matvit import Submodel
from matvit.runtime.latency_store import keep, kept
from matvit.submodels.profile import Timing

KEY = {"structure": {}, "setting": {}}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    return tmp_path / "latency"


def test_times_come_back_with_their_submodels() -> None:
    submodels = Submodel((4, 8)), Submodel((4, 8), image_size=168), Submodel((8, 8))
    times = {submodel: Timing(2.0 + i, 0.5, 0.25, 1e9 + i) for i, submodel in enumerate(submodels)}
    keep(KEY, times)
    assert kept(KEY) == times
    assert kept({**KEY, "setting": {"threads": 2}}) == {}


def test_times_that_an_earlier_version_kept_come_back_as_old_as_can_be(cache: Path) -> None:
    keep(KEY, {Submodel((4, 8)): Timing(2.0, 0.1, 0, 1e9)})
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"key": KEY, "points": [{"widths": [4, 8], "ms": 2.0}]}))
    assert kept(KEY) == {Submodel((4, 8)): Timing(2.0, 0, 0, 0)}


@pytest.mark.parametrize("size", [0, -1, 1.5, "168", [168]])
def test_a_size_that_is_none_is_damage(cache: Path, size: object) -> None:
    keep(KEY, {Submodel((4, 8)): Timing(2.0, 0.1, 0, 1e9)})
    (file,) = cache.iterdir()
    file.write_text(json.dumps({"key": KEY, "points": [{"widths": [4, 8], "image_size": size, "ms": 2.0}]}))
    assert kept(KEY) == {}
