"""Contact sheets: queries and their neighbours, as a picture or as a web page of one file."""

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from matvit.files.atomic import write_text
from retrieval.hits import Hit, Hits
from retrieval.showing.pictures import save_figure
from retrieval.showing.thumbnail import thumbnail

_STYLE = """
body { font: 13px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; }
section { display: flex; flex-wrap: wrap; gap: 12px; padding: 12px 0; border-bottom: 1px solid #ddd; }
figure { margin: 0; width: 160px; overflow-wrap: anywhere; }
figure:first-child { outline: 3px solid #0072B2; outline-offset: 3px; }
img { max-width: 160px; display: block; image-rendering: pixelated; }
"""


def contact_sheet(
    path: Path, rows: Sequence[tuple[str, str | Path | Hit, Hits]], *, columns: int = 8
) -> None:
    """Draw queries and their neighbours, one row a query: the query first, then its hits, best first.

    Args:
        path: A .png, .pdf, .svg or .html file.
        rows: Caption, query (an image file, or an image of the corpus) and results of each row.
        columns: Neighbours to show.
    """
    if path.suffix.lower() == ".html":
        _write_page(path, rows)
        return
    columns = min(columns, max(len(hits) for _, _, hits in rows))
    figure = Figure(figsize=(1.25 * (columns + 1) + 0.3, 1.55 * len(rows) + 0.2), layout="constrained")
    grid = figure.subplots(len(rows), columns + 1, squeeze=False)
    for cells, (caption, query, hits) in zip(grid, rows, strict=True):
        _tile(cells[0], thumbnail(query), caption, "black")
        for cell, hit in zip(cells[1:], hits, strict=False):
            _tile(cell, thumbnail(hit), f"{hit.score:.3f}\n{hit.label or Path(hit.key).name}", "0.25")
        for cell in cells:
            cell.set_axis_off()
    save_figure(figure, path, dpi=110)


def _tile(axes: Axes, image: Image.Image | None, caption: str, colour: str) -> None:
    if image is not None:
        axes.imshow(image)
    axes.set_title(caption, fontsize=7, color=colour, parse_math=False)  # a label may hold dollar signs


def _write_page(path: Path, rows: Sequence[tuple[str, str | Path | Hit, Hits]]) -> None:
    """Every picture is in the page itself, so that any browser shows it without a network."""
    sections = (
        f"<section>{_figure(query, caption)}"
        + "".join(_figure(hit, f"{hit.score:.3f} {hit.label or ''}", hit.key) for hit in hits)
        + "</section>"
        for caption, query, hits in rows
    )
    head = f'<!doctype html><meta charset="utf-8"><title>matvit query</title><style>{_STYLE}</style>'
    write_text(path, "\n".join([head, *sections, ""]))


def _figure(image: str | Path | Hit, caption: str, title: str = "") -> str:
    small = thumbnail(image)
    if small is None:
        picture = "(no longer there)"
    else:
        file = io.BytesIO()
        small.save(file, "PNG")
        picture = f'<img src="data:image/png;base64,{b64encode(file.getvalue()).decode()}" alt="">'
    return f'<figure title="{escape(title)}">{picture}<figcaption>{escape(caption)}</figcaption></figure>'
