"""One writer at a time: a lock that ends with its process, however that dies, whatever its children do."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from matvit.errors import BusyError

INSIDE = ".matvit-lock"
"""Name of the lock in a folder that is written to file by file."""
_TRIES = 100
"""For a folder whose former holders remove it just while it is made or looked into."""


@contextmanager
def exclusive(path: Path, *, patience_s: float = 0) -> Iterator[None]:
    """Hold the lock of a file or directory, which lies beside it; a thread that holds it may take it again.

    Missing parents are made.

    Args:
        path: What is going to be written; it need not exist.
        patience_s: Seconds to wait for another writer; negative: as long as it takes.

    Raises:
        BusyError: Another process, or thread, holds it.
        OSError: Something else than a file lies where the lock should.
    """
    path = path.absolute()
    with _held(path.with_name(f"{INSIDE}-{path.name}"), path, patience_s):
        yield


@contextmanager
def exclusive_inside(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder whose files are written one by one; the lock is in it, as `INSIDE`.

    The folder and its parents are made if missing, and removed at the end if nothing came into them.

    Raises:
        BusyError: Another process, or thread, holds it.
        OSError: The folder cannot be made, or something else than a file lies where the lock should.
    """
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        with _held(folder / INSIDE, folder, 0):
            yield
    finally:
        for each in made:
            with suppress(OSError):
                each.rmdir()


@contextmanager
def _held(file: Path, path: Path, patience_s: float) -> Iterator[None]:
    with suppress(FileNotFoundError):
        if not stat.S_ISREG(file.lstat().st_mode):  # Nor is a link followed that is put there after this.
            raise OSError(f"{file} is no plain file, as a lock is: remove it")
    lock, owner = FileLock(file, is_singleton=True), os.getpid()
    for left in reversed(range(_TRIES)):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience_s)
            break
        except Timeout as error:
            raise BusyError(f"another process is writing {path}: wait for it to end, or stop it") from error
        except (FileExistsError, FileNotFoundError):
            if not left:
                raise
    try:
        yield
    finally:
        if os.getpid() == owner:  # In a child that was forked inside, the lock is not its own.
            if lock.lock_counter == 1:
                file.unlink(missing_ok=True)
            lock.release()
