"""Images to an index: embed every part once with the full encoder, then write the index whole."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from indexes import IndexWriter, Manifest
from indexes.search import require_faiss
from retrieval.batches import batches
from retrieval.encoder import Encoder
from retrieval.images import ImageSource
from retrieval.samples import Part


def build_index(
    source: ImageSource,
    encoder: Encoder,
    out: str | Path,
    *,
    command: str = "",
    batch_size: int = 64,
    workers: int | None = None,
    on_images: Callable[[int], None] = lambda _: None,
    on_skip: Callable[[int], None] = lambda _: None,
) -> Manifest:
    """Embed a corpus and index it; an interrupted build goes on after its last whole part.

    Args:
        source: The images; what cannot be read is kept with its reason and stops nothing.
        encoder: Embeds with all of its units: XL.
        out: The new index directory.
        command: How this was called, for the manifest.
        batch_size: Images a batch.
        workers: Decoding threads; None is one a core.
        on_images: Called with the number of images done since the last call, failures included.
        on_skip: The same for images of parts that an earlier, interrupted build finished.

    Raises:
        IndexExistsError: `out` is an index already.
        IndexBusyError: Another process is building it.
        EmptyIndexError: Not one image could be read.
        MissingFaissError: FAISS is not installed.
        DuplicateKeyError: Two images have the same key.
    """
    require_faiss()  # Better now than after hours of embedding.
    with IndexWriter(Path(out), encoder.identity) as writer:
        # A part that was embedded in another number format is done again, never mixed in.
        writer.plan([(part.name, f"{part.fingerprint} {encoder.dtype}") for part in source.parts])
        for i, part in enumerate(source.parts):
            if writer.is_done(i):
                on_skip(sum(writer.rows_done(i)))
            else:
                _embed_part(writer, i, part, encoder, batch_size, workers, on_images)
        return writer.commit(
            dtype=str(encoder.dtype).removeprefix("torch."),
            device=str(encoder.device),
            checkpoint=encoder.location,
            # From any working directory, the corpus must be found again.
            source=str(Path(source.text).absolute()),
            command=command,
        )


def _embed_part(
    writer: IndexWriter,
    i: int,
    part: Part,
    encoder: Encoder,
    batch_size: int,
    workers: int | None,
    on_images: Callable[[int], None],
) -> None:
    vectors = [np.empty((0, encoder.identity.embed_dim), np.float32)]
    rows: list[dict[str, str | None]] = []
    failures: list[tuple[str, str]] = []
    for batch in batches(part.read(), encoder, batch_size=batch_size, workers=workers):
        if batch.samples:
            vectors.append(encoder.embed(batch.images))
        rows += [
            {**sample.extra, "key": sample.key, "path": sample.path, "label": sample.label}
            for sample in batch.samples
        ]
        failures += [(failure.key, failure.reason) for failure in batch.failures]
        on_images(len(batch.samples) + len(batch.failures))
    writer.write_part(i, np.concatenate(vectors), rows, failures)
