"""An index that is added to night after night, by an encoder that counts what it has to do."""

import copy
import io
from pathlib import Path
from typing import Any

from entries import column_of, keys_of, paths_of, vectors_of
from small_world import picture, write_shard
from watched import logged

from indexes import Index, verify
from retrieval import Encoder, build_index, open_source
from retrieval.sources.sample import none_known
from retrieval.upkeep.known_files import Known


def png(number: int) -> bytes:
    """Another image for every number."""
    buffer = io.BytesIO()
    picture("red", number).save(buffer, "PNG")
    return buffer.getvalue()


def folder(place: Path, *names: str, first: int = 0) -> Path:
    """A folder of images, numbered on from the first."""
    for number, name in enumerate(names, first):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).write_bytes(png(number))
    return place


def shards(place: Path, *names: str, first: int = 0) -> Path:
    """A folder of shards of two images each."""
    for number, name in enumerate(names, first):
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        write_shard(place / name, {f"{n}.png": png(10 * number + n) for n in range(2)})
    return place


class Nightly:
    """The index at `out`, which the first `add` builds.

    Attributes:
        embedded: Images of every batch that the encoder got.
    """

    def __init__(self, encoder: Encoder, out: Path) -> None:
        self.out, self.embedded = out, list[int]()
        self._encoder = copy.copy(encoder)

        def embed(images: Any, *arguments: Any) -> Any:
            self.embedded.append(len(images))
            return encoder.embed(images, *arguments)

        self._encoder.embed = embed  # type: ignore[method-assign]

    def add(self, images: str | Path, key_prefix: str | None = None, *, prune: bool = False) -> list[str]:
        """Build the index, or add to it; returns what was told."""
        extends = self.out.exists()
        known = Known(Index.open(self.out)) if extends else None
        source = open_source(images, known=known.unchanged if known else none_known, labels=True)
        with logged("retrieval") as told:
            if source.parts:
                build_index(source, self._encoder, self.out, extends=extends, key_prefix=key_prefix)
        if prune and known:
            self.index.remove_files(known.gone(source), command="")
        assert verify(self.out) == []
        return told

    @property
    def index(self) -> Index:
        return Index.open(self.out)

    @property
    def keys(self) -> list[str]:
        """Of the rows that can be found."""
        return keys_of(self.index)

    @property
    def paths(self) -> dict[str, str]:
        """Key -> path."""
        return dict(zip(keys_of(self.index), paths_of(self.index), strict=True))

    @property
    def vectors(self) -> dict[str, bytes]:
        """Hash of an image -> vector."""
        contents = column_of(self.index, "content")
        return {str(c): v.tobytes() for c, v in zip(contents, vectors_of(self.index), strict=True)}
