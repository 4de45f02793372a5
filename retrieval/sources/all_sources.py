"""All kinds of image sources, and which of them a text or a row of an index is for.

A further kind is a file like those of these, and a line in `SOURCES`.
"""

from collections.abc import Sequence

from retrieval.errors import ImageSourceError, NotLocalError
from retrieval.sources.embedded_source import EmbeddedSource
from retrieval.sources.file_source import FileSource
from retrieval.sources.folder_source import FolderSource
from retrieval.sources.list_source import ListSource
from retrieval.sources.shard_source import ShardSource
from retrieval.sources.source import Source
from retrieval.sources.torchvision_source import TorchvisionSource

SOURCES: tuple[Source, ...] = (
    FolderSource(),
    ShardSource(),
    EmbeddedSource(),
    ListSource(),
    TorchvisionSource(),
    FileSource(),
)
"""The first that claims a text or a path has it; image files come last, for every other path is theirs."""


def kind_of(text: str) -> Source | None:
    """The kind of the source that a user names, None where none recognises it.

    Raises:
        OSError: What lies there cannot be looked at.
    """
    return next((kind for kind in SOURCES if kind.recognises(text)), None)


def kind_holding(path: str) -> Source:
    """The kind that finds the images of rows with a path again."""
    for kind in SOURCES:  # no generator: this is asked of every row
        if kind.holds(path):
            return kind
    raise AssertionError("image files take every path")


def own_key(path: str, key: str) -> str:
    """The key by which the path of a row knows its image: see `retrieval.sources.source.Source.own_key`."""
    return kind_holding(path).own_key(path, key)


def container_endings() -> tuple[str, ...]:
    """Endings of all files that hold many images: see `retrieval.sources.source.Source.endings`."""
    return tuple(ending for kind in SOURCES for ending in kind.endings)


def container_of(key: str) -> str:
    """What the key of an image that is in a file with others begins with, up to the colon; else the key."""
    endings, end = container_endings(), key.find(":")
    while end >= 0:
        if key[:end].lower().endswith(endings):
            return key[:end]
        end = key.find(":", end + 1)
    return key


def images_help() -> str:
    """What images may be named by, for `--help`."""
    text = _listed([kind.help for kind in SOURCES], "or")
    return f"{text[:1].upper()}{text[1:]}."


def understood() -> str:
    """The same in few words, for a message about what is none of it."""
    return f"understood are {_listed([kind.summary for kind in SOURCES], 'and')}"


def with_remedy(error: NotLocalError) -> ImageSourceError:
    """The error, with what to name instead."""
    return ImageSourceError(f"{error}; {understood()} (a local path that looks like this: put ./ before it)")


def _listed(phrases: Sequence[str], last: str) -> str:
    return f"{', '.join(phrases[:-1])}, {last} {phrases[-1]}"
