"""When a file is gone, and when that cannot be told."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from failing_disk import fail_below

from retrieval.sources.gone import Missing, is_gone


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for key in ("a.jpg", "2019/b.jpg", "2019/raw/c.jpg", "2020/d.jpg"):
        (tmp_path / "photos" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / key).write_bytes(b"image")
    return tmp_path / "photos"


def told(root: Path, key: str) -> tuple[bool, str | None]:
    return Missing(str(root)).is_missing(str(root / key))


def test_what_is_there_is_not_missing(root: Path) -> None:
    (root / "link.jpg").symlink_to("a.jpg")
    for key in ("a.jpg", "2019/raw/c.jpg", "link.jpg"):
        assert told(root, key) == (False, None)


def test_gone_is_what_a_folder_no_longer_lists(root: Path) -> None:
    (root / "2019" / "b.jpg").unlink()
    assert told(root, "2019/b.jpg") == (True, None)
    shutil.rmtree(root / "2019")
    for key in ("2019/b.jpg", "2019/raw/c.jpg"):
        assert told(root, key) == (True, None)
    (root / "2019").touch()  # a file, where a folder was
    for key in ("2019/b.jpg", "2019/raw/c.jpg"):
        assert told(root, key) == (True, None)


@pytest.mark.parametrize("left", [(), (".DS_Store", "@eaDir/a.jpg", "lost+found/b.jpg")])
@pytest.mark.parametrize("place", ["", "2019", "2019/raw"])
def test_an_empty_folder_may_be_a_disk_that_is_not_mounted(
    root: Path, place: str, left: tuple[str, ...]
) -> None:
    shutil.rmtree(root / place)
    for name in ("", *left):
        (root / place / name).parent.mkdir(parents=True, exist_ok=True)
        (root / place / name).touch() if name else (root / place).mkdir(exist_ok=True)
    for key in ("2019/raw/c.jpg", "2019/raw/deep/er/c.jpg"):
        doubt = f"{root / place} is empty, as where a disk is not mounted"
        assert told(root, key) == (True, doubt)


def test_a_root_that_vanished_says_nothing_of_its_files(root: Path) -> None:
    shutil.rmtree(root)
    assert told(root, "a.jpg") == told(root, "2019/b.jpg") == (True, "their folder is not there")


@pytest.mark.parametrize("place", ["a.jpg", "2019", "2019/raw"])
def test_links_to_a_disk_that_is_not_mounted(root: Path, tmp_path: Path, place: str) -> None:
    (root / place).rename(tmp_path / "disk")
    (root / place).symlink_to(tmp_path / "disk")
    key = {"a.jpg": "a.jpg", "2019": "2019/raw/c.jpg", "2019/raw": "2019/raw/c.jpg"}[place]
    assert told(root, key) == (False, None)
    (tmp_path / "disk").rename(tmp_path / "unmounted")
    assert told(root, key) == (True, "broken symlink")
    (root / place).unlink()
    assert told(root, key) == (True, None), "the link itself is gone"


@pytest.mark.parametrize(
    "number, reason",
    [
        (errno.EACCES, "permission denied"),
        (errno.EPERM, "permission denied"),
        (errno.EIO, "Input/output error"),
        (errno.ETIMEDOUT, "timed out"),
        (errno.ESTALE, "Stale file handle"),
        (errno.EHOSTDOWN, "Host is down"),
        (errno.ENOTCONN, "not connected"),
        (errno.ENAMETOOLONG, "File name too long"),
        (errno.EMFILE, "Too many open files"),
    ],
)
@pytest.mark.parametrize("place", ["", "2019", "2019/raw", "2019/raw/c.jpg"])
def test_errors_say_nothing(
    root: Path, place: str, number: int, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_below(root / place, number, monkeypatch)
    is_missing, doubt = told(root, "2019/raw/c.jpg")
    assert is_missing
    assert reason in str(doubt)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_listed_says_nothing(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files answer, one is not there, and whether its name is cannot be seen."""
    (root / "2019" / "raw" / "c.jpg").unlink()
    scandir = os.scandir

    def listing(path: str) -> object:
        if path == str(root / "2019" / "raw"):
            raise OSError(number, os.strerror(number))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", listing)
    assert told(root, "2019/raw/c.jpg")[1] is not None


def test_loops_and_names_too_long(root: Path) -> None:
    (root / "loop").symlink_to("loop")
    assert told(root, "loop/a.jpg") == (True, "broken symlink")
    assert told(root, "n" * 300) == (True, "cannot be opened: File name too long")
    assert told(root, "a\0b.jpg") == (True, "embedded null byte")


def test_what_is_gone_and_what_may_come_back(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "here.png").touch()
    (tmp_path / "empty").mkdir()  # as of a disk that is not mounted
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling.png").symlink_to("nowhere")
    gone = ("full/a.png", "full/sub/sub/a.png", "full/here.png/a.png", "nowhere/a.png")
    there = (
        "full/here.png",
        "empty/a.png",
        "empty/sub/a.png",
        "loop/a.png",
        "full",
        "full/\0.png",
        "dangling.png",
    )
    assert [name for name in (*gone, *there) if is_gone(f"{tmp_path}/{name}")] == list(gone)
    assert not is_gone("torchvision:cifar10/train")
