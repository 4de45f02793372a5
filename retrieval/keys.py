"""What an image is called where it lies, apart from what an index or a source puts before that."""

import re
from collections.abc import Sequence
from pathlib import Path

from indexes.prefixes import plain
from retrieval.errors import ImageSourceError
from retrieval.torchvision_sets import TORCHVISION

CONTAINERS = r"\.(?:tar|parquet)"
"""How files end that hold many images, whose keys begin with the file's name and a colon; in any case."""


def is_container(path: str) -> bool:
    """Whether the images of this path are members of a shard, or rows of a parquet file."""
    return re.search(f"{CONTAINERS}$", path, re.IGNORECASE) is not None


def own_key(path: str, key: str) -> str:
    """The key by which a container or a set knows an image; empty of an image file, which knows none.

    Args:
        path: Of a row.
        key: Of that row. No prefix holds a colon, so that the first one ends the name of a container.
    """
    if is_container(path):
        return key[max(0, key.find(f"{Path(path).name}:")) :]
    if path.startswith(TORCHVISION):
        return key[max(0, key.rfind(f"{path.rpartition('/')[2]}/")) :]
    return ""


def shard_prefixes(shards: Sequence[Path]) -> list[str]:
    """What to put before the keys of each shard: nothing, or as many of its folders as tell all apart.

    Args:
        shards: Absolute paths.

    Raises:
        ImageSourceError: One of them comes twice.
    """
    if len(set(shards)) < len(shards):
        twice = next(shard for shard in shards if shards.count(shard) > 1)
        raise ImageSourceError(f"{twice} comes twice: name every shard once")
    for depth in range(max((len(shard.parts) for shard in shards), default=1)):
        prefixes = [_folders(shard, depth) for shard in shards]
        names = {prefix + shard.name for prefix, shard in zip(prefixes, shards, strict=True)}
        if len(names) == len(shards):
            return prefixes
    raise ImageSourceError(f"{shards[0]}: some shards cannot be told apart by their folders; rename them")


def _folders(shard: Path, depth: int) -> str:
    names = shard.parts[1:-1]
    return "".join(f"{plain(name)}/" for name in names[len(names) - depth :]) if depth else ""
