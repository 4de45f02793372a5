"""The MatViTs that Google published, under names: downloaded, converted and cached on first use."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from matvit import checkpoint, scenic
from matvit.cache import cache_dir
from matvit.download import fetch
from matvit.errors import CheckpointError, UnknownModelError

Count = Callable[[int], None]
"""Called with a number of bytes."""


@dataclass(frozen=True)
class Published:
    """One published checkpoint.

    Attributes:
        url: Scenic's own file.
        about: What it is and what it was trained on.
    """

    url: str
    about: str


_BUCKET = "https://storage.googleapis.com/scenic-bucket/matvit"
PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "matvit-b16-in1k": Published(
            f"{_BUCKET}/MatViT-B16-IN1K", "MatViT-B/16, trained on ImageNet-1k; about 1 GB to download"
        ),
        "matvit-l16-in21k-in1k": Published(
            f"{_BUCKET}/MatViT-L16-IN21K%2BIN1K",
            "MatViT-L/16, trained on ImageNet-21k, then ImageNet-1k; about 3.7 GB to download",
        ),
    }
)
"""Name -> checkpoint, as listed by Scenic's `projects/matvit/README.md`."""


def checkpoint_of(
    name: str,
    *,
    on_bytes: Count | None = None,
    on_total: Count | None = None,
    on_read: Count | None = None,
) -> Path:
    """The checkpoint directory of a published MatViT, made in the cache on first use.

    A process that finds another one making it waits. Without a network, put the file at the URL yourself
    where the error says: it is picked up from there. The file is removed once it is converted; its SHA-256
    stays in the config.

    Args:
        name: One of `PUBLISHED`.
        on_bytes: As in `matvit.download.fetch`, for the download.
        on_total: As there.
        on_read: As in `obtain`, for the conversion.

    Raises:
        UnknownModelError: There is no such name.
        DownloadError: The file could not be had.
        CheckpointError: What was downloaded is damaged or no MatViT.
    """
    if name not in PUBLISHED:
        raise UnknownModelError(f"no published MatViT is called {name!r}: {', '.join(PUBLISHED)} are")
    directory = cache_dir() / "published" / name
    if not _is_made(directory):
        _make(PUBLISHED[name].url, directory, on_bytes=on_bytes, on_total=on_total, on_read=on_read)
    return directory


def is_cached(name: str) -> bool:
    """Whether a published MatViT is in the cache already."""
    return _is_made(cache_dir() / "published" / name)


def obtain(
    source: str,
    out: Path,
    *,
    on_bytes: Count | None = None,
    on_total: Count | None = None,
    on_read: Count | None = None,
    classifier: str | None = None,
) -> None:
    """Convert a Scenic checkpoint from wherever it is to the checkpoint directory `out`.

    Args:
        source: A file, a URL, or one of `PUBLISHED`.
        out: The new checkpoint directory.
        on_bytes: As in `matvit.download.fetch`, for the download.
        on_total: As there.
        on_read: Called with the number of bytes of a file that were read since its last call.
        classifier: As in `matvit.scenic.convert`.

    Raises:
        UnknownModelError: There is nothing of that name, or it is another kind of model.
        DownloadError: The file could not be had.
        CheckpointError: The file is damaged, or `out` holds something else than a checkpoint.
        OSError: The file cannot be read.
    """
    if source in PUBLISHED:
        made = checkpoint_of(source, on_bytes=on_bytes, on_total=on_total, on_read=on_read)
        note = json.loads((made / checkpoint.CONFIG).read_text(encoding="utf-8"))["matvit"][scenic.NOTE]
        if classifier not in (None, note["classifier"]):
            raise UnknownModelError(f"the classifier of {source} is {note['classifier']!r}")
        checkpoint.save(checkpoint.load(made), out, **{scenic.NOTE: note})
    elif "://" in source:
        target = _download_of(source)
        with _exclusive(target):
            if not target.exists():
                fetch(source, target, on_bytes=on_bytes, on_total=on_total)
            _convert(target, out, source=source, on_read=on_read, classifier=classifier)
    elif not Path(source).exists():
        raise UnknownModelError(
            f"no file {source!r}, nor a published MatViT among {', '.join(PUBLISHED)}, nor a URL"
        )
    else:
        scenic.convert(Path(source), out, classifier=classifier, on_bytes=on_read)


def _make(
    url: str, directory: Path, *, on_bytes: Count | None, on_total: Count | None, on_read: Count | None
) -> None:
    file = directory.with_name(f"{directory.name}.msgpack")
    with _exclusive(directory):
        if _is_made(directory):  # By the process that was waited for.
            return
        if not file.exists():
            fetch(url, file, on_bytes=on_bytes, on_total=on_total)
        _convert(file, directory, source=url, on_read=on_read)


def _convert(
    file: Path, out: Path, *, source: str, on_read: Count | None = None, classifier: str | None = None
) -> None:
    """Convert a file that was downloaded, and remove it."""
    try:
        model, note = scenic.read(file, source=source, classifier=classifier, on_bytes=on_read)
    except (CheckpointError, UnknownModelError) as error:
        hint = f"it came from {source}, and is downloaded again once you remove it"
        raise type(error)(f"{error}; {hint}") from error
    checkpoint.save(model, out, **{scenic.NOTE: note})
    file.unlink()


def _is_made(directory: Path) -> bool:
    return (directory / checkpoint.CONFIG).is_file()  # A checkpoint is written whole or not at all.


def _download_of(url: str) -> Path:
    """Where a file from elsewhere waits for its conversion: one place a URL, so that it can be resumed."""
    name = unquote(PurePosixPath(urlsplit(url).path).name)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-60:]
    return cache_dir() / "downloads" / f"{sha256(os.fsencode(url)).hexdigest()[:12]}-{safe}"


@contextmanager
def _exclusive(path: Path) -> Iterator[None]:
    """Wait until no other process works on `path`; the operating system lets go when one dies."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
