"""What there is to show of a query and of each of its hits, whatever it is drawn on."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from retrieval.hits import Hit
from retrieval.showing.thumbnail import SIDE, thumbnail


@dataclass(frozen=True)
class Tile:
    """One image of a contact sheet.

    Attributes:
        picture: What it looks like; None where it is no longer there.
        caption: What a person is to know of it.
        name: Of the file, or the key of an image that lies in a file with others.
        title: What tells it from others of the same name.
        link: URI of the file; None for an image that lies in a file with others.
        is_right: Whether its label is the query's; None where either has none.
    """

    picture: Image.Image | None
    caption: str
    name: str
    title: str
    link: str | None
    is_right: bool | None = None

    @property
    def enlargement(self) -> int:
        """How many times the picture is shown enlarged: what is far smaller than a tile would not be seen."""
        return max(1, SIDE // max(self.picture.size)) if self.picture else 1


def tiles_of(caption: str, query: str | Path | Hit, hits: Iterable[Hit]) -> list[Tile]:
    """The query's tile, then those of its hits, best first."""
    label = query.label if isinstance(query, Hit) else None  # of a mere file, nobody has told
    return [_query_tile(caption, query), *(_hit_tile(hit, label) for hit in hits)]


def _query_tile(caption: str, query: str | Path | Hit) -> Tile:
    if isinstance(query, Hit):
        return Tile(thumbnail(query), caption, _name(query), query.key, _link(query.file))
    file = Path(query)
    return Tile(thumbnail(file), caption, file.name, str(query), _link(file))


def _hit_tile(hit: Hit, label: str | None) -> Tile:
    is_right = None if label is None or hit.label is None else hit.label == label
    mark = {None: "", True: "✓ ", False: "✗ "}[is_right]  # for those who cannot tell red from green
    caption = f"{hit.score:.3f} {mark}{hit.label or ''}".rstrip()
    return Tile(thumbnail(hit), caption, _name(hit), hit.key, _link(hit.file), is_right)


def _name(hit: Hit) -> str:
    return hit.file.name if hit.file else hit.key


def _link(file: Path | None) -> str | None:
    return file.absolute().as_uri() if file else None
