"""Queries and their neighbours as a web page of one file, which any browser shows without a network."""

import io
from base64 import b64encode
from collections.abc import Sequence
from html import escape
from pathlib import Path

from retrieval.originals import thumbnail
from retrieval.searcher import Hit, Hits

_STYLE = """
body { font: 13px/1.4 system-ui, sans-serif; margin: 1.5em; color: #222; }
section { display: flex; flex-wrap: wrap; gap: 12px; padding: 12px 0; border-bottom: 1px solid #ddd; }
figure { margin: 0; width: 160px; overflow-wrap: anywhere; }
figure:first-child { outline: 3px solid #0072B2; outline-offset: 3px; }
img { max-width: 160px; display: block; image-rendering: pixelated; }
"""


def contact_page(path: Path, rows: Sequence[tuple[str, str | Path | Hit, Hits]]) -> None:
    """Write a page: arguments as those of `retrieval.figures.contact_sheet`."""
    sections = (
        f"<section>{_figure(query, caption)}"
        + "".join(_figure(hit, f"{hit.score:.3f} {hit.label or ''}", hit.key) for hit in hits)
        + "</section>"
        for caption, query, hits in rows
    )
    head = f'<!doctype html><meta charset="utf-8"><title>matvit query</title><style>{_STYLE}</style>'
    path.write_text("\n".join([head, *sections, ""]), encoding="utf-8", errors="backslashreplace")


def _figure(image: str | Path | Hit, caption: str, title: str = "") -> str:
    small = thumbnail(image)
    if small is None:
        picture = "(no longer there)"
    else:
        file = io.BytesIO()
        small.save(file, "PNG")
        picture = f'<img src="data:image/png;base64,{b64encode(file.getvalue()).decode()}" alt="">'
    return f'<figure title="{escape(title)}">{picture}<figcaption>{escape(caption)}</figcaption></figure>'
