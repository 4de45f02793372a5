"""`matvit index`: make an index, look at it, check it."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.models import fetched
from cli.output import print_json, print_table, progress, say

app = typer.Typer(help="Make and check indexes.", no_args_is_help=True, rich_markup_mode=None)


@app.command()
def build(
    images: options.Images,
    model: Annotated[str, typer.Option("--model", "-m", help=options.MODEL_HELP, show_default=False)],
    out: Annotated[Path, typer.Option("--output", "-o", help="The new index directory.", show_default=False)],
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Embed images with the full encoder and index them.

    Images that cannot be read are counted, kept with their reasons in failures.parquet, and stop nothing.
    An interrupted build goes on where it stopped when the same command is run again.

    Example: matvit index build photos/ -m runs/x/checkpoint -o photos.index
    """
    from indexes.rows import read_failures
    from retrieval.embed import build_index
    from retrieval.encoder import Encoder
    from retrieval.images import open_source

    source = open_source(images)
    encoder = Encoder.open(fetched(model), device=device, dtype=dtype)
    skipped = 0

    def skip(count: int) -> None:
        nonlocal skipped
        skipped += count
        advance(count)

    with progress("Embedding", source.size) as advance:
        manifest = build_index(
            source,
            encoder,
            out,
            command=shlex.join(["matvit", *sys.argv[1:]]),
            batch_size=batch_size,
            workers=workers,
            on_images=advance,
            on_skip=skip,
        )
    if skipped:
        say(f"{skipped} images were embedded before this run was interrupted, and were not repeated")
    failures = read_failures(out / "failures.parquet").to_pylist()
    for failure in failures[:20]:
        say(f"not indexed: {failure['key']}: {failure['reason']}")
    if len(failures) > 20:
        say(f"... and {len(failures) - 20} more in {out / 'failures.parquet'}")
    say(f"{manifest.ntotal} images indexed, {len(failures)} not readable: {out}")
    if json:
        print_json({"index": str(out), "indexed": manifest.ntotal, "failures": len(failures)})


@app.command()
def info(
    index: Annotated[Path, typer.Argument(help="Index directory.", show_default=False)],
    json: options.Json = False,
) -> None:
    """Show what made an index and what is in it.

    Example: matvit index info photos.index
    """
    from indexes import Index
    from indexes.search import require_faiss

    faiss = require_faiss()
    manifest = Index.open(index).manifest
    facts = {
        "images": manifest.ntotal,
        "not readable": manifest.files["failures.parquet"].rows,
        "classes": len(manifest.classes),
        "source": manifest.source,
        "model": manifest.encoder.architecture,
        "weights sha256": manifest.encoder.weights_sha256,
        "checkpoint": manifest.checkpoint,
        "dimensions": manifest.encoder.embed_dim,
        "pooling": manifest.encoder.pooling,
        "metric": manifest.metric,
        "kind": manifest.factory,
        "recall": manifest.recall,
        "search": f"FAISS {faiss.__version__} on the CPU",
        "bytes": sum(entry.bytes for entry in manifest.files.values()),
        "created": manifest.created,
        "command": manifest.command,
    }
    if json:
        print_json(facts)
    else:
        print_table([{"": name, " ": str(value)} for name, value in facts.items()])


@app.command()
def verify(
    index: Annotated[Path, typer.Argument(help="Index directory.", show_default=False)],
    json: options.Json = False,
) -> None:
    """Compare every byte of an index with what was written. Exit code 1 if anything changed.

    Example: matvit index verify photos.index
    """
    from indexes import verify as problems_of

    problems = problems_of(index)
    if json:
        print_json({"sound": not problems, "problems": problems})
    for problem in problems:
        say(problem)
    if problems:
        raise typer.Exit(1)
    say(f"{index}: every file is as it was written")
