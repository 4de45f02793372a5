"""An index brought up to date from Python; tests/cli/test_index_build.py has what the command says."""

import shutil
from pathlib import Path

import pytest
from entries import keys_of
from small_world import picture

from indexes import Index, KeyPrefixError
from retrieval import Encoder, add_to_index, build_index, open_source
from retrieval.errors import MissingModelError
from retrieval.upkeep.add import prune
from retrieval.upkeep.built import Built


@pytest.fixture
def photos(corpus: Path, tmp_path: Path) -> Path:
    return shutil.copytree(corpus, tmp_path / "photos")


@pytest.fixture
def out(photos: Path, encoder: Encoder, tmp_path: Path) -> Path:
    build_index(open_source(photos), encoder, tmp_path / "i")
    return tmp_path / "i"


def test_what_is_new_changed_and_gone(photos: Path, out: Path) -> None:
    before = keys_of(Index.open(out))
    gone = next((photos / "blue").iterdir())
    picture("red", 99).save(photos / "red" / "new.png")
    gone.unlink()
    told: list[tuple[str, int, int | None]] = []
    added = add_to_index(out, photos, device="cpu", dtype="fp32", progress=lambda *step: told.append(step))
    assert (added.built, added.gone, added.excluded) == (Built(new=1), (str(gone),), ())
    assert ("images embedded", 1, 1) in told
    assert sorted(keys_of(Index.open(out))) == sorted([*before, "red/new.png"])
    assert add_to_index(out, photos).built == Built()
    assert prune(out, added.gone, command="pruned") == 1
    assert Index.open(out).manifest.command == "pruned"
    assert sorted(keys_of(Index.open(out))) == sorted({*before, "red/new.png"} - {f"blue/{gone.name}"})


def test_nothing_new_needs_no_model(photos: Path, out: Path, checkpoint: Path) -> None:
    before = Index.open(out).manifest
    added = add_to_index(out, photos, model="nowhere at all")
    assert added.built == Built()
    assert Index.open(out).manifest == before


def test_excludes_are_remembered_without_anything_new(photos: Path, out: Path) -> None:
    added = add_to_index(out, photos, excludes=["blue/"])
    assert {Path(path).parent.name for path in added.excluded} == {"blue"}
    assert Index.open(out).manifest.excludes == {str(photos): ["blue/"]}
    assert prune(out, added.excluded) == len(added.excluded)
    assert add_to_index(out, photos).excluded == ()


def test_a_prefix_that_is_none_is_refused_though_nothing_is_new(photos: Path, out: Path) -> None:
    with pytest.raises(KeyPrefixError):
        add_to_index(out, photos, key_prefix="a:b")


def test_a_model_that_moved(photos: Path, encoder: Encoder, checkpoint: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(checkpoint, tmp_path / "model")
    build_index(open_source(photos), Encoder.open(moved, device="cpu", dtype="fp32"), tmp_path / "i")
    moved.rename(tmp_path / "elsewhere")
    picture("red", 99).save(photos / "red" / "new.png")
    with pytest.raises(MissingModelError, match="no longer at"):
        add_to_index(tmp_path / "i", photos)
    added = add_to_index(tmp_path / "i", photos, model=str(tmp_path / "elsewhere"), device="cpu")
    assert added.built == Built(new=1)
