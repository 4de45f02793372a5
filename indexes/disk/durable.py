"""Files that survive a crash whole or not at all."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_END_BYTES = 2**16
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""What the system says of a disk that is full, a quota that is used up, and a file that may not grow."""
_NUMPYS_FULL = re.compile(r"\d+ requested and \d+ written")


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that appears under `path`, complete and on the disk, when the block ends without an error.

    After an error, or a crash, what stood at `path` before still stands there. The error of a disk that is
    full names `path`.
    """
    # One fixed temporary name per file: what a killed process left is overwritten by the next attempt.
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a write knows no name
            if _NUMPYS_FULL.fullmatch(str(error)):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
            if error.errno in FULL:
                error.filename = str(path)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make the creations, renames and removals inside a directory durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal, reading it as a stream."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ends_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's size and its first and last bytes: enough to tell it from another."""
    with path.open("rb") as file:
        first = file.read(_END_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _END_BYTES))
        return hashlib.sha256(b"%d:%b%b" % (size, first, file.read())).hexdigest()
