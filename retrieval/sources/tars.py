"""Tars, walked member by member: what is no member is told, with how many bytes of it were not read.

Python's tarfile parses the headers, but stops in silence at the first block that is none. Here the walk goes
on behind zeros, as `tar --ignore-zeros` does: tars are put one behind the other, and copies that broke off
have holes. It seeks over data, and holds one member at a time.
"""

import os
import tarfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from retrieval.errors import UnreadableImageError
from retrieval.sources.file_bytes import check_size
from retrieval.sources.formats import HEAD_BYTES
from retrieval.sources.sample import printable

_END = 2 * tarfile.BLOCKSIZE  # the zeros at an archive's end, before it is padded to whole records
_MAX_RECORD = 2**20
_MAX_HEADER = 2**20  # long names and attributes, which tarfile reads whole
_ZEROS = bytes(2**20)


@dataclass(frozen=True)
class Span:
    """Where a member lies in its tar.

    Attributes:
        offset: Its first byte.
        size: How many there are.
    """

    offset: int
    size: int


@dataclass(frozen=True)
class Member:
    """A member of a tar, to be read while the tar is open.

    Attributes:
        name: Its path in the tar.
        span: Where its bytes are.
        problem: Why it cannot be read, if so.
        file: The tar.
    """

    name: str
    span: Span
    problem: str
    file: BinaryIO = field(repr=False, compare=False)

    @property
    def stem(self) -> str:
        """The name up to the last dot of the file's own name."""
        folder, slash, base = self.name.rpartition("/")
        return f"{folder}{slash}{base.rpartition('.')[0] or base}"

    @property
    def suffix(self) -> str:
        """What comes after that dot, in lower case."""
        _, dot, suffix = self.name.rpartition("/")[2].rpartition(".")
        return suffix.lower() if dot else ""

    def check(self, *, may_be_empty: bool = False) -> None:
        """Refuse what cannot be read, without reading it.

        Raises:
            UnreadableImageError: There is a problem, or it has too many bytes or none.
        """
        try:
            if self.problem:
                raise UnreadableImageError(self.problem)
            check_size(self.span.size or int(may_be_empty))
        except UnreadableImageError as error:
            raise self._unreadable(str(error)) from error

    def read(self, *, may_be_empty: bool = False) -> bytes:
        """Its bytes.

        Raises:
            UnreadableImageError: As `check`, or the disk fails, or the tar was cut since.
        """
        self.check(may_be_empty=may_be_empty)
        try:
            data = self._first(self.span.size)
        except OSError as error:
            raise self._unreadable(f"cannot be read: {error.strerror}") from error
        if len(data) < self.span.size:
            raise self._unreadable("breaks off")
        return data

    def head(self) -> bytes:
        """The first of its bytes, by which a format is told; none where they cannot be read."""
        try:
            return b"" if self.problem else self._first(min(self.span.size, HEAD_BYTES))
        except OSError:
            return b""

    def _first(self, count: int) -> bytes:
        # Not seek and read: the walk goes on from where it is.
        return os.pread(self.file.fileno(), count, self.span.offset)

    def _unreadable(self, why: str) -> UnreadableImageError:
        return UnreadableImageError(f"{self.suffix} member: {why}".lstrip())


@dataclass(frozen=True)
class Gap:
    """Bytes of a tar that are no members.

    Attributes:
        reason: What they are, and how many.
        hides: Whether members may have lain there that belong to those beside it.
    """

    reason: str
    hides: bool


def walk(file: BinaryIO) -> Iterator[Member | Gap]:
    """The members of a tar that are no folders, in order, and a gap wherever there is something else.

    The last member before a gap that hides something may itself be cut short.
    """
    start: int | None = 0
    begun = 0
    while start is not None:
        start, begun = yield from _run(file, start, begun)


def _run(file: BinaryIO, start: int, begun: int) -> Generator[Member | Gap, None, tuple[int | None, int]]:
    """Members from `start` to the next zeros, and what gap there is.

    Args:
        file: The tar.
        start: Of a header.
        begun: Start of the archive that it is in.

    Returns:
        The same for what follows, `start` being None where nothing does.
    """
    size = os.fstat(file.fileno()).st_size
    offset, behind, goes_on = start, start, False  # of the last member's end, and of the zeros'
    trouble = ""
    try:
        file.seek(start)
        with tarfile.TarFile(fileobj=_Headers(file), encoding="utf-8") as tar:  # type: ignore[arg-type]
            while not trouble and (member := tar.next()):
                tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                # It would be walked backwards, for ever (CVE-2025-8194); the size of a sparse one is another.
                if member.size < 0 or tar.offset < member.offset_data:
                    raise tarfile.ReadError("negative member size")
                if not member.isdir():
                    span = Span(member.offset_data, member.size)
                    yield Member(member.name, span, _problem(member), file)
                if tar.offset > size:
                    trouble = f"the file ends inside {printable(member.name)}"
                else:
                    offset = tar.offset
        behind = _skip_zeros(file, offset)
        goes_on = _is_header(file, behind)
    # Beside its own errors, tarfile lets through what hostile numbers and nested headers cause.
    except (tarfile.TarError, OSError, ValueError, ArithmeticError, IndexError, RecursionError) as error:
        trouble = printable(str(error))
    zeros = behind - offset
    if trouble or zeros < tarfile.BLOCKSIZE:
        what = f"{size - offset} bytes were not read" if offset < size else "what came after it is missing"
        why = trouble or ("no tar header" if offset < size else "no end of archive")
        yield Gap(f"truncated or corrupt tar at byte {offset} ({why}): {what}", hides=True)
        return None, begun
    hides = not _is_end(zeros, behind - begun, is_last=behind == size)
    if behind < size and not goes_on:
        what = f"{size - behind} bytes behind {zeros} zeros are no tar and were not read"
        yield Gap(f"truncated or corrupt tar at byte {behind}: {what}", hides)
    elif hides:
        what = f"{zeros} bytes are zeros, where members may have been"
        yield Gap(f"truncated or corrupt tar at byte {offset}: {what}", hides)
    return behind if goes_on else None, begun if hides else behind


class _Headers:
    """A tar as tarfile sees it: a header that would fill the memory is an error."""

    def __init__(self, file: BinaryIO) -> None:
        self.seek, self.tell, self._file = file.seek, file.tell, file

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _problem(member: tarfile.TarInfo) -> str:
    if not member.isreg():
        return "a link or a device, not a file"
    if member.issparse():
        return "stored with holes: pack the shard without --sparse"
    return ""


def _skip_zeros(file: BinaryIO, offset: int) -> int:
    file.seek(offset)
    while chunk := file.read(len(_ZEROS)):
        if chunk != _ZEROS[: len(chunk)]:  # to strip them takes twenty times as long
            return offset + len(chunk) - len(chunk.lstrip(b"\0"))
        offset += len(chunk)
    return offset


def _is_header(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    try:
        tarfile.TarInfo.frombuf(file.read(tarfile.BLOCKSIZE), "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _is_end(zeros: int, length: int, *, is_last: bool) -> bool:
    """Whether zeros are the end of an archive, so long with them, and no hole in it.

    Writers pad with less than a record: none at all, one of tarfile's and GNU tar's size, or, at the end
    of the file, where it harms least to be wrong, one of a tape's.
    """
    if zeros <= _END:
        return zeros == _END or is_last
    record = tarfile.RECORDSIZE if length % tarfile.RECORDSIZE == 0 else 0
    if is_last:
        record = max(record, min(length & -length, _MAX_RECORD))
    return zeros < _END + record
