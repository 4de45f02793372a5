"""Parquet files that hold images themselves, as Hugging Face's do, as a source."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.sources.container_source import ContainerSource
from retrieval.sources.local_paths import absolute_path, mode_at, real_folder
from retrieval.sources.sample import Sample
from retrieval.sources.source import ImageSource

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.sample import Known


class EmbeddedSource(ContainerSource):
    """One parquet file with a column of images: see `retrieval.sources.embedded`."""

    help = "a parquet file that holds images as Hugging Face's do"
    summary = "a parquet file that holds images"
    endings = (".parquet",)

    def recognises(self, text: str) -> bool:
        """Whether it is there and has a column of images; one of paths alone is a list."""
        if not self.holds(text) or not mode_at(text):
            return False
        from retrieval.sources.list_parquet import holds_images

        return holds_images(Path(text))

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """Parts of whole row groups."""
        from retrieval.sources.embedded import embedded_parts

        path = absolute_path(text)
        parts = embedded_parts(real_folder(path.parent) / path.name, known)
        return ImageSource(text, self.location(text), path.with_suffix(""), parts)

    def images(self, path: str) -> Iterator[tuple[str, bytes]]:
        """Those that one file holds; the files that it names where it has no bytes are rows of their own."""
        from retrieval.sources.embedded import embedded_parts

        for part in embedded_parts(Path(path)):
            for item in part.read():
                if isinstance(item, Sample) and item.path == path:
                    yield item.key, item.data
