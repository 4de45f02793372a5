"""Contact sheets as a web page of one file: every picture is in the page itself."""

import io
from base64 import b64encode
from collections.abc import Iterable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader
from PIL import Image

from matvit.files.atomic import write_text
from retrieval.showing.thumbnail import SIDE
from retrieval.showing.tiles import Tile


def write_page(path: Path, rows: Iterable[list[Tile]]) -> None:
    """Write rows of tiles as a page that any browser shows without a network; tiles link to their files."""
    templates = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True)
    template = templates.get_template("web_page.html.jinja")
    write_text(path, template.render(rows=rows, side=SIDE, data_uri=_data_uri))


def _data_uri(picture: Image.Image, exact: bool) -> str:
    kind = "png" if exact else "jpeg"
    file = io.BytesIO()
    picture.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{b64encode(file.getvalue()).decode()}"
