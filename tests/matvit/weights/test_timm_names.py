"""The names of timm's models are kept by whoever has loaded it, and are no news that must be true."""

from pathlib import Path

import pytest
import timm

from matvit.weights import timm_names
from matvit.weights.model_names import UnknownModelError, load


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_names_are_unknown_only_once_all_are_known() -> None:
    assert not timm_names.is_unknown("nonsense")
    with pytest.raises(UnknownModelError):
        load("nonsense", weights=False)
    assert timm_names.is_unknown("nonsense")
    assert not any(map(timm_names.is_unknown, timm.list_models()))
    assert not timm_names.is_unknown("vit_tiny_patch16_224.any_tag")


def test_another_version_of_timm_has_other_names(monkeypatch: pytest.MonkeyPatch) -> None:
    timm_names.remember()
    monkeypatch.setattr(timm_names, "version", lambda _: "99.0")
    assert not timm_names.is_unknown("nonsense")


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe"])
def test_damage_says_nothing(cache: Path, damage: bytes) -> None:
    timm_names.remember()
    (file,) = (cache / "timm_names").iterdir()
    file.write_bytes(damage)
    assert not timm_names.is_unknown("nonsense")


def test_where_nothing_can_be_kept_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "file"))
    timm_names.remember()
    assert not timm_names.is_unknown("nonsense")
