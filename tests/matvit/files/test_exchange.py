import sys
from pathlib import Path

import pytest

from matvit.files import exchange as module
from matvit.files.exchange import exchange


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("one", "other é"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    return tmp_path / "one", tmp_path / "other é"


@pytest.mark.skipif(sys.platform not in ("linux", "darwin"), reason="no such system call")
def test_two_directories_change_names_in_one_step(two: tuple[Path, Path]) -> None:
    assert exchange(*two)
    assert [(path / "file").read_text() for path in two] == ["other é", "one"]


def test_what_cannot_be_done_changes_nothing(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = two
    assert not exchange(one, one.with_name("absent"))
    monkeypatch.setattr(module, "_function", lambda: None)
    assert not exchange(one, other)
    assert [(path / "file").read_text() for path in two] == ["one", "other é"]


def test_it_is_told_to_whoever_watches_renames(two: tuple[Path, Path]) -> None:
    told = []
    sys.addaudithook(lambda event, arguments: told.append(arguments) if event == "os.rename" else None)
    exchange(*two)
    assert [str(path) for path in two] in [list(arguments[:2]) for arguments in told]
