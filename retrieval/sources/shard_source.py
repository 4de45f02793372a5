"""WebDataset shards as a source: tar files that braces and wildcards name."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval.sources.container_source import ContainerSource
from retrieval.sources.local_paths import absolute_path, scheme_of
from retrieval.sources.sample import encoded_images
from retrieval.sources.source import ImageSource

if TYPE_CHECKING:
    from retrieval.sources.excludes import Excludes
    from retrieval.sources.labelled_images import LabelledImages
    from retrieval.sources.sample import Known


class ShardSource(ContainerSource):
    """Shards by name, of which every one must be there."""

    help = "WebDataset shards (x.tar, 'x-{000..009}.tar', 'x-*.tar')"
    summary = "local shards such as x.tar, x-{000..009}.tar or x-*.tar"
    endings = (".tar",)

    def recognises(self, text: str) -> bool:
        """Whether it ends like a shard, be one there or not."""
        return self.holds(text) and scheme_of(text) is None

    def open(self, text: str, known: "Known", excludes: "Excludes") -> ImageSource:
        """A part a shard; where some have one file name, keys begin with their folders."""
        from retrieval.sources.shards import expand, shard_parts

        path = absolute_path(text)
        parts = shard_parts(expand(text), known)
        apart = next((part.name for part in parts if "/" in part.name), None)
        note = apart and f"some shards have one file name: keys begin with their folders, as {apart}:"
        first = parts[0].names()[0][1] if parts else path
        return ImageSource(text, self.location(text), Path(first).parent, parts, note=note)

    def images(self, path: str) -> Iterator[tuple[str, bytes]]:
        """Those of one shard."""
        from retrieval.sources.shards import shard_parts

        return encoded_images(shard_parts([Path(path)]))

    def labelled(
        self, text: str, mode: str, class_to_idx: Mapping[str, int] | None
    ) -> "LabelledImages | None":
        """Images with .cls members."""
        from retrieval.sources.labelled_shards import labelled_shards
        from retrieval.sources.shards import expand

        return labelled_shards(expand(text), text, mode, class_to_idx)
