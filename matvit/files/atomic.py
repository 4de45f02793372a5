"""Files and directories that readers see whole or not at all: the old one stays until the new one stands.

Beside NAME, while it is written under the lock of `matvit.files.lock`:

    .matvit-new-NAME    what is being written; a directory that has changed names with NAME is the old one
    .matvit-old-NAME    the old directory, for an instant, where the file system cannot swap two names

The names are fixed, so that the next writer finds and removes what a killed one left; and they are marked as
ours, so that nothing of a user's is taken for that.
"""

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from matvit.files.exchange import exchange
from matvit.files.full_disk import naming
from matvit.files.lock import exclusive

NEW, _OLD = ".matvit-new-", ".matvit-old-"
_PATIENCE_S = 10.0
"""For another writer, who may be about to end; commands that work for hours do not wait for each other."""
_P = ParamSpec("_P")
_R = TypeVar("_R")
_Reader = Callable[Concatenate[Path, _P], _R]


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write what takes the place of the file `path`, of the same suffix, once the block ends.

    If the block raises, or the process dies in it, what stood at `path` still stands there. What is no plain
    file, such as a pipe, is written itself.

    Raises:
        BusyError: Another process is writing it, and does not end.
    """
    if path.exists() and (not path.is_file() or path.absolute().is_relative_to("/dev")):
        with naming(path):
            yield path
        return
    target = _real(path)
    with exclusive(target, patience_s=_PATIENCE_S):
        new = _new(target)
        _remove(new)
        try:
            with naming(path):
                yield new
                _sync(new)
            new.replace(target)
            _sync(target.parent)
        finally:
            _remove(new)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all, in UTF-8; see `whole_file`."""
    with whole_file(path) as new:
        new.write_text(text, encoding="utf-8", errors="backslashreplace")


@contextmanager
def whole_directory(directory: Path) -> Iterator[Path]:
    """A new empty directory that takes the place of `directory` once the block has filled it.

    If the block raises, or the process dies in it, the old one stays; so it does until the new one stands,
    where the file system can swap two names. Elsewhere it is away for an instant: see `restore`. Missing
    parents are made.

    Raises:
        BusyError: Another process is writing it, and does not end.
        NotADirectoryError: A file lies there, which a directory does not replace.
    """
    target = _real(directory)
    _refuse_file(target)
    with exclusive(target, patience_s=_PATIENCE_S):
        tidy(target)
        new = _new(target)
        new.mkdir()
        try:
            with naming(directory):
                yield new
                _settle(new)
            _put(new, target)
        finally:
            _remove(new)


def discard(directory: Path) -> None:
    """Remove a directory, of which never a part is under its name.

    Raises:
        BusyError: Another process is writing it, and does not end.
    """
    target = _real(directory)
    with exclusive(target, patience_s=_PATIENCE_S):
        tidy(target)
        target.rename(_new(target))
        _sync(target.parent)
        _remove(_new(target))


def tidy(path: Path) -> None:
    """Undo what a killed writer left beside a directory or file: bring the old back, remove the unfinished.

    Raises:
        BusyError: Another process is writing it, and does not end.
    """
    target = _real(path)
    with exclusive(target, patience_s=_PATIENCE_S):
        _bring_back(target)
        for left in (_new(target), _old(target)):
            _remove(left)


def restore(directory: Path) -> None:
    """Bring back a directory whose writer died in the instant of replacing it, or wait for one that lives.

    Raises:
        BusyError: A process that is replacing it does not go on.
    """
    try:
        target = _real(directory)
        is_away = not target.exists() and _old(target).is_dir()
    except (OSError, ValueError):  # A name that no file can have.
        return
    if is_away:
        with exclusive(target, patience_s=_PATIENCE_S):
            _bring_back(target)


def reads_whole(read: "_Reader[_P, _R]") -> "_Reader[_P, _R]":
    """Make what reads several files of a directory read them of one and the same, though a new one come."""

    @wraps(read)
    def again(directory: Path, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        while True:
            restore(directory)
            with _looking_at(directory) as is_there:
                try:
                    found = read(directory, *args, **kwargs)
                except Exception:
                    if is_there():
                        raise
                else:
                    if is_there():
                        return found

    return again


@contextmanager
def _looking_at(directory: Path) -> Iterator[Callable[[], bool]]:
    """What tells whether `directory` is still the one that it was; while it is open, no other is like it."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except (OSError, ValueError):  # Whoever reads it says what is wrong.
        yield lambda: True
        return

    def is_there() -> bool:
        try:
            return os.path.samestat(directory.stat(), os.fstat(descriptor))
        except OSError:
            return False

    try:
        yield is_there
    finally:
        os.close(descriptor)


def _real(path: Path) -> Path:
    """Where a file or directory really is: what is beside a link to it is of no use."""
    return Path(os.path.realpath(path))


def _new(target: Path) -> Path:
    return target.with_name(f"{NEW}{target.name}")


def _old(target: Path) -> Path:
    return target.with_name(f"{_OLD}{target.name}")


def _refuse_file(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(
            f"{target} is a file, where a directory is to be written: choose another place"
        )


def _bring_back(target: Path) -> None:
    old = _old(target)
    if old.is_dir() and not target.exists():
        old.rename(target)
        _sync(target.parent)


def _put(new: Path, target: Path) -> None:
    """Put a finished directory in another's place, which has left its name when this returns."""
    _refuse_file(target)  # Once more: other programs know nothing of the lock.
    old = _old(target)
    if not target.exists():
        new.rename(target)
    elif not exchange(new, target):
        target.rename(old)
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
    _sync(target.parent)
    _remove(old)


def _settle(directory: Path) -> None:
    """Bring all of it to the disk, for the same readers: safetensors writes for its owner alone."""
    mode = stat.S_IMODE(directory.stat().st_mode)
    for file in directory.rglob("*"):
        file.chmod(mode if file.is_dir() else mode & 0o666)
        _sync(file)
    _sync(directory)


def _sync(path: Path) -> None:
    """Make a file's bytes, or the names in a directory, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
