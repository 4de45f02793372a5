"""A directory is the old one whole or the new one whole, wherever its writer was killed."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from matvit.atomic import replaced_directory, tidy

FINISHED, KILLED = 0, 77


def write(directory: Path, text: str) -> None:
    with replaced_directory(directory) as staging:
        (staging / "a.txt").write_text(f"{text} a")
        (staging / "b.txt").write_text(f"{text} b")


def files(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}


def whole(text: str) -> dict[str, str]:
    return {"a.txt": f"{text} a", "b.txt": f"{text} b"}


def write_and_die(directory: Path, moment: int, patch: pytest.MonkeyPatch) -> int:
    """Write in a process of its own that is gone at once at a moment: the how manieth call to the disk."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = moment

    def dying(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            if left == 0:
                os._exit(KILLED)
            left -= 1
            return function(*arguments, **options)

        return call

    try:
        for owner, name in (
            (os, "fsync"),
            (os, "rename"),
            (shutil, "rmtree"),
            (Path, "chmod"),
            (Path, "rename"),
        ):
            patch.setattr(owner, name, dying(getattr(owner, name)))
        write(directory, "new")
        os._exit(FINISHED)
    finally:
        os._exit(1)


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("there", [True, False], ids=["replaced", "first"])
def test_killed_at_any_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool) -> None:
    seen = []
    for moment in range(100):
        place = tmp_path / str(moment) / "last"
        if there:
            write(place, "old")
        code = write_and_die(place, moment, monkeypatch)
        found = files(place) if place.exists() else None
        assert found in (None, whole("old"), whole("new")), "never a part of it"
        tidy(place)
        after = files(place) if place.exists() else None
        assert after in ((whole("old") if there else None), whole("new"))
        assert found is None or after == found, "what could be read stays"
        assert [p.name for p in place.parent.iterdir()] == (["last"] if after else [])
        write(place, "newer")
        assert files(place) == whole("newer")
        seen.append((found == whole("new"), found is None))
        if code == FINISHED:
            break
        assert code == KILLED
    assert moment > 6
    assert seen[-1] == (True, False)
    assert (False, True) in seen, "the instant between two renames was among them"
    assert ((False, False) in seen) == there


def test_a_writer_that_fails_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "last"
    write(place, "old")
    with pytest.raises(FileNotFoundError), replaced_directory(place) as staging:
        (staging / "a.txt").write_text((tmp_path / "absent").read_text())
    assert files(place) == whole("old")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_rename_that_fails_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename = tmp_path / "last", Path.rename
    write(place, "old")

    def refuse(self: Path, target: Path) -> Path:
        if self.name not in ("last", ".last-replaced"):
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        write(place, "new")
    assert files(place) == whole("old")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "last"
    write(place, "new")
    assert place.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in place.iterdir()} == {0o644}


def test_tidying_leaves_other_names_alone(tmp_path: Path) -> None:
    for name in ("last", ".last-x1", ".last-replaced", ".lasting-x", "last-x", ".best-x"):
        (tmp_path / name).mkdir()
    tidy(tmp_path / "last")
    assert sorted(p.name for p in tmp_path.iterdir()) == [".best-x", ".lasting-x", "last", "last-x"]
    tidy(tmp_path / "nothing")
