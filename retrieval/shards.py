"""WebDataset shards: tar files in which the members of a sample share a stem and lie together.

webdataset groups the members; the shards are found and opened here, because its own opener runs `pipe:`
URLs as shell commands. Nothing is ever extracted to disk.

Of a sample's texts, `.cls` is its label, `.txt` its column `caption`, and every field of a `.json` object a
column of its own: text as it stands, anything else as JSON prints it, null left out. A field whose name is
taken, or starts with `json.`, becomes `json.NAME`. JSON that is no object is the column `json`.
"""

import hashlib
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from glob import escape, glob
from pathlib import Path
from typing import Any, NoReturn, cast

from retrieval.errors import ImageSourceError, UnreadableImageError
from retrieval.files import check_size, open_regular, state_of
from retrieval.samples import ROW_COLUMNS, Failure, Part, Sample, is_utf8, prefixed, printable

_IMAGES = ("jpg", "jpeg", "png", "webp")
_TEXTS = ("cls", "txt", "json")
_TAKEN = (*ROW_COLUMNS, "caption", "json", "")
_MAX_FIELDS = 64  # of a sample
_MAX_COLUMNS = 256  # of a shard: names that differ from sample to sample would fill the memory with nulls
UNDERSTOOD = (
    "understood are a folder of images or of .tar shards, an image file, "
    "local shards such as x.tar, x-{000..009}.tar or x-*.tar, "
    "a list of image files as .parquet, .txt or .lst, and torchvision:NAME or torchvision:NAME/test"
)
_SCHEME = re.compile(r"(?:^|::)\s*([a-z][a-z0-9+.-]+:)(?!:)", re.IGNORECASE)  # `::` separates names


def check_local(name: str) -> None:
    """Refuse anything with a scheme, such as `pipe:` or `https:`.

    Raises:
        ImageSourceError: If `name` has one.
    """
    if scheme := _SCHEME.search(name):
        raise ImageSourceError(
            f"{printable(name)}: {scheme[1]} is not read; {UNDERSTOOD} "
            "(a local path that looks like this: put ./ before it)"
        )


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


def shard_parts(shards: Mapping[Path, str]) -> tuple[Part, ...]:
    """One part a shard.

    Args:
        shards: Absolute paths, without symlinks to folders -> what to put before their keys, which makes
            their names different.

    Raises:
        ImageSourceError: If a shard cannot be opened.
    """
    return tuple(
        Part(
            prefix + shard.name,
            _fingerprint(shard),
            None,
            partial(prefixed, prefix, partial(_read, shard)),
            partial(_names, shard, prefix),
        )
        for shard, prefix in shards.items()
    )


@dataclass(frozen=True)
class Span:
    """Where an image lies in its shard.

    Attributes:
        offset: Its first byte.
        size: How many there are.
    """

    offset: int
    size: int


def locate(shard: Path) -> Iterator[tuple[str, str | None, Span]]:
    """Key, label and place of every image in a shard; of the images themselves nothing is read.

    Raises:
        UnreadableImageError: The tar breaks off, or a sample in it has no image.
        ImageSourceError: A key or a member comes twice.
    """
    for sample in _read(shard, image=_span, texts=("cls",)):
        if isinstance(sample, Failure):
            raise UnreadableImageError(f"{sample.key}: {sample.reason}")
        yield sample.key, sample.label, cast(Span, sample.data)


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


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    content = tar.extractfile(member)
    assert content is not None  # it is a regular file
    return content.read()


def _span(_: tarfile.TarFile, member: tarfile.TarInfo) -> Span:
    return Span(member.offset_data, member.size)


def _read(
    shard: Path,
    image: Callable[[tarfile.TarFile, tarfile.TarInfo], Any] = _content,
    texts: Sequence[str] = _TEXTS,
) -> Iterator[Sample | Failure]:
    """The samples of a shard, with what `image` makes of their images as `data`, and no other texts."""
    from webdataset.tariterators import group_by_keys

    state = state_of(shard)  # before the bytes: what changes in between is read again next time
    seen: set[str] = set()
    columns: set[str] = set()
    try:
        for members in group_by_keys(_members(shard, image, texts), handler=partial(_refuse_twice, shard)):
            stem = members["__key__"]
            if stem in seen:
                raise ImageSourceError(
                    f'{shard}: the key "{printable(stem)}" comes twice; rewrite the shard so that '
                    "every sample has its own key and its members lie together"
                )
            seen.add(stem)
            sample = _sample(shard, state, stem, members)
            if isinstance(sample, Sample):
                more = columns | sample.extra.keys()
                if len(more) > _MAX_COLUMNS:
                    sample = Failure(sample.key, f"json fields of this shard are over {_MAX_COLUMNS} columns")
                else:
                    columns = more
            yield sample
    except UnreadableImageError as error:
        yield Failure(shard.name, str(error))


def _refuse_twice(shard: Path, error: Exception) -> NoReturn:
    member = str(error.args[0]).partition(": duplicate")[0]
    raise ImageSourceError(
        f'{shard}: the member "{printable(member)}" comes twice; rewrite the shard'
    ) from error


def _members(
    shard: Path, image: Callable[[tarfile.TarFile, tarfile.TarInfo], Any], texts: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Members as `group_by_keys` wants them; the data of an unusable one is the error that says why.

    Raises:
        UnreadableImageError: If the tar breaks off. The sample it breaks off in is not yielded, since
            whether its label is lost cannot be known.
    """
    from webdataset.tariterators import base_plus_ext

    with open_regular(shard) as file:
        try:
            # Not "r:*": compressed headers could unpack without end.
            with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as tar:
                for member in tar:
                    tar.members.clear()  # type: ignore[attr-defined]  # else it keeps them all
                    if member.size < 0:  # walks backwards, for ever (CVE-2025-8194)
                        raise tarfile.ReadError("negative member size")
                    stem, suffix = base_plus_ext(member.name)
                    # Hidden files are no samples, and suffixes in underscores are webdataset's own columns.
                    hidden = member.name.rpartition("/")[2].startswith(".")
                    if member.isdir() or hidden or stem is None or suffix.startswith("__"):
                        continue
                    found = {"fname": member.name, "data": None, "__url__": str(shard)}
                    if suffix.lower() in (*_IMAGES, *texts):
                        try:
                            found["data"] = _data(tar, member, suffix.lower(), image)
                        except (tarfile.TarError, OSError):
                            yield found  # if it is of another sample than the last, that one is whole
                            raise
                    yield found
                # Members end silently at a damaged header too; a whole archive ends in zeros.
                file.seek(tar.offset)
                if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                    raise tarfile.ReadError("no end of archive")
        # Beside its own errors, tarfile lets through what hostile numbers and nested headers cause.
        except (tarfile.TarError, OSError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise UnreadableImageError(
                f"truncated or corrupt tar near byte {file.tell()} ({printable(str(error))}); "
                "what follows is lost, with the sample it happened in"
            ) from error


def _data(
    tar: tarfile.TarFile,
    member: tarfile.TarInfo,
    suffix: str,
    image: Callable[[tarfile.TarFile, tarfile.TarInfo], Any],
) -> Any:
    if not member.isreg():
        return UnreadableImageError(f"{suffix} member is a link or a device, not a file")
    try:
        check_size(member.size if suffix in _IMAGES else member.size or 1)
    except UnreadableImageError as error:
        return UnreadableImageError(f"{suffix} member: {error}")
    return (image if suffix in _IMAGES else _content)(tar, member)


def _sample(shard: Path, state: str, stem: str, members: Mapping[str, Any]) -> Sample | Failure:
    key = f"{shard.name}:{stem}"
    try:
        if not is_utf8(key):
            raise UnreadableImageError("member name is not UTF-8")
        for data in members.values():
            if isinstance(data, UnreadableImageError):
                raise data
        image = next((members[suffix] for suffix in _IMAGES if suffix in members), None)
        if image is None:
            raise UnreadableImageError("no image in sample")
        texts = {
            suffix: _text(suffix, members[suffix]) for suffix in _TEXTS if members.get(suffix) is not None
        }
        extra = {"caption": texts["txt"]} if "txt" in texts else {}
        extra |= _fields(texts["json"]) if "json" in texts else {}
    except UnreadableImageError as error:
        return Failure(printable(key), str(error))
    return Sample(key, str(shard), texts.get("cls", "").strip() or None, extra, image, state)


def _text(suffix: str, data: bytes) -> str:
    try:
        return data.decode("utf-8")
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
