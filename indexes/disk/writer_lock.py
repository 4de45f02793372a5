"""One writer at a time, and those that help it."""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from indexes.errors import IndexBusyError, IndexDamagedError

LOCK = ".matvit-lock"
_held: set[int] = set()


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which is made if missing, and removed at the end if left empty.

    The operating system drops the lock of a process that dies. Where the folder stays, so does the lock's
    file, which marks it as ours.

    Raises:
        IndexBusyError: Another process holds it, or helped one that did and still lives.
        IndexDamagedError: Something else than a file lies where the lock should.
    """
    lock, helpers, owner = folder / LOCK, folder / "helpers", os.getpid()
    with _locked(lock, fcntl.LOCK_EX):
        try:
            with _locked(helpers, fcntl.LOCK_EX):
                pass
            yield
        finally:
            if os.getpid() == owner:  # In a child that was forked inside, the lock is not its own.
                with suppress(IndexBusyError), _locked(helpers, fcntl.LOCK_EX):
                    helpers.unlink()
                if [file.name for file in folder.iterdir()] == [LOCK]:
                    lock.unlink()
                    with suppress(OSError):
                        folder.rmdir()


@contextmanager
def helping(folder: Path) -> Iterator[None]:
    """Keep the next writer of `folder` away while this process writes there for the present one.

    Raises:
        IndexBusyError: A process is about to become its writer.
    """
    with _locked(folder / "helpers", fcntl.LOCK_SH):
        yield


@contextmanager
def _locked(path: Path, kind: int) -> Iterator[None]:
    _leave_out_of_children()
    descriptor = _acquire(path, kind)
    _held.add(descriptor)
    try:
        yield
    finally:
        if descriptor in _held:
            _held.remove(descriptor)
            os.close(descriptor)


@cache
def _leave_out_of_children() -> None:
    """A lock lives until the last process that inherited it ends: processes that are forked let go of it."""

    def let_go() -> None:
        for descriptor in _held:
            os.close(descriptor)
        _held.clear()

    os.register_at_fork(after_in_child=let_go)


def _acquire(path: Path, kind: int) -> int:
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open(path)
        except (FileExistsError, FileNotFoundError):
            if path.parent.is_file() or path.parent.is_symlink():
                raise
            continue  # the former holder removed the folder while it was looked at, or just after
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            if _is_at(path, descriptor):
                return descriptor
        except BlockingIOError as error:
            os.close(descriptor)
            raise IndexBusyError(
                f"another process is writing in {path.parent}: wait for it to end, or stop it"
            ) from error
        # The former holder removed this very file before we locked it: it guards nothing any more.
        os.close(descriptor)


def _open(path: Path) -> int:
    """Open a lock, which is made if missing; a link that somebody put there would lead to another file."""
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(path.lstat().st_mode):
            raise IndexDamagedError(f"{path} is no plain file, as a lock is: remove it")
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)


def _is_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
