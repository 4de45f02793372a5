"""WebDataset shards: tar files in which the members of a sample share a stem and lie together.

webdataset expands their names; the shards are found and opened here, because its own opener runs `pipe:`
URLs as shell commands. Nothing is ever extracted to disk.

Of an image's texts, `.cls` is its label, `.txt` its column `caption`, and every field of a `.json` object a
column of its own: text as it stands, anything else as JSON prints it, null left out. A field whose name is
taken, or starts with `json.`, becomes `json.NAME`. JSON that is no object is the column `json`.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from glob import escape, glob
from pathlib import Path

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.sources.file_bytes import open_regular, state_of
from retrieval.sources.local_paths import check_local, real_folder
from retrieval.sources.sample import (
    ROW_COLUMNS,
    Failure,
    Known,
    Part,
    Sample,
    is_utf8,
    none_known,
    prefixed,
    printable,
)
from retrieval.sources.shard_prefixes import shard_prefixes
from retrieval.sources.shard_samples import TEXTS, ShardImage, shard_images
from retrieval.sources.tars import Member, Span, walk

_TAKEN = (*ROW_COLUMNS, "caption", "json", "")
_MAX_FIELDS = 64  # of a sample
_MAX_COLUMNS = 256  # of a shard: names that differ from sample to sample would fill the memory with nulls


def expand(text: str) -> list[Path]:
    """Shards that braces and wildcards stand for: braces in their own order, wildcards sorted.

    Raises:
        ImageSourceError: If the text cannot be expanded, is not local, or a wildcard matches nothing.
    """
    from webdataset.shardlists import expand_urls

    try:
        names = [text] if Path(text).exists() else expand_urls(text)
    except (ValueError, AssertionError) as error:
        raise ImageSourceError(f"{text}: cannot be expanded ({error}); write x-{{000..009}}.tar") from error
    paths: list[Path] = []
    for name in names:
        check_local(name)
        if name == escape(name) or Path(name).exists():
            paths.append(Path(name))
        elif found := sorted(glob(name)):  # noqa: PTH207 (Path.glob takes no absolute pattern)
            paths += [Path(path) for path in found]
        else:
            raise ImageSourceError(f"{name}: no shard matches; check the folder and the pattern")
    return paths


def shard_parts(shards: Sequence[Path], known: Known = none_known) -> tuple[Part, ...]:
    """One part a shard, whose keys begin with as many of its folders as tell all shards apart.

    Args:
        shards: Paths.
        known: Of shards without symlinks to folders, to which of them to leave out.

    Raises:
        ImageSourceError: A shard cannot be opened, or comes twice.
    """
    paths = [real_folder(shard.parent) / shard.name for shard in shards]
    # Of all, lest the names of some depend on what is new.
    prefixes = shard_prefixes(paths)
    known_N = known([str(path) for path in paths])
    return tuple(
        Part(
            prefix + shard.name,
            _fingerprint(shard),
            None,
            partial(prefixed, prefix, partial(_read, shard)),
            partial(_names, shard, prefix),
        )
        for shard, prefix, is_known in zip(paths, prefixes, known_N, strict=True)
        if not is_known
    )


def locate(shard: Path) -> Iterator[tuple[str, str | None, Span]]:
    """Key, label and span of every image in a shard; of the images themselves nothing is read.

    Raises:
        UnreadableImageError: Something in the shard cannot be read, or is not where it belongs.
    """
    for image in _images(shard):
        if isinstance(image, Failure):
            raise UnreadableImageError(f"{image.key}: {image.reason}")
        try:
            image.member.check()
            label = _text(image.texts, "cls").strip() or None
        except UnreadableImageError as error:
            raise UnreadableImageError(f"{image.key}: {error}") from error
        yield image.key, label, image.member.span


def _fingerprint(shard: Path) -> str:
    if not is_utf8(str(shard)):
        raise ImageSourceError(f"{printable(str(shard))}: the path is not UTF-8; rename it")
    try:
        with open_regular(shard) as file:
            status = os.fstat(file.fileno())
    except UnreadableImageError as error:
        raise ImageSourceError(f"{shard}: {error}; every shard must be there and readable") from error
    return hashlib.sha256(f"{shard}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()


def _names(shard: Path, prefix: str) -> list[tuple[str, str]]:
    return [(prefix + shard.name, str(shard))]


def _images(shard: Path) -> Iterator[ShardImage | Failure]:
    try:
        file = open_regular(shard)
    except UnreadableImageError as error:
        yield Failure(shard.name, str(error))
        return
    with file:
        yield from shard_images(shard.name, walk(file))


def _read(shard: Path) -> Iterator[Sample | Failure]:
    state = state_of(shard)  # before the bytes: what changes in between is read again next time
    columns: set[str] = set()
    texts: Mapping[str, Member] | None = None
    said: _Said | UnreadableImageError = _Said()
    for image in _images(shard):
        if isinstance(image, Failure):
            yield image
            continue
        if image.texts != texts:  # images of one sample may share them, however large they are
            texts, said = image.texts, _said(image.texts)
        try:
            image.member.check()
            if isinstance(said, UnreadableImageError):
                raise UnreadableImageError(str(said))
            more = columns | said.extra.keys()
            if len(more) > _MAX_COLUMNS:
                raise UnreadableImageError(f"json fields of this shard are over {_MAX_COLUMNS} columns")
            data = image.member.read()
        except UnreadableImageError as error:
            yield Failure(image.key, str(error))
        else:
            columns = more
            yield Sample(image.key, str(shard), said.label, said.extra, data, state)


@dataclass(frozen=True)
class _Said:
    """What the texts of an image say: its label, and further columns."""

    label: str | None = None
    extra: Mapping[str, str] = field(default_factory=dict)


def _said(members: Mapping[str, Member]) -> _Said | UnreadableImageError:
    try:
        texts = {suffix: _text(members, suffix) for suffix in TEXTS if suffix in members}
        extra = {"caption": texts["txt"]} if "txt" in texts else {}
        extra |= _fields(texts["json"]) if "json" in texts else {}
    except UnreadableImageError as error:
        return error
    return _Said(texts.get("cls", "").strip() or None, extra)


def _text(members: Mapping[str, Member], suffix: str) -> str:
    """A text that goes with an image, empty where there is none.

    Raises:
        UnreadableImageError: It cannot be read.
    """
    if suffix not in members:
        return ""
    try:
        return members[suffix].read(may_be_empty=True).decode("utf-8")
    except UnicodeDecodeError as error:
        raise UnreadableImageError(f"{suffix} member is not UTF-8") from error


def _fields(text: str) -> dict[str, str]:
    """The columns of a json member.

    Raises:
        UnreadableImageError: It is not valid JSON, has too many fields, or text that cannot be stored.
    """
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            return {"json": text}
        if len(value) > _MAX_FIELDS:
            raise UnreadableImageError(
                f"json member has {len(value)} fields, over the limit of {_MAX_FIELDS}"
            )
        fields = {
            f"json.{name}" if name in _TAKEN or name.startswith("json.") else name: (
                content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
            )
            for name, content in value.items()
            if content is not None
        }
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise UnreadableImageError("json member is not valid JSON") from error
    for name, content in fields.items():
        if not is_utf8(name) or not is_utf8(content):
            raise UnreadableImageError(f"json field {printable(name)!r} is not UTF-8")
    return fields
