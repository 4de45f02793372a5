"""`matvit index remove`, `compact`, `merge`, `relocate` and `export`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import command_line, say
from cli.progress import progress


class Missing(StrEnum):
    """What becomes of rows whose files are not at their new place."""

    REFUSE = "refuse"
    KEEP = "keep"


def remove(
    index: options.IndexDir,
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="Keys of rows.", show_default=False)
    ] = None,
    where: options.Where = None,
) -> None:
    """Remove rows, by key or by condition.

    The image files are left alone. `matvit index add` does not bring the rows back, unless --restore tells it
    to. `matvit index compact` frees their space.

    Example: matvit index remove 2019/cat.jpg -i photos.index

    Example: matvit index remove -i photos.index --where "label = 'blurred'"
    """
    from indexes import Index

    if bool(keys) == bool(where):
        raise typer.BadParameter("say which rows: by key, or by --where")
    opened, command = Index.open(index), command_line()
    count = (
        opened.remove_where(where, command=command) if where else opened.remove(keys or [], command=command)
    )
    say(f"{count} rows removed: {index}")


def compact(
    index: options.IndexDir,
    factory: Annotated[
        str | None,
        typer.Option(help="Search like this from now on: see `matvit index build`.", show_default="as it is"),
    ] = None,
) -> None:
    """Free the space of removed rows, and tune the search anew.

    Example: matvit index compact -i photos.index

    Example: matvit index compact -i photos.index --factory HNSW32
    """
    from indexes.directory.change import gather
    from indexes.faiss_kinds.options import KindOptions

    kind = KindOptions(factory=factory) if factory else None
    with progress() as bar:
        manifest = gather([index], index, command=command_line(), options=kind, progress=bar)
    say(f"{manifest.ntotal} rows: {index}")


def merge(
    indexes: Annotated[
        list[Path], typer.Argument(metavar="INDEX", help="Index directories.", show_default=False)
    ],
    output: options.Output,
    factory: options.Factory = "auto",
    rerank: options.Rerank = None,
    max_memory: options.MaxMemory = None,
    max_query_ms: options.MaxQueryMs = None,
    recall: options.Recall = 0.95,
) -> None:
    """Make one index of several that the same weights made.

    Keys stay as they are. Where an earlier index has some of them already, those of a later one get its name
    before them.

    Example: matvit index merge 2024.index 2025.index -o all.index
    """
    from indexes.directory.change import gather

    kind = options.kind_options(factory, rerank, max_memory, max_query_ms, recall)
    with progress() as bar:
        manifest = gather(indexes, output, command=command_line(), options=kind, progress=bar)
    say(f"{manifest.ntotal} rows: {output}")


def relocate(
    index: options.IndexDir,
    old: Annotated[
        str,
        typer.Argument(metavar="OLD", help="Where the images were, as the index knows.", show_default=False),
    ],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Where they are now.", show_default=False)],
    missing: Annotated[
        Missing,
        typer.Option(help="If files are not at NEW, refuse all, or keep their rows as they are."),
    ] = Missing.REFUSE,
    check_content: options.CheckContent = False,
) -> None:
    """Let an index follow images that moved to another disk or folder.

    Nothing is embedded. Files that have not kept their size and time are compared by their bytes.

    Example: matvit index relocate /mnt/old /mnt/new -i photos.index
    """
    from retrieval.upkeep.relocation import relocate_index

    with progress() as bar:
        moved, kept = relocate_index(
            index,
            old,
            new,
            command=command_line(),
            check_content=check_content,
            keep_missing=missing is Missing.KEEP,
            progress=bar,
        )
    if kept:
        say(f"{kept} files are not at {new}: their rows are as they were")
    say(f"{moved} files are at {new} now: {index}")


def export(index: options.IndexDir, output: options.Output) -> None:
    """Write vectors and rows in the layout of clip-retrieval.

    That is img_emb/*.npy and metadata/*.parquet.

    Example: matvit index export -i photos.index -o photos.export
    """
    from indexes import Index
    from indexes.directory.export import export as write

    say(f"{write(Index.open(index), output)} rows: {output}")


COMMANDS = (remove, compact, merge, relocate, export)
