"""`matvit index build` and `add`: images in."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.early import check_images, check_index, check_model
from cli.output import command_line, print_json, say
from cli.progress import progress

if TYPE_CHECKING:
    from indexes import Manifest
    from retrieval.upkeep.add import Added

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
    from indexes.disk.staging import Staging
    from retrieval.sources.open_images import open_source

    kind = options.kind_options(factory, rerank, max_memory, max_query_ms, recall)
    Staging(out).check_place()
    check_model(model)
    source = open_source(images, excludes=exclude or ())

    from matvit.runtime.processes import joined
    from retrieval.encoding.encoder import Encoder
    from retrieval.upkeep.embed import build_index

    with joined(device) as (processes, torch_device), progress(shown=processes.is_first) as bar:
        encoder = Encoder.open(model, device=str(torch_device), dtype=dtype, progress=bar)
        manifest = build_index(
            source,
            encoder,
            out,
            key_prefix=key_prefix,
            options=kind,
            command=command_line(),
            batch_size=batch_size,
            workers=workers,
            processes=processes,
            progress=bar,
        )
    if processes.is_first:
        _tell(out, manifest)
        if json:
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
    check_index(index)
    check_model(model)
    check_images(images)

    from matvit.runtime.processes import joined
    from retrieval.upkeep.add import add_to_index
    from retrieval.upkeep.add import prune as remove_rows

    with joined(device) as (processes, torch_device), progress(shown=processes.is_first) as bar:
        added = add_to_index(
            index,
            images,
            model=model,
            key_prefix=key_prefix,
            excludes=exclude or (),
            check_content=check_content,
            command=command_line(),
            batch_size=batch_size,
            workers=workers,
            device=str(torch_device),
            dtype=dtype,
            processes=processes,
            progress=bar,
        )
    if not processes.is_first:
        return
    if added.embedded:
        _tell(index, added.manifest)
    _tell_doubts(added)
    for files, why in ((added.gone, "gone"), (added.excluded, "excluded")):
        if files and prune:
            count = remove_rows(index, files, command=command_line())
            say(f"{count} rows removed whose files are {why}")
        elif files:
            say(f"{len(files)} files are {why}: --prune removes their rows")
    if json:
        _print_counts(index)


def _tell(index: Path, manifest: "Manifest") -> None:
    from indexes.disk.rows import read_failures

    failures = read_failures(index / "failures.parquet").to_pylist()
    for failure in failures[:20]:
        say(f"not indexed: {failure['key']}: {failure['reason']}")
    if len(failures) > 20:
        say(f"... and {len(failures) - 20} more in {index / 'failures.parquet'}")
    say(f"{manifest.ntotal - manifest.removed} images indexed, {len(failures)} not readable: {index}")
    if manifest.kind.recall < 1:
        say(f"{manifest.kind.factory} finds {manifest.kind.recall:.1%} of the true 10 nearest")


def _tell_doubts(added: "Added") -> None:
    if added.doubts:
        reasons = ", ".join(f"{count} {reason}" for reason, count in added.doubts.most_common(5))
        say(f"{added.doubts.total()} files may be gone or not, and keep their rows: {reasons}")
    for source, count in added.claims.items():
        say(f"{count} files are excluded, but {source} may name them and cannot be read: their rows stay")


def _print_counts(index: Path) -> None:
    from indexes.disk.manifest import read_manifest

    manifest = read_manifest(index)
    found, failures = manifest.ntotal - manifest.removed, manifest.files["failures.parquet"].rows
    print_json({"index": str(index), "indexed": found, "failures": failures})


COMMANDS = (build, add)
