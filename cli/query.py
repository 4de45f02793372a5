"""`matvit query`: search an index by image, at a budget."""

import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.models import fetched_for
from cli.output import print_json, print_table, say, si
from cli.times import submodel_for

if TYPE_CHECKING:
    from matvit.compiled import CompiledSubmodels
    from matvit.submodel import Submodel
    from retrieval.searcher import Hits

SHEET_ROWS = 50
"""More queries than that make no picture that anyone could look at."""


def query(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE", help="Image files or folders; - reads paths from stdin.", show_default=False
        ),
    ],
    index: options.IndexDir,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            "-b",
            help="What a query may cost: M, 60%, 9gmacs, 25ms...",
            show_default="the full encoder",
        ),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results a query.")] = 10,
    model: options.ModelOverride = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Also draw queries and results into this .png.", show_default=False)
    ] = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the submodel first: for - with very many queries, not for a few."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Find the images most like the given ones, each encoded by the submodel that fits the budget.

    With - as IMAGE, paths are read from stdin, one a line, and each gives a line of JSON while the model
    stays warm. Exit code 1 if an image could not be read.

    Example: matvit query cat.jpg -i photos.index --budget 60% -k 5
    """
    from retrieval.errors import UnreadableImageError
    from retrieval.searcher import Searcher

    stream = images == ["-"]
    if "-" in images and (len(images) > 1 or sheet):
        raise typer.BadParameter("- stands alone, and without --sheet")
    if sheet and sheet.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise typer.BadParameter(f"--sheet {sheet}: draws .png, .pdf and .svg files")
    model = fetched_for(index, model)
    searcher = Searcher.open(index, model=model, device=device, dtype=dtype, compile=compile)
    if searcher.encoder.compiled:
        say("compiling takes a minute or more")
        searcher.encoder.compiled.on_compile = partial(_tell_compiled, searcher.encoder.compiled)
    submodel = submodel_for(searcher.encoder, budget)
    results: list[tuple[str, Hits]] = []
    failed = False
    for path in _lines() if stream else _files(images):
        try:
            hits = searcher.query(path, budget=submodel, k=k)
        except UnreadableImageError as error:
            failed = True
            say(f"matvit: {error}")
            if json or stream:
                print_json({"query": path, "error": str(error)})
            continue
        if json or stream:
            print_json(_record(path, hits))
        else:
            show_hits(path, hits)
        if sheet and len(results) < SHEET_ROWS:
            results.append((path, hits))
    if sheet and results:
        from retrieval.figures import contact_sheet

        contact_sheet(sheet, [(Path(path).name, path, hits) for path, hits in results])
        say(f"contact sheet of the first {len(results)} queries: {sheet}")
    if failed:
        raise typer.Exit(1)


def _tell_compiled(compiled: "CompiledSubmodels", submodel: "Submodel", seconds: float) -> None:
    say(f"compiled {submodel} in {seconds:.0f} s; frozen weights hold {si(compiled.memory_bytes)}B")


def _lines() -> Iterator[str]:
    # Decoded as arguments are: a name that is not UTF-8 must not end the stream.
    return (os.fsdecode(line.rstrip(b"\r\n")) for line in sys.stdin.buffer if line.strip())


def _files(images: list[str]) -> Iterator[str]:
    """The images named, those of a folder one by one."""
    from retrieval.errors import ImageSourceError
    from retrieval.folders import find_images

    for image in images:
        if Path(image).is_dir():
            keys = find_images(Path(image))
            if not keys:
                raise ImageSourceError(f"{image}: no images in this folder")
            yield from (str(Path(image) / key) for key in keys)
        else:
            yield image


def _record(path: str, hits: "Hits") -> dict[str, object]:
    return {
        "query": path,
        "submodel": str(hits.submodel),
        "gmacs": hits.gmacs,
        "hits": [{"key": h.key, "score": h.score, "label": h.label, "path": h.path} for h in hits],
    }


def show_hits(path: str, hits: "Hits", limit: int | None = None) -> None:
    """Print what a query found, and which submodel answered at what cost."""
    rows = [
        {"key": hit.key, "score": f"{hit.score:.4f}", "label": hit.label, "path": hit.path}
        for hit in hits.hits[:limit]
    ]
    print_table(rows, title=f"{path}: {hits.submodel}, {si(hits.cost.macs)} MACs")
