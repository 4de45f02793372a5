"""What keys of images in shards begin with, so that shards of one name in two folders are told apart."""

from collections.abc import Sequence
from pathlib import Path

from indexes.disk.key_prefixes import plain
from retrieval.errors import ImageSourceError


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
