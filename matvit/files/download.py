"""Download of one large file: resumed where it stopped, checked against its length, put in place whole."""

import errno
import hashlib
import http.client
import json
import os
import re
import shutil
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO
from urllib.parse import urlsplit

from matvit.errors import BusyError, DownloadError
from matvit.files.lock import exclusive
from matvit.progress import Progress, silent

_TIMEOUT_S = 60.0
_BLOCK = 2**20
_DOWNLOADED = "bytes downloaded"
_MAX_BYTES = 64 * 2**30
"""More than any checkpoint: a server that never ends must not fill the disk."""
_THIS_MACHINE = {"localhost", "127.0.0.1", "::1"}


def fetch(
    url: str,
    target: Path,
    *,
    progress: Progress = silent,
) -> str:
    """Download `url` to `target`, which appears when it is complete.

    What has arrived lies beside it as ``NAME.partial``; the next call goes on from there if the server still
    has the same file.

    Args:
        url: https, or http on this machine.
        target: Where to; a file that is there is replaced.
        progress: Told of the bytes that are there, first of all those of an earlier call; should these have
            to be given up, it starts again.

    Returns:
        The file's SHA-256.

    Raises:
        DownloadError: The file could not be had; the message names the URL and `target`.
    """
    if not (_is_https(url) or _is_here(url)):
        raise DownloadError(f"{url} is refused: only https is downloaded")
    try:
        with exclusive(target), _opened(target.with_name(f"{target.name}.partial")) as partial:
            digest = _fill(partial, url, progress)
            os.fsync(partial.fileno())
            Path(partial.name).replace(target)
            _note_path(Path(partial.name)).unlink(missing_ok=True)
        return digest
    except BusyError:
        raise DownloadError(
            f"cannot download {url}: another process is downloading it: wait for that to end"
        ) from None
    except (OSError, ValueError, http.client.HTTPException, _TransferError) as error:
        raise DownloadError(
            f"cannot download {url}: {_reason(error)}. Run this again to go on, "
            f"or download it by hand and put it at {target}"
        ) from error


def forget(target: Path) -> None:
    """Remove a file that was downloaded and is of no more use, and what a killed download left of it."""
    partial = target.with_name(f"{target.name}.partial")
    for file in (target, partial, _note_path(partial)):
        file.unlink(missing_ok=True)


class _TransferError(Exception):
    """What arrived is not what was announced."""


@dataclass(frozen=True)
class _Version:
    """What tells one version of a file from another."""

    url: str
    validator: str
    total: int | None

    @classmethod
    def of(cls, url: str, headers: http.client.HTTPMessage, total: int | None) -> "_Version":
        etag = headers.get("ETag", "")
        # A weak ETag does not promise the same bytes.
        return cls(url, headers.get("Last-Modified", "") if etag.startswith("W/") else etag, total)


def _fill(partial: BinaryIO, url: str, progress: Progress) -> str:
    """Bring a partial file to its end; the SHA-256 of the whole."""
    digest = hashlib.sha256()
    partial.seek(0)
    while block := partial.read(_BLOCK):
        digest.update(block)
    have = partial.tell()
    response, have_counts = _ask(url, have, _read_note(Path(partial.name)))
    with response:
        if have and not have_counts:
            partial.truncate(0)
            partial.seek(0)
            have, digest = 0, hashlib.sha256()
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if length.isdigit() else None
        if total is not None:
            _check_room(partial, total, total - have)
        _write_note(Path(partial.name), _Version.of(url, response.headers, total))
        progress(_DOWNLOADED, have, total)
        while block := response.read(_BLOCK):
            partial.write(block)
            digest.update(block)
            have += len(block)
            if have > _MAX_BYTES:
                raise _TransferError(f"it does not end after {_MAX_BYTES >> 30} GiB")
            progress(_DOWNLOADED, have, total)
        partial.flush()
    if total is not None and have != total:
        raise _TransferError(f"the connection ended after {have} of {total} bytes")
    return digest.hexdigest()


def _check_room(partial: BinaryIO, total: int, missing: int) -> None:
    free = shutil.disk_usage(Path(partial.name).parent).free
    if total > _MAX_BYTES:
        raise _TransferError(f"it is {total >> 30} GiB, larger than any checkpoint")
    if missing > free:
        raise _TransferError(f"{missing >> 20} MiB are missing and {free >> 20} MiB free on the disk")


def _ask(url: str, have: int, noted: _Version | None) -> tuple[Any, bool]:
    """The server's answer, and whether it goes on after the bytes that are here."""
    if have and noted and noted.url == url and noted.validator:
        # With If-Range a server that has another version by now sends all of it.
        resume = {"Range": f"bytes={have}-", "If-Range": noted.validator}
        try:
            response = _open(url, resume)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
        else:
            if response.status != http.HTTPStatus.PARTIAL_CONTENT:
                return response, False
            given = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", response.headers.get("Content-Range", ""))
            if given and int(given[1]) == have:
                total = None if given[3] == "*" else int(given[3])
                if _Version.of(url, response.headers, total) == noted:
                    return response, True
            response.close()
    return _open(url, {}), False


def _open(url: str, headers: dict[str, str]) -> Any:
    plain = {"Accept-Encoding": "identity", "User-Agent": "matvit"}
    request = urllib.request.Request(url, headers=plain | headers)
    try:
        return urllib.request.build_opener(_SafeRedirects).open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        raise


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Follow to https alone; a server on this machine may also send to itself."""
        if not (_is_https(newurl) or (_is_here(newurl) and _is_here(req.full_url))):
            fp.close()
            raise _TransferError(f"it leads to {newurl}, and only https is downloaded")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _is_https(url: str) -> bool:
    return _parts(url)[0] == "https" and bool(_parts(url)[1])


def _is_here(url: str) -> bool:
    scheme, host = _parts(url)
    return scheme == "http" and host in _THIS_MACHINE


def _parts(url: str) -> tuple[str, str]:
    try:
        parts = urlsplit(url)
        return parts.scheme, parts.hostname or ""
    except ValueError:
        return "", ""


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a partial file for reading and writing; if nothing arrives in it, it is removed."""
    with open(path, "r+b", opener=lambda path, flags: _no_other(path, flags | os.O_CREAT)) as file:
        try:
            yield file
        finally:
            file.flush()
            if path.exists() and not path.stat().st_size:
                path.unlink()  # Nothing arrived: nothing to go on from.


def _no_other(path: str, flags: int) -> int:
    """Open a file and no other, to which a link would lead that somebody put there."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise _TransferError(f"{path} is a link: remove it") from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _TransferError(f"{path} is no plain file: remove it")
    return descriptor


def _note_path(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.json")


def _read_note(partial: Path) -> _Version | None:
    try:
        with open(_note_path(partial), "r+", encoding="utf-8", opener=_no_other) as file:
            return _Version(**json.load(file))
    except (OSError, RecursionError, TypeError, ValueError):
        return None


def _write_note(partial: Path, version: _Version) -> None:
    with open(_note_path(partial), "w", encoding="utf-8", opener=_no_other) as file:
        json.dump(asdict(version), file)


def _reason(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {error.reason}"
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(reason, OSError) and reason.strerror:
        return reason.strerror
    return " ".join(str(reason).split()) or type(reason).__name__
