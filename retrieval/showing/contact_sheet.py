"""Contact sheets: queries and their neighbours, as a picture or as a web page of one file."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retrieval.hits import Hit, Hits
from retrieval.showing.pictures import save_figure
from retrieval.showing.tiles import Tile, tiles_of
from retrieval.showing.web_page import write_page
from retrieval.sources.sample import printable

_RIGHT, _WRONG = ("#009E73", "solid"), ("#D55E00", "dashed")
_NAME_WIDTH = 26
"""Characters that a tile is wide."""


def contact_sheet(
    path: Path, rows: Sequence[tuple[str, str | Path | Hit, Hits]], *, columns: int = 8
) -> None:
    """Draw queries and their neighbours, one row a query: the query first, then its hits, best first.

    Hits that have the query's label are framed in green, others in dashed red, where both labels are known.

    Args:
        path: A .png, .pdf, .svg or .html file.
        rows: Caption, query (an image file, or an image of the corpus) and results of each row.
        columns: Neighbours to show; a page shows all.
    """
    if path.suffix.lower() == ".html":
        write_page(path, (tiles_of(*row) for row in rows))
        return
    columns = min(columns, max(len(hits) for _, _, hits in rows))
    figure = Figure(figsize=(1.6 * (columns + 1) + 0.3, 2.05 * len(rows) + 0.2), layout="constrained")
    grid = figure.subplots(len(rows), columns + 1, squeeze=False)
    for cells, (caption, query, hits) in zip(grid, rows, strict=True):
        for cell in cells:
            cell.set(xticks=[], yticks=[])
            cell.spines[:].set_visible(False)
        for cell, tile in zip(cells, tiles_of(caption, query, hits[:columns]), strict=False):
            _draw(cell, tile)
    save_figure(figure, path, dpi=120)


def _draw(axes: Axes, tile: Tile) -> None:
    # Labels and names may hold dollar signs.
    axes.set_title(printable(tile.caption), fontsize=8, parse_math=False)
    name = textwrap.fill(printable(tile.name), _NAME_WIDTH, max_lines=2, placeholder="…")
    axes.set_xlabel(name, fontsize=6, color="0.35", parse_math=False)
    if tile.picture is None:
        return
    axes.imshow(tile.picture, interpolation="nearest" if tile.enlargement > 1 else "antialiased")
    if tile.is_right is not None:
        colour, style = _RIGHT if tile.is_right else _WRONG
        axes.spines[:].set(visible=True, color=colour, linestyle=style, linewidth=2.5)
