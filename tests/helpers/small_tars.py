"""Tars of a few members, of any kind."""

import tarfile
from pathlib import Path

TarMember = tuple[tarfile.TarInfo, bytes]
END = bytes(1024)
"""Of an archive; bsdtar, Go and Rust write no more."""


def member(name: str, data: bytes = b"", *, kind: bytes = tarfile.REGTYPE, target: str = "") -> TarMember:
    """A member to write; by default a file."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, target
    return info, data


def blocks(*members: TarMember, form: int = tarfile.DEFAULT_FORMAT) -> bytes:
    """Members without an end of archive behind them."""
    return b"".join(
        info.tobuf(form, "utf-8", "surrogateescape") + data + bytes(-len(data) % 512)
        for info, data in members
    )


def padded(archive: bytes, record: int = tarfile.RECORDSIZE) -> bytes:
    """An archive up to the end of its last record, as tarfile and GNU tar write it."""
    return archive + bytes(-len(archive) % record)


def write(path: Path, *members: TarMember) -> Path:
    """A tar file."""
    path.write_bytes(padded(blocks(*members) + END))
    return path
