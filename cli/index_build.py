"""`matvit index build` and `add`: images in."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import command_line, print_json, say
from cli.progress import progress

if TYPE_CHECKING:
    import torch

    from indexes.faiss_kinds.options import KindOptions
    from matvit.runtime.processes import Processes
    from retrieval.sources.open_images import ImageSource

Model = Annotated[str, typer.Option("--model", "-m", help=options.MODEL_HELP, show_default=False)]
Output = Annotated[Path, typer.Option("--output", "-o", help="The new index directory.", show_default=False)]


def build(
    images: options.Images,
    model: Model,
    out: Output,
    key_prefix: options.KeyPrefix = None,
    exclude: options.Exclude = None,
    factory: options.Factory = "auto",
    rerank: options.Rerank = None,
    max_memory: options.MaxMemory = None,
    max_query_ms: options.MaxQueryMs = None,
    recall: options.Recall = 0.95,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Embed images with the full encoder and index them.

    Images that cannot be read are counted, kept with their reasons in failures.parquet, and stop nothing.
    An interrupted build goes on where it stopped when the same command is run again. Under torchrun,
    processes share the parts.

    Example: matvit index build photos/ -m runs/x/checkpoint -o photos.index

    Many images: matvit index build 'x-{000..999}.tar' -m NAME -o x.index --max-memory 4G
    """
    from indexes.disk.key_prefixes import check_prefix
    from matvit.runtime.processes import joined
    from retrieval.sources.open_images import open_source

    check_prefix(key_prefix or "")
    kind = options.kind_options(factory, rerank, max_memory, max_query_ms, recall)
    source = open_source(images, excludes=exclude or ())
    with joined(device) as where:
        _embed(
            source,
            model,
            out,
            kind=kind,
            key_prefix=key_prefix,
            where=where,
            batch_size=batch_size,
            workers=workers,
            dtype=dtype,
        )
    if json and where[0].is_first:
        _print_counts(out)


def add(
    images: options.Images,
    index: options.IndexDir,
    model: options.ModelOverride = None,
    key_prefix: options.KeyPrefix = None,
    exclude: options.Exclude = None,
    check_content: Annotated[
        bool, typer.Option("--check-content", help="Compare images by their bytes, not by size and time.")
    ] = False,
    prune: Annotated[
        bool,
        typer.Option("--prune", help="Remove rows whose files are gone from the folder IMAGES, or excluded."),
    ] = False,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Add images to an index: those that are new, and those that changed in place of what they were.

    Run it every night on the same folder. Only the weights that made the index can add to it. Images that the
    index has from elsewhere are known by their bytes and not embedded again: rows follow files that moved.

    Example: matvit index add photos/ -i photos.index --prune
    """
    from indexes import Index
    from indexes.change import note_excludes
    from indexes.disk.key_prefixes import check_prefix, known_source
    from indexes.faiss_kinds.options import AUTO
    from matvit.runtime.processes import joined
    from retrieval.searcher import model_of
    from retrieval.sources.open_images import location_of, open_source
    from retrieval.upkeep.known_files import Known, in_use

    check_prefix(key_prefix or "")
    with joined(device) as where:
        tell = say if where[0].is_first else _nobody
        opened = Index.open(index)
        known = Known(opened, check_content=check_content)
        place = known_source(opened.manifest, location_of(images)) or location_of(images)
        remembered = tuple(opened.manifest.excludes.get(place, ()))
        source = open_source(images, known=known.unchanged, excludes=[*remembered, *(exclude or ())])
        gone, excluded = known.gone(source), known.excluded(source)
        tell(f"{known.skipped} files are as they were")
        if source.parts:
            model = model or model_of(opened)
            _embed(
                source,
                model,
                index,
                kind=AUTO,
                key_prefix=key_prefix,
                where=where,
                batch_size=batch_size,
                workers=workers,
                dtype=dtype,
                extends=True,
            )
        else:
            tell("nothing new")
            if where[0].is_first and source.excludes != remembered:
                note_excludes(index, place, source.excludes)
    if where[0].is_first:
        if gone:
            gone = in_use(opened.reopened(), gone)  # Its rows may have followed files that moved.
        if known.doubts:
            reasons = ", ".join(f"{count} {reason}" for reason, count in known.doubts.most_common(5))
            say(f"{known.doubts.total()} files may be gone or not, and keep their rows: {reasons}")
        for place, count in known.claims.items():
            say(f"{count} files are excluded, but {place} may name them and cannot be read: their rows stay")
        for files, what in ((gone, "gone"), (excluded, "excluded")):
            if files and prune:
                count = opened.remove_files(files, command=command_line())
                say(f"{count} rows removed whose files are {what}")
            elif files:
                say(f"{len(files)} files are {what}: --prune removes their rows")
    if json and where[0].is_first:
        _print_counts(index)


def _embed(
    source: "ImageSource",
    model: str,
    out: Path,
    *,
    kind: "KindOptions",
    key_prefix: str | None,
    where: "tuple[Processes, torch.device]",
    batch_size: int,
    workers: int | None,
    dtype: str,
    extends: bool = False,
) -> None:
    from indexes.disk.rows import read_failures
    from matvit.progress import silent
    from retrieval.encoding.encoder import Encoder
    from retrieval.upkeep.embed import build_index

    if source.excluded and where[0].is_first:
        say(f"{source.excluded} files and folders are excluded")
    processes, place = where
    if processes.is_first and source.note:
        say(source.note)
    with progress() if processes.is_first else nullcontext(silent) as bar:
        encoder = Encoder.open(model, device=str(place), dtype=dtype, progress=bar)
        manifest = build_index(
            source,
            encoder,
            out,
            extends=extends,
            key_prefix=key_prefix,
            options=kind,
            command=command_line(),
            batch_size=batch_size,
            workers=workers,
            processes=processes,
            progress=bar,
        )
    if not processes.is_first:
        return
    failures = read_failures(out / "failures.parquet").to_pylist()
    for failure in failures[:20]:
        say(f"not indexed: {failure['key']}: {failure['reason']}")
    if len(failures) > 20:
        say(f"... and {len(failures) - 20} more in {out / 'failures.parquet'}")
    say(f"{manifest.ntotal - manifest.removed} images indexed, {len(failures)} not readable: {out}")
    if manifest.kind.recall < 1:
        say(f"{manifest.kind.factory} finds {manifest.kind.recall:.1%} of the true 10 nearest")


def _print_counts(index: Path) -> None:
    from indexes.disk.manifest import read_manifest

    manifest = read_manifest(index)
    found, failures = manifest.ntotal - manifest.removed, manifest.files["failures.parquet"].rows
    print_json({"index": str(index), "indexed": found, "failures": failures})


def _nobody(_: str) -> None:
    """Of several processes, one tells."""


COMMANDS = (build, add)
