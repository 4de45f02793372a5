"""Opening files that strangers named: nothing here waits on a pipe, follows a trap or fills the memory."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from retrieval.errors import UnreadableImageError

MAX_FILE_BYTES = 256 * 2**20

_KINDS = {
    stat.S_IFIFO: "FIFO",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


def state_of(path: str | Path) -> str:
    """Size and time of change of a file, as text that differs when the file does; empty where none is."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):  # a ValueError: the path holds a NUL
        return ""
    return f"{status.st_size} {status.st_mtime_ns}"


def without_links(path: str) -> str:
    """A file where its folder truly is, as sources name it."""
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))  # noqa: PTH118,PTH119,PTH120


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading.

    Raises:
        UnreadableImageError: If there is none at `path`, or it may not be read.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer. The descriptor is examined rather than
        # the path, so that nothing can be swapped in between.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError) as error:
        raise UnreadableImageError(why_closed(path, error)) from error
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    raise UnreadableImageError(_not_regular(mode))


def read_regular(path: Path) -> bytes:
    """The bytes of a regular file that is not empty and holds at most `MAX_FILE_BYTES`.

    Raises:
        UnreadableImageError: If it is anything else, or may not be read.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        check_size(size)
        try:
            return file.read(size)
        except OSError as error:
            raise UnreadableImageError(f"cannot be read: {error.strerror}") from error


def check_size(size: int) -> None:
    """Refuse what holds no bytes or too many.

    Raises:
        UnreadableImageError: If it does.
    """
    if size == 0:
        raise UnreadableImageError("empty file (0 bytes)")
    if size > MAX_FILE_BYTES:
        raise UnreadableImageError(f"{size} bytes are over the limit of {MAX_FILE_BYTES}")


def _not_regular(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "is a directory"
    return f"not a regular file ({_KINDS.get(stat.S_IFMT(mode), 'unknown kind')})"


def why_closed(path: Path, error: OSError | ValueError) -> str:
    """Why a file or folder could not be opened or listed, in a few words."""
    match getattr(error, "errno", None):
        case errno.EACCES | errno.EPERM:
            return "permission denied"
        case errno.ELOOP:
            return "broken symlink"
        case errno.ENOENT:
            return "broken symlink" if path.is_symlink() else "no such file"
        case errno.ENXIO:  # what a socket answers, and a device without a driver
            return _not_regular(path.stat().st_mode)
        case None:
            return str(error)  # a ValueError: the path holds a NUL
        case _:
            return f"cannot be opened: {os.strerror(getattr(error, 'errno', 0))}"
