"""What every source of images yields: samples and failures, in parts."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROW_COLUMNS = ("key", "path", "label", "content", "state", "duplicate_of")
"""What an index keeps of every image: nothing that a source carries along may have one of these names."""


@dataclass(frozen=True)
class Sample:
    """The undecoded bytes of one image, with what its source says about it.

    Attributes:
        key: Name of the image in its source, unique there.
        path: Absolute path of the image file, or of the shard or parquet file that holds it.
        label: Class name, where the source has one.
        state: Changes when the file at `path` does.
        extra: Further columns the source carries, such as `caption`.
        data: The encoded image.
        is_file: Whether `path` is the image's own file.
    """

    key: str
    path: str
    label: str | None
    extra: Mapping[str, str | None]
    data: bytes
    state: str = field(default="", compare=False)
    is_file: bool = field(default=False, compare=False)


@dataclass(frozen=True)
class Failure:
    """An image, or the rest of a shard, that could not be read, and why."""

    key: str
    reason: str


def _unknown() -> Sequence[tuple[str, str]]:
    return ()


Labelled = tuple[str, str | None]
"""Key and label of an image."""


@dataclass(frozen=True)
class Part:
    """The unit of resumable work.

    Attributes:
        name: Name of the part, unique in its source.
        fingerprint: Changes when the files behind the part do.
        size: Samples and failures that `read` yields; None where only reading tells.
        read: Yields them, in the same order on every call.
        names: What is known of their keys before they are read: key and path of each image, or of a shard
            or parquet file what its keys begin with, up to the colon, and its path.
        labels: Key and label of each image that may be there; None where only reading tells.
    """

    name: str
    fingerprint: str
    size: int | None
    read: Callable[[], Iterator[Sample | Failure]]
    names: Callable[[], Sequence[tuple[str, str]]] = _unknown
    labels: Callable[[], Sequence[Labelled]] | None = None


def prefixed(prefix: str, read: Callable[[], Iterator[Sample | Failure]]) -> Iterator[Sample | Failure]:
    """What a part yields, with `prefix` before every key."""
    for item in read():
        yield replace(item, key=prefix + item.key)


def unlabelled(part: Part) -> Part:
    """A part whose samples have no labels."""
    return replace(
        part,
        fingerprint=f"{part.fingerprint} unlabelled",
        read=partial(_unlabelled, part.read),
        labels=None if part.labels is None else partial(_no_labels, part.labels),
    )


def _no_labels(labels: Callable[[], Sequence[Labelled]]) -> list[Labelled]:
    return [(key, None) for key, _ in labels()]


def _unlabelled(read: Callable[[], Iterator[Sample | Failure]]) -> Iterator[Sample | Failure]:
    for item in read():
        yield replace(item, label=None) if isinstance(item, Sample) else item


def encoded_images(parts: Sequence[Part]) -> Iterator[tuple[str, bytes]]:
    """Key and encoded bytes of all that can be read in some parts."""
    for part in parts:
        yield from ((item.key, item.data) for item in part.read() if isinstance(item, Sample))


def content_of(data: bytes) -> str:
    """Hash of an encoded image, in hexadecimal: the same bytes have the same one."""
    return blake2b(data, digest_size=16).hexdigest()


Known = Callable[[Sequence[str]], "NDArray[np.bool_]"]
"""Which of some files are known already."""


def none_known(paths: Sequence[str]) -> "NDArray[np.bool_]":
    """As if nothing had been seen before."""
    import numpy as np

    return np.zeros(len(paths), dtype=bool)


def is_utf8(name: str) -> bool:
    """Whether `name` can be stored: file names that are not UTF-8 reach Python with surrogates in them."""
    return printable(name) == name


def printable(name: str) -> str:
    """`name` with whatever is not UTF-8 spelled out as backslash escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")
