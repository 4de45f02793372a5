"""Shards of one name in two folders are told apart by what their keys begin with."""

from pathlib import Path

import pytest

from retrieval.errors import ImageSourceError
from retrieval.sources.shard_prefixes import shard_prefixes


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
