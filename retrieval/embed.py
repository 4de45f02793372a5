"""Images to an index: embed every part once with the full encoder, then write the index whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from indexes import Index, IndexWriter, Manifest
from indexes.assembly import Origin
from indexes.filling import Progress
from indexes.kinds import AUTO, KindOptions, check
from indexes.manifest import read_manifest
from indexes.prefixes import with_prefix
from indexes.search import require_faiss
from indexes.staging import restore
from matvit.distributed import ALONE, Processes
from retrieval.batches import Batch, batches
from retrieval.encoder import NO_EMBEDDING, Encoder, are_units
from retrieval.images import ImageSource
from retrieval.key_prefix import KeyPrefix
from retrieval.recognition import KnownContents, moved, recognised
from retrieval.samples import Sample


def build_index(
    source: ImageSource,
    encoder: Encoder,
    out: str | Path,
    *,
    extends: bool = False,
    key_prefix: str | None = None,
    options: KindOptions = AUTO,
    command: str = "",
    batch_size: int = 64,
    workers: int | None = None,
    processes: Processes = ALONE,
    on_images: Callable[[int], None] = lambda _: None,
    on_skip: Callable[[int], None] = lambda _: None,
    on_progress: Progress = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Manifest:
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
        options: How to index the vectors; an index that is extended keeps its kind.
        command: How this was called, for the manifest.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.batches`.
        processes: Those that share the work, part by part; each calls this alike.
        on_images: Called with the number of images done since the last call, failures included.
        on_skip: The same for images of parts that an earlier, interrupted build finished.
        on_progress: Told of the steps of indexing.
        on_note: Told in a line of a prefix that was chosen, and of images that were known by their bytes.

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
    require_faiss()  # Better now than after hours of embedding.
    check(options, encoder.identity.embed_dim)
    encoder.check_weights()
    out = Path(out)
    if extends:
        restore(out)
        encoder = encoder.reading_as(read_manifest(out).encoder.preprocess)
    if not processes.is_first:
        processes.wait()  # until the first one has planned
    with IndexWriter(out, encoder.identity, extends=extends, helps=not processes.is_first) as writer:
        base = writer.base
        prefix = KeyPrefix(base, source, key_prefix, on_note)
        if processes.is_first:
            prefix.settle_by_names()
        # A part that was embedded in another number format is done again, never mixed in.
        writer.plan([(part.name, f"{part.fingerprint} {encoder.dtype}") for part in source.parts])
        if processes.is_first:
            processes.wait()
        todo = []
        for i in range(processes.rank, len(source.parts), processes.world_size):
            if writer.is_done(i):
                on_skip(sum(writer.rows_done(i)))
            else:
                todo.append(i)
        parts = [source.parts[i] for i in todo]
        known = KnownContents(base)
        embedded = _Embedded(encoder, base, known)
        for batch in batches(parts, encoder, batch_size=batch_size, workers=workers, known=known):
            embedded.add(batch)
            on_images(len(batch.samples) + len(batch.known) + len(batch.failures))
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
                sources=[prefix.place],
                excludes={prefix.place: source.excludes} if source.excludes else {},
                command=command,
            )
            moved_N = None
            if base is not None:
                moved_N = _follow(base, writer.rows(), prefix, on_note)
            writer.commit(origin, options, on_progress, key_prefix=prefix.text, moved_N=moved_N)
    processes.wait()
    return read_manifest(out)


def _follow(
    base: Index, new: pa.Table, prefix: KeyPrefix, on_note: Callable[[str], None]
) -> NDArray[np.bool_]:
    """Rows of an index that new ones follow from elsewhere, once the keys of those are known for good."""
    moved_N = moved(base, with_prefix(new, prefix.text))
    prefix.settle_by_rows(with_prefix(new, prefix.text), moved_N)
    if count := recognised(base, new):
        on_note(f"{count} images are known by their bytes, and were not embedded again")
    if moved_N.any():
        on_note(f"{moved_N.sum()} rows follow files that moved")
    return moved_N


class _Embedded:
    """What is known of a part so far."""

    def __init__(self, encoder: Encoder, base: Index | None, known: KnownContents) -> None:
        self._encoder, self._base, self._known = encoder, base, known
        self._clear()

    def _clear(self) -> None:
        self._vectors = [np.empty((0, self._encoder.identity.embed_dim), np.float16)]
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
            assert self._base is not None
            rows_N = self._known.rows([content for _, content in batch.known])
            self._vectors.append(self._base.sound_vectors(rows_N).astype(np.float16))
            self._rows += [_row(sample, content) for sample, content in batch.known]

    def write(self, writer: IndexWriter, i: int) -> None:
        writer.write_part(i, np.concatenate(self._vectors), self._rows, self._failures)
        self._clear()


def _row(sample: Sample, content: str) -> dict[str, str | None]:
    row = {
        "key": sample.key,
        "path": sample.path,
        "label": sample.label,
        "content": content,
        "state": sample.state,
    }
    return {**sample.extra, **row}
