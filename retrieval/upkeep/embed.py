"""Images to an index: embed every part once with the full encoder, then write the index whole."""

import logging
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from indexes import IndexWriter, Store, StoreWriter
from indexes.disk.key_prefixes import with_prefix
from indexes.disk.manifest import read_manifest
from indexes.disk.origin import Origin
from indexes.disk.staging import restore
from indexes.faiss_kinds.options import AUTO, KindOptions, check
from indexes.faiss_kinds.search import require_faiss
from matvit.progress import Count, Progress, silent
from matvit.runtime.processes import ALONE, Processes
from retrieval.encoding.batches import Batch, batches
from retrieval.encoding.encoder import NO_EMBEDDING, Encoder, are_units
from retrieval.sources.open_images import ImageSource
from retrieval.sources.photo import COLUMNS
from retrieval.sources.sample import Sample
from retrieval.upkeep.built import Built
from retrieval.upkeep.kept_out import kept_out
from retrieval.upkeep.key_prefix import KeyPrefix
from retrieval.upkeep.recognition import KnownContents, moved, recognised

_log = logging.getLogger(__name__)


def build_index(
    source: ImageSource,
    encoder: Encoder,
    out: str | Path,
    *,
    extends: bool = False,
    key_prefix: str | None = None,
    restore_removed: bool = False,
    photos: bool = True,
    options: KindOptions = AUTO,
    command: str = "",
    batch_size: int = 64,
    workers: int | None = None,
    processes: Processes = ALONE,
    progress: Progress = silent,
) -> Built:
    """Embed a corpus and index it; an interrupted build goes on after its last whole part.

    Images whose very bytes the index has already, of files that moved or were touched or copied, are not
    embedded again; the rows of files that are gone give way to those of the same images elsewhere.

    Args:
        source: The images; what cannot be read is kept with its reason and stops nothing.
        encoder: Embeds with all of its units: XL.
        out: The index directory.
        extends: Whether `out` is an index already, which the images are added to; what it has from the same
            files is replaced.
        key_prefix: What the source's keys begin with. None is what the index remembers of the source, else
            nothing, or a prefix after its name where another file has one of its keys.
        restore_removed: Images that were removed may come back.
        photos: Let image files carry what `retrieval.sources.photo` tells of them. An index that is extended
            goes on as it is.
        options: How to index the vectors; an index that is extended keeps its kind.
        command: How this was called, for the manifest.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.encoding.batches`.
        processes: Those that share the work, part by part; each calls this alike.
        progress: Told of images embedded, of which failures and what an earlier, interrupted build finished
            are some, and of the steps of indexing.

    Returns:
        What this run did.

    Raises:
        IndexExistsError: `out` exists, and is not to be extended.
        IndexBusyError: Another process is writing it.
        IndexDamagedError: There is no whole index to extend.
        WrongEncoderError: The index to extend was made by another encoder.
        EmptyIndexError: Not one image could be embedded.
        CheckpointError: The encoder's weights are not finite.
        MissingFaissError: FAISS is not installed.
        DuplicateKeyError: Two images have the same key. Where names alone tell, before the work.
        KeyPrefixError: No key may begin with `key_prefix`.
        IndexKindError: FAISS cannot index the vectors like that.
    """
    built = Built()
    require_faiss()  # Better now than after hours of embedding.
    check(options, encoder.identity.embed_dim)
    encoder.check_weights()
    out = Path(out)
    if extends:
        restore(out)
        encoder = encoder.reading_as(read_manifest(out).encoder.preprocess)
    if processes.is_first:
        _tell(source)
    else:
        processes.wait()  # until the first one has planned
    with IndexWriter(out, encoder.identity, extends=extends, helps=not processes.is_first) as writer:
        base = writer.base
        prefix = KeyPrefix(base, source, key_prefix)
        if processes.is_first:
            prefix.settle_by_names()
        # A part that was embedded in another number format is done again, never mixed in.
        writer.plan([(part.name, f"{part.fingerprint} {encoder.dtype}") for part in source.parts])
        if processes.is_first:
            processes.wait()
        own = range(processes.rank, len(source.parts), processes.world_size)
        done = {i for i in own if writer.is_done(i)}
        todo = [i for i in own if i not in done]
        skipped = sum(sum(writer.rows_done(i)) for i in done)
        if skipped and processes.is_first:
            _log.info(
                "%s images were embedded before this run was interrupted, and were not repeated", skipped
            )
        total = source.size if processes.world_size == 1 else None
        count = Count(progress, "images embedded", total, done=skipped)
        parts = [source.parts[i] for i in todo]
        known = KnownContents(base)
        embedded = _Embedded(encoder, base, known)
        if base is not None:
            photos = set(base.entries(COLUMNS).column_names) == set(COLUMNS)
        for batch in batches(
            parts, encoder, batch_size=batch_size, workers=workers, known=known, photos=photos
        ):
            embedded.add(batch)
            count(len(batch.samples) + len(batch.known) + len(batch.failures))
            if batch.last:
                embedded.write(writer, todo[batch.part])
        processes.wait()
        if processes.is_first:
            origin = Origin(
                encoder=encoder.identity,
                dtype=str(encoder.dtype).removeprefix("torch."),
                device=str(encoder.device),
                checkpoint=encoder.location,
                # From any working directory, the corpus must be found again.
                sources=[prefix.location],
                excludes={prefix.location: source.excludes} if source.excludes else {},
                command=command,
            )
            new, followed, out_keys = writer.rows(), list[str](), list[str]()
            if base is not None:
                out_keys = [] if restore_removed else kept_out(base, new)
                new = new.filter(pc.invert(pc.is_in(new["key"], pa.array(out_keys, pa.string()))))
                followed = _follow(base, new, prefix)
            built = Built.of(
                base,
                with_prefix(new, prefix.text),
                moved=followed,
                kept_out=len(out_keys),
                failures=with_prefix(writer.failures(), prefix.text),
            )
            writer.commit(
                origin, options, progress, key_prefix=prefix.text, moved=followed, kept_out=out_keys
            )
    processes.wait()
    return built


def _tell(source: ImageSource) -> None:
    if source.excluded:
        _log.info("%s files and folders are excluded", source.excluded)
    if source.note:
        _log.info("%s", source.note)


def _follow(base: Store, new: pa.Table, prefix: KeyPrefix) -> list[str]:
    """Keys of rows that new ones follow from elsewhere, once the keys of those are known for good."""
    followed = moved(base, with_prefix(new, prefix.text))
    prefix.settle_by_rows(with_prefix(new, prefix.text), followed)
    if count := recognised(base, new):
        _log.info("%s images are known by their bytes, and were not embedded again", count)
    if followed:
        _log.info("%s rows follow files that moved", len(followed))
    return followed


class _Embedded:
    """What is known of a part so far."""

    def __init__(self, encoder: Encoder, base: Store | None, known: KnownContents) -> None:
        self._encoder, self._base, self._known = encoder, base, known
        self._clear()

    def _clear(self) -> None:
        self._vectors = [np.empty((0, self._encoder.identity.embed_dim), np.float16)]
        self._kept: list[tuple[int, list[str]]] = []
        self._rows: list[dict[str, str | None]] = []
        self._failures: list[tuple[str, str]] = []

    def add(self, batch: Batch) -> None:
        self._failures += [(failure.key, failure.reason) for failure in batch.failures]
        if batch.samples:
            vectors_BD = self._encoder.embed(batch.images).astype(np.float16)
            usable_B = are_units(vectors_BD)
            self._vectors.append(vectors_BD[usable_B])
            for sample, content, is_usable in zip(batch.samples, batch.contents, usable_B, strict=True):
                if is_usable:
                    self._rows.append(_row(sample, content))
                else:
                    self._failures.append((sample.key, NO_EMBEDDING))
        if batch.known:
            keys = self._known.keys([content for _, content in batch.known])
            self._kept.append((len(self._vectors), keys))
            self._vectors.append(np.empty((0, 0), np.float16))
            self._rows += [_row(sample, content) for sample, content in batch.known]

    def write(self, writer: StoreWriter, i: int) -> None:
        if self._kept:
            self._take_kept()
        writer.write_part(i, np.concatenate(self._vectors), self._rows, self._failures)
        self._clear()

    def _take_kept(self) -> None:
        """The vectors that the base has, of all batches at once: each time it looks through all its keys."""
        assert self._base is not None
        taken_ND = self._base.sound_vectors_of([key for _, keys in self._kept for key in keys])
        ends = np.cumsum([len(keys) for _, keys in self._kept])[:-1]
        for (position, _), some_ND in zip(self._kept, np.split(taken_ND, ends), strict=True):
            self._vectors[position] = some_ND.astype(np.float16)


def _row(sample: Sample, content: str) -> dict[str, str | None]:
    row = {
        "key": sample.key,
        "path": sample.path,
        "label": sample.label,
        "content": content,
        "state": sample.state,
    }
    return {**sample.extra, **row}
