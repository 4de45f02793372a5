"""`matvit query`: search an index by image, at a budget."""

import os
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.early import check_index, check_model
from cli.output import Ends, from_here, print_json, print_path, print_table, say, si
from cli.progress import progress
from cli.viewer import show_file

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from retrieval.hits import Hit, Hits
    from retrieval.sources.sample import Failure

SHEETS = (".png", ".pdf", ".svg", ".html")
SHEET_ROWS = 50
"""More queries than that make no picture that anyone could look at."""


def query(
    index: options.IndexDir,
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="IMAGE",
            help="Image files, or folders of them. With -, paths are read from stdin.",
            show_default=False,
        ),
    ] = None,
    budget: options.Budget = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Show so many results of each query.")] = 10,
    where: options.Where = None,
    threshold: Annotated[
        float, typer.Option(min=-1, max=1, help="Show only results of at least this cosine.")
    ] = -1.0,
    unique: Annotated[
        bool, typer.Option("--unique", help="Show an image that is there several times only once.")
    ] = False,
    key: Annotated[
        list[str] | None,
        typer.Option(
            help="Find more like this row of the index, which is encoded already. Can be repeated.",
            show_default=False,
        ),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(help="Search by embeddings made elsewhere, in an .npy file.", show_default=False),
    ] = None,
    model: options.ModelOverride = None,
    sheet: Annotated[
        Path | None,
        typer.Option(
            help="Also draw queries and results into this .html, .png, .pdf or .svg file.",
            show_default=False,
        ),
    ] = None,
    open_: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Open the sheet with the system's viewer; without --sheet, a page is made for that.",
        ),
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    engine: Annotated[
        str,
        typer.Option(
            help="Run the model by this: eager; or compiled, which pays for very many queries from stdin."
        ),
    ] = "eager",
    paths: Annotated[
        bool, typer.Option("--paths", help="Print the paths of results, and nothing else.")
    ] = False,
    null: Annotated[
        bool,
        typer.Option(
            "--null",
            "-0",
            help="End paths with NUL in place of a line's end: those of --paths, and those on stdin.",
        ),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Query by a submodel even if nobody trained, refitted or measured its narrower layers.",
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Find the images most like the given ones, at a budget.

    Each is encoded by the submodel that fits the budget. The budget auto is what `matvit calibrate` found for
    this index. With - as IMAGE, paths are read from stdin, one a line, and each gives a line of JSON while
    the model stays warm. --paths prints names of files as they are, which may hold anything but NUL: add -0
    for xargs -0. The exit code is 1 if an image could not be read.

    Example: matvit query cat.jpg -i photos.index -b 60% -k 5

    Example: matvit query cat.jpg -i photos.index --where "year > 2019"

    Example: matvit query --key 2019/cat.jpg -i photos.index --paths
    """
    images = images or []
    stream = images == ["-"]
    if "-" in images and (len(images) > 1 or sheet or open_):
        raise typer.BadParameter("- stands alone, and without --sheet or --open")
    how_shown = "json" if json else "paths" if paths else "json" if stream else "table"
    if null and how_shown != "paths" and not stream:
        raise typer.BadParameter("-0 is for paths: of results, with --paths, or on stdin, with -")
    if not (images or key or vectors):
        raise typer.BadParameter("say what to look for: images, --key or --vectors")
    if sheet and sheet.suffix.lower() not in SHEETS:
        raise typer.BadParameter(f"--sheet {sheet}: draws {', '.join(SHEETS)} files")
    if (sheet or open_) and not (images or key):
        raise typer.BadParameter("--sheet and --open show images and rows, which --vectors are not")
    check_index(index, where)
    check_model(model)
    if sheet:
        sheet.parent.mkdir(parents=True, exist_ok=True)
    embeddings = None if vectors is None else _vectors(vectors)

    from retrieval.errors import UnreadableImageError
    from retrieval.sources.sample import Failure

    def tell_failure(path: str, reason: str) -> None:
        say(f"matvit: {reason}")
        if how_shown == "json":
            print_json({"query": path, "error": reason})

    named = [] if stream else list(_files(images))
    unreadable = [image for image in named if isinstance(image, Failure)]
    if named and len(unreadable) == len(named) and not (key or vectors):
        for failure in unreadable:
            tell_failure(failure.key, f"{failure.key}: {failure.reason}")
        raise typer.Exit(1)

    from retrieval.searcher import Searcher

    if engine == "compiled":
        say("compiling takes a minute or more")
    with progress() as bar:
        searcher = Searcher.open(index, model=model, device=device, dtype=dtype, engine=engine, progress=bar)
        submodel = searcher.submodel(budget, force=force) if images else None
    limits: dict[str, Any] = {
        "k": k,
        "threshold": threshold,
        "where": where,
        "unique": unique,
    }
    show = partial(_show, form=how_shown, end=b"\0" if null else b"\n")
    drawn: list[tuple[str, str | Hit, Hits]] = []
    for row_key in key or []:
        hits = searcher.query_key(row_key, **limits)
        show(row_key, hits)
        if (sheet or open_) and len(drawn) < SHEET_ROWS:
            drawn.append(("query", searcher.hit(row_key), hits))
    if embeddings is not None:
        try:
            found = searcher.query_vectors(embeddings, **limits)
        except ValueError as error:
            raise typer.BadParameter(f"--vectors {vectors}: {error}") from error
        for number, hits in enumerate(found):
            show(f"{vectors}[{number}]", hits)
    failed = False
    for image in _named(b"\0" if null else b"\n") if stream else named:
        path = image.key if isinstance(image, Failure) else image
        try:
            if isinstance(image, Failure):
                raise UnreadableImageError(f"{path}: {image.reason}")
            hits = searcher.query(path, budget=submodel, **limits)
        except UnreadableImageError as error:
            failed = True
            tell_failure(path, str(error))
            continue
        show(path, hits)
        if (sheet or open_) and len(drawn) < SHEET_ROWS:
            drawn.append((f"query, by {hits.submodel}", path, hits))
    if drawn:
        from retrieval.showing.contact_sheet import contact_sheet

        sheet = sheet or Path(tempfile.mkdtemp(prefix="matvit-query-")) / "sheet.html"
        contact_sheet(sheet, drawn)
        say(f"contact sheet of the first {len(drawn)} queries: {sheet}")
        if open_:
            show_file(sheet)
    if failed:
        raise typer.Exit(1)


def _named(end: bytes) -> Iterator[str]:
    """The paths on stdin, each as soon as it is there."""
    given = iter(sys.stdin.buffer) if end == b"\n" else _between_nulls()
    # Decoded as arguments are: a name that is not UTF-8 must not end the stream.
    return (os.fsdecode(path.rstrip(b"\r\n") if end == b"\n" else path) for path in given if path.strip())


def _between_nulls() -> Iterator[bytes]:
    rest = b""
    # What there is, without waiting for more.
    while some := sys.stdin.buffer.read1(2**16):  # type: ignore[union-attr]  # missing in typeshed
        *whole, rest = (rest + some).split(b"\0")
        yield from whole
    yield rest


def _files(images: list[str]) -> "Iterator[str | Failure]":
    """The images named, those of a folder one by one, and what of them cannot be opened or listed."""
    from retrieval.errors import ImageSourceError, UnreadableImageError
    from retrieval.sources.file_bytes import open_regular
    from retrieval.sources.folder_walk import find_images
    from retrieval.sources.sample import Failure

    for image in images:
        if Path(image).is_dir():
            found = find_images(Path(image))
            if not (found.keys or found.closed):
                raise ImageSourceError(f"{image}: no images in this folder")
            yield from (Failure(str(Path(image) / key), reason) for key, reason in found.closed.items())
            yield from (str(Path(image) / key) for key in found.keys)
        else:
            try:
                open_regular(Path(image)).close()
                yield image
            except UnreadableImageError as error:
                yield Failure(image, str(error))


def _vectors(path: Path) -> "NDArray[np.floating]":
    import numpy as np

    try:
        with path.open("rb") as file:
            vectors = np.lib.format.read_array(file, allow_pickle=False)
    except (ValueError, EOFError, MemoryError) as error:
        raise typer.BadParameter(f"--vectors {path}: not an .npy file of numbers") from error
    if vectors.dtype.kind != "f":
        raise typer.BadParameter(f"--vectors {path}: holds {vectors.dtype}, not floating-point numbers")
    return np.atleast_2d(vectors)


def _show(query: str, hits: "Hits", form: str, end: bytes) -> None:
    if form == "json":
        print_json({"query": query} | hits.to_dict())
    elif form == "paths":
        for hit in hits:
            print_path(hit.location, end)
    else:
        show_hits(query, hits)


def show_hits(query: str, hits: "Hits") -> None:
    """Print what a query found, and which submodel answered at what cost."""
    labels = any(hit.label is not None for hit in hits)
    rows = [
        {
            "": rank,
            "score": f"{hit.score:.3f}",
            **({"label": Ends(hit.label or "")} if labels else {}),
            "path": Ends(from_here(hit.location), hit.file.as_uri() if hit.file else None),
        }
        for rank, hit in enumerate(hits, start=1)
    ]
    encoded = f"{hits.submodel}, {si(hits.macs)} MACs; " if hits.submodel else ""
    title = f"{query}: {encoded}{hits.searched}"
    if rows:
        print_table(rows, title=title)
    else:
        say(f"{title}: nothing found")
