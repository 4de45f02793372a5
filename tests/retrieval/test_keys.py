"""What images are called where they lie, whatever an index puts before that."""

from pathlib import Path

import pytest

from retrieval.errors import ImageSourceError
from retrieval.keys import own_key, shard_prefixes


@pytest.mark.parametrize(
    "path, key, own",
    [
        ("/s/x.tar", "x.tar:1", "x.tar:1"),
        ("/s/x.tar", "2024/x.tar:1", "x.tar:1"),
        ("/s/x.tar", "2024x.tar:1", "x.tar:1"),
        ("/s/x.tar", "a/b/x.tar:x.tar:1", "x.tar:x.tar:1"),
        ("/s/a:b.tar", "p/a:b.tar:1", "a:b.tar:1"),
        ("/s/X.TAR", "p/X.TAR:1", "X.TAR:1"),
        ("/s/x.tar", "p/x.tar", "p/x.tar"),
        ("torchvision:cifar10/train", "train/12", "train/12"),
        ("torchvision:cifar10/train", "cifar10/train/12", "train/12"),
        ("torchvision:cifar10/test", "train/test/2", "test/2"),
        ("/photos/a.png", "p/a.png", ""),
        ("/photos/a.png", "key of a list", ""),
    ],
)
def test_the_key_that_a_shard_or_a_set_knows(path: str, key: str, own: str) -> None:
    assert own_key(path, key) == own


@pytest.mark.parametrize(
    "shards, prefixes",
    [
        (["/s/a/0.tar", "/s/a/1.tar"], ["", ""]),
        (["/s/a/0.tar", "/s/b/0.tar"], ["a/", "b/"]),
        (["/s/a/0.tar", "/s/b/0.tar", "/s/b/1.tar"], ["a/", "b/", "b/"]),
        (["/s/0.tar", "/s/b/0.tar"], ["s/", "b/"]),
        (["/0.tar", "/s/0.tar"], ["", "s/"]),
        (["/x/a/0.tar", "/y/a/0.tar"], ["x/a/", "y/a/"]),
        (["/x/a/0.tar", "/y/a/0.tar", "/y/b/0.tar"], ["x/a/", "y/a/", "y/b/"]),
        (["/x/a:1/0.tar", "/x/b/0.tar"], ["a_1/", "b/"]),
        ([], []),
    ],
)
def test_shards_are_told_apart_by_as_few_folders_as_will_do(shards: list[str], prefixes: list[str]) -> None:
    assert shard_prefixes([Path(shard) for shard in shards]) == prefixes


@pytest.mark.parametrize(
    "shards, message",
    [
        (["/s/a/0.tar", "/s/a/0.tar"], "comes twice"),
        (["/s/a:1/0.tar", "/s/a_1/0.tar"], "cannot be told apart"),
    ],
)
def test_shards_that_cannot_be_told_apart(shards: list[str], message: str) -> None:
    with pytest.raises(ImageSourceError, match=message):
        shard_prefixes([Path(shard) for shard in shards])
