"""An index brought up to date with a source: what is new, what changed, what is gone."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from indexes import Index
from indexes.directory.change import note_excludes
from indexes.disk.key_prefixes import check_prefix, known_source
from matvit.progress import Progress, silent
from matvit.runtime.processes import ALONE, Processes
from retrieval.encoding.encoder import Encoder
from retrieval.remembered_model import model_of
from retrieval.sources.open_images import location_of, open_source
from retrieval.upkeep.built import Built
from retrieval.upkeep.embed import build_index
from retrieval.upkeep.known_files import Known, in_use

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Added:
    """What came of it.

    Attributes:
        built: What was embedded, and what not; nothing where the source had nothing new.
        kept_out: Images that were removed and stay so, or files of which all were.
        restored: Images that were removed and are back.
        gone: Files of rows that are no longer in the source.
        excluded: Files of rows that the source passes over though they are there.
        doubts: Why files that are not to be had may be there all the same, and how many for each reason.
        claims: Sources that cannot be read, and how many files that a folder excludes may be theirs.
    """

    built: Built
    kept_out: int
    restored: int
    gone: tuple[str, ...]
    excluded: tuple[str, ...]
    doubts: Counter[str]
    claims: Mapping[str, int]


def add_to_index(
    index: str | Path,
    images: str | Path,
    *,
    model: str | None = None,
    key_prefix: str | None = None,
    excludes: Sequence[str] = (),
    labels: bool | None = None,
    check_content: bool = False,
    restore_removed: bool = False,
    command: str = "",
    batch_size: int = 64,
    workers: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    processes: Processes = ALONE,
    progress: Progress = silent,
) -> Added:
    """Add the images that an index has not, and those that changed in place of what they were.

    Images that it has from elsewhere are known by their bytes and not embedded again: rows follow files that
    moved. Rows whose files are gone or excluded stay: see `prune`. Raises as `build_index` does.

    Args:
        index: Its directory.
        images: As `retrieval.sources.open_images.open_source` takes them.
        model: What `Encoder.open` takes; None is what the index was made with. Opened only for new images.
        key_prefix: What the source's keys begin with; None is as in `build_index`.
        excludes: Globs of what else to leave out of a folder, beside those that the index remembers of it.
        labels: See `open_source`; None is as the index has labelled images from there, if it has some.
        check_content: Compare images by their bytes, not by size and time of their files.
        restore_removed: Bring back what was removed from the index and is in the source.
        command: How this was called, for the manifest.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        device: Of the encoder.
        dtype: Of the encoder.
        processes: Those that share the work; each calls this alike.
        progress: Told of downloads, of images embedded and of the steps of indexing.

    Raises:
        MissingModelError: See `retrieval.remembered_model.model_of`.
        ImageSourceError: The source cannot be used.
    """
    check_prefix(key_prefix or "")
    index = Path(index)
    opened = Index.open(index)
    known = Known(opened, check_content=check_content, restore=restore_removed)
    location = location_of(str(images))
    location = known_source(opened.manifest, location) or location
    remembered = tuple(opened.manifest.excludes.get(location, ()))
    if labels is None:
        labels = known.has_labels(location)
    source = open_source(images, known=known.unchanged, excludes=[*remembered, *excludes], labels=labels)
    gone, excluded = known.gone(source), known.excluded(source)
    if processes.is_first:
        _log.info("%s files are as they were", known.skipped)
    built, now = Built(), opened
    if source.parts:
        built = build_index(
            source,
            Encoder.open(model or model_of(opened), device=device, dtype=dtype, progress=progress),
            index,
            extends=True,
            key_prefix=key_prefix,
            restore_removed=restore_removed,
            command=command,
            batch_size=batch_size,
            workers=workers,
            processes=processes,
            progress=progress,
        )
        if gone or restore_removed:
            now = opened.reopened()
        if gone:
            gone = in_use(now, gone)  # Its rows may have followed files that moved.
    elif processes.is_first:
        _log.info("nothing new")
        if source.excludes != remembered:
            note_excludes(index, location, source.excludes)
    processes.wait()
    return Added(
        built=built,
        kept_out=known.kept_out + built.kept_out,
        restored=len(opened.kept_out()) - len(now.kept_out()) if restore_removed else 0,
        gone=tuple(gone),
        excluded=tuple(excluded),
        doubts=known.doubts,
        claims=known.claims,
    )


def prune(index: str | Path, files: Sequence[str], *, command: str = "") -> int:
    """Remove the rows of files that are gone or excluded, as `Added` says.

    Args:
        index: Its directory.
        files: Of which none need be in the index.
        command: How this was called, for the manifest.

    Returns:
        How many rows were removed.

    Raises:
        EmptyIndexError: None would be left.
        IndexBusyError: Another process is writing the index.
    """
    return Index.open(Path(index)).remove_files(files, command=command)
