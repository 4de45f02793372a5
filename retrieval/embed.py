"""Images to an index: embed every part once with the full encoder, then write the index whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from indexes import IndexWriter, Manifest
from indexes.assembly import Origin
from indexes.filling import Progress
from indexes.kinds import AUTO, KindOptions, check
from indexes.manifest import read_manifest
from indexes.search import require_faiss
from indexes.staging import restore
from matvit.distributed import ALONE, Processes
from retrieval.batches import Batch, batches
from retrieval.encoder import NO_EMBEDDING, Encoder, are_units
from retrieval.images import ImageSource


def build_index(
    source: ImageSource,
    encoder: Encoder,
    out: str | Path,
    *,
    extends: bool = False,
    options: KindOptions = AUTO,
    command: str = "",
    batch_size: int = 64,
    workers: int | None = None,
    processes: Processes = ALONE,
    on_images: Callable[[int], None] = lambda _: None,
    on_skip: Callable[[int], None] = lambda _: None,
    on_progress: Progress = lambda *_: None,
) -> Manifest:
    """Embed a corpus and index it; an interrupted build goes on after its last whole part.

    Args:
        source: The images; what cannot be read is kept with its reason and stops nothing.
        encoder: Embeds with all of its units: XL.
        out: The index directory.
        extends: Whether `out` is an index already, which the images are added to; what it has from the same
            files is replaced.
        options: How to index the vectors; an index that is extended keeps its kind.
        command: How this was called, for the manifest.
        batch_size: Images a batch.
        workers: Processes that decode: see `retrieval.batches`.
        processes: Those that share the work, part by part; each calls this alike.
        on_images: Called with the number of images done since the last call, failures included.
        on_skip: The same for images of parts that an earlier, interrupted build finished.
        on_progress: Told of the steps of indexing.

    Raises:
        IndexExistsError: `out` exists, and is not to be extended.
        IndexBusyError: Another process is writing it.
        IndexDamagedError: There is no whole index to extend.
        WrongEncoderError: The index to extend was made by another encoder.
        EmptyIndexError: Not one image could be embedded.
        CheckpointError: The encoder's weights are not finite.
        MissingFaissError: FAISS is not installed.
        DuplicateKeyError: Two images have the same key.
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
        embedded = _Embedded(encoder)
        for batch in batches(parts, encoder, batch_size=batch_size, workers=workers):
            embedded.add(batch)
            on_images(len(batch.samples) + len(batch.failures))
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
                sources=[source.place],
                command=command,
            )
            writer.commit(origin, options, on_progress)
    processes.wait()
    return read_manifest(out)


class _Embedded:
    """What is known of a part so far."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._clear()

    def _clear(self) -> None:
        self._vectors = [np.empty((0, self._encoder.identity.embed_dim), np.float16)]
        self._rows: list[dict[str, str | None]] = []
        self._failures: list[tuple[str, str]] = []

    def add(self, batch: Batch) -> None:
        self._failures += [(failure.key, failure.reason) for failure in batch.failures]
        if not batch.samples:
            return
        vectors_BD = self._encoder.embed(batch.images).astype(np.float16)
        usable_B = are_units(vectors_BD)
        self._vectors.append(vectors_BD[usable_B])
        for sample, content, is_usable in zip(batch.samples, batch.contents, usable_B, strict=True):
            if not is_usable:
                self._failures.append((sample.key, NO_EMBEDDING))
                continue
            row = {
                "key": sample.key,
                "path": sample.path,
                "label": sample.label,
                "content": content,
                "state": sample.state,
            }
            self._rows.append({**sample.extra, **row})

    def write(self, writer: IndexWriter, i: int) -> None:
        writer.write_part(i, np.concatenate(self._vectors), self._rows, self._failures)
        self._clear()
