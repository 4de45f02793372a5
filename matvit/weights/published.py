"""The MatViTs that Google published, under names: downloaded, converted and cached on first use."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from urllib.parse import unquote, urlsplit

from matvit.errors import CheckpointError, UnknownModelError
from matvit.files.atomic import restore
from matvit.files.cache import cache_dir
from matvit.files.download import fetch, forget
from matvit.files.lock import exclusive
from matvit.progress import Progress, silent
from matvit.weights import checkpoint
from matvit.weights.first_seen import require_same
from matvit.weights.scenic import convert as scenic

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
    progress: Progress = silent,
) -> Path:
    """The checkpoint directory of a published MatViT, made in the cache on first use.

    A process that finds another one making it waits. Without a network, put the file at the URL yourself
    where the error says: it is picked up from there. The file is removed once it is converted; its SHA-256
    stays in the config.

    Args:
        name: One of `PUBLISHED`.
        progress: Told of the bytes that are downloaded and read.

    Raises:
        UnknownModelError: There is no such name.
        DownloadError: The file could not be had.
        CheckpointError: What was downloaded is damaged or no MatViT.
    """
    if name not in PUBLISHED:
        raise UnknownModelError(f"no published MatViT is called {name!r}: {', '.join(PUBLISHED)} are")
    directory = cache_dir() / "published" / name
    file = directory.with_name(f"{name}.msgpack")
    if file.exists() or not _is_made(directory):
        with exclusive(file, patience_s=-1):
            if not _is_made(directory):  # Nor by the process that was waited for.
                _fetch(
                    PUBLISHED[name].url,
                    file,
                    directory,
                    progress=progress,
                )
            forget(file)
    return directory


def is_cached(name: str) -> bool:
    """Whether a published MatViT is in the cache already."""
    return _is_made(cache_dir() / "published" / name)


def obtain(
    source: str,
    out: Path,
    *,
    progress: Progress = silent,
    classifier: str | None = None,
) -> None:
    """Convert a Scenic checkpoint from wherever it is to the checkpoint directory `out`.

    Args:
        source: A file, a URL, or one of `PUBLISHED`.
        out: The new checkpoint directory.
        progress: Told of the bytes that are downloaded and read.
        classifier: As in `matvit.weights.scenic.convert.convert`.

    Raises:
        UnknownModelError: There is nothing of that name, or it is another kind of model.
        DownloadError: The file could not be had.
        CheckpointError: The file is damaged, or `out` holds something else than a checkpoint.
        OSError: The file cannot be read.
    """
    if source in PUBLISHED:
        made = checkpoint_of(source, progress=progress)
        note = json.loads((made / checkpoint.CONFIG).read_text(encoding="utf-8"))["matvit"][scenic.NOTE]
        if classifier not in (None, note["classifier"]):
            raise UnknownModelError(f"the classifier of {source} is {note['classifier']!r}")
        checkpoint.save(checkpoint.load(made), out, **{scenic.NOTE: note})
    elif "://" in source:
        target = _download_of(source)
        with exclusive(target, patience_s=-1):
            _fetch(
                source,
                target,
                out,
                progress=progress,
                classifier=classifier,
            )
            forget(target)
    elif not Path(source).exists():
        raise UnknownModelError(
            f"no file {source!r}, nor a published MatViT among {', '.join(PUBLISHED)}, nor a URL"
        )
    else:
        scenic.convert(Path(source), out, classifier=classifier, progress=progress)


def _fetch(
    url: str,
    file: Path,
    out: Path,
    *,
    progress: Progress,
    classifier: str | None = None,
) -> None:
    """Convert the file at a URL, which is downloaded to `file` unless it is there."""
    if not file.exists():
        fetch(url, file, progress=progress)
    try:
        model, note = scenic.read(file, source=url, classifier=classifier, progress=progress)
    except (CheckpointError, UnknownModelError) as error:
        hint = f"it came from {url}, and is downloaded again once you remove it"
        raise type(error)(f"{error}; {hint}") from error
    require_same(url, note["sha256"], file)
    checkpoint.save(model, out, **{scenic.NOTE: note})


def _is_made(directory: Path) -> bool:
    restore(directory)
    return (directory / checkpoint.CONFIG).is_file()  # A checkpoint is written whole or not at all.


def _download_of(url: str) -> Path:
    """Where a file from elsewhere waits for its conversion: one place a URL, so that it can be resumed."""
    name = unquote(PurePosixPath(urlsplit(url).path).name)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in name)[-60:]
    return cache_dir() / "downloads" / f"{sha256(os.fsencode(url)).hexdigest()[:12]}-{safe}"
