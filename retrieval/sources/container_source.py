"""What shards and parquet files with images have in common: many images a file, each with a key in it."""

from retrieval.sources.source import Source


class ContainerSource(Source):
    """Files that hold many images, each called after its file, a colon, and its own name in there."""

    def holds(self, path: str) -> bool:
        """Whether a file is named like one of these, in any case."""
        return path.lower().endswith(self.endings)

    def own_key(self, path: str, key: str) -> str:
        """The key without what an index put before the name of the file; no such prefix holds a colon."""
        return key[max(0, key.find(f"{_name(path)}:")) :]

    def image_location(self, path: str, key: str) -> str:
        """The file, a colon, and the image's name in it."""
        return f"{path}:{self.own_key(path, key).removeprefix(f'{_name(path)}:')}"


def _name(path: str) -> str:
    return path.rpartition("/")[2]  # asked of every row: making a Path takes longer than all else
