"""Flax checkpoints: msgpack maps of arrays, read part by part, without JAX and without pickle.

The form is that of `flax.serialization`: maps with names for keys, arrays as msgpack extension types that
hold (shape, dtype name, bytes), and arrays above 2**30 bytes cut into maps of chunks.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import msgpack
import numpy as np
from numpy.typing import NDArray

from matvit.errors import CheckpointError
from matvit.progress import Count, Progress, silent

Leaves = dict[str, NDArray[np.float32]]
"""Path such as ``Transformer/encoder_norm/bias`` -> parameter."""

_ARRAY, _SCALAR = 1, 3  # Extension types; 2, a complex number, is no parameter.
_CHUNKED = "__msgpack_chunked_array__"
_FLOATS = {b"float16": "<f2", b"float32": "<f4", b"float64": "<f8", b"bfloat16": "<u2"}
_INTEGERS = {b"int32": "<i4", b"int64": "<i8", b"uint32": "<u4", b"uint64": "<u8"}

# What a file may claim. Real ones stay far below; a hostile one must not fill the memory.
_MAX_ARRAY_BYTES = 2**30 + 2**12  # flax cuts larger arrays into chunks.
_MAX_DIMENSIONS = 8
_MAX_NAME = 256
_MAX_DEPTH = 32
_MAX_LEAVES = 100_000
_READ_SIZE = 2**20


@dataclass(frozen=True)
class Span:
    """Where in the file a value lies."""

    start: int
    stop: int

    @property
    def bytes(self) -> int:
        """Its length."""
        return self.stop - self.start


class FlaxFile:
    """A Flax checkpoint whose parts are found without being decoded, and decoded when asked for.

    Opening reads the file once, from end to end, and holds no more of it than its largest array.

    Attributes:
        path: The file.
        bytes: Its size.
        sha256: Of the file.
        whole: Where the outermost map lies.
        parts: Name -> place of everything in the outermost map.

    Args:
        path: A regular file.
        progress: Told of the bytes that are read.

    Raises:
        CheckpointError: It is no msgpack map from its first byte to its last.
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path, *, progress: Progress = silent) -> None:
        self.path = path
        if not path.is_file():
            path.stat()  # Raises what is wrong with a path that leads nowhere.
            raise CheckpointError(f"{path} is not a file")
        self.bytes = path.stat().st_size
        self.whole = Span(0, self.bytes)
        with path.open("rb") as file, self._one_line():
            hashed = _Hashed(file, Count(progress, "bytes read", self.bytes))
            unpacker = self._unpacker(hashed)
            self.parts = self._places(unpacker, 0)
            if unpacker.tell() != self.bytes:
                raise CheckpointError(
                    f"{path} is no Flax checkpoint: {self.bytes - unpacker.tell()} bytes follow its end"
                )
        self.sha256 = hashed.digest.hexdigest()

    def inside(self, span: Span) -> dict[str, Span]:
        """Name -> place of everything in the map at `span`."""
        with self._at(span) as file:
            return self._places(self._unpacker(file), span.start)

    def leaves(self, span: Span) -> Leaves:
        """Decode every array under the map at `span`, as float32.

        Raises:
            CheckpointError: One is damaged, or something there is not an array of floating-point numbers.
        """
        entries = 0

        def as_map(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            nonlocal entries
            entries += len(pairs)
            if entries > _MAX_LEAVES:
                raise CheckpointError(f"{self.path} holds more than {_MAX_LEAVES} parameters")
            tree = dict(pairs)
            if len(tree) != len(pairs):
                raise CheckpointError(f"{self.path} holds the same name twice")
            return tree

        with self._at(span) as file:
            # Flax turns sequences into maps: an array of msgpack's own is nothing that it wrote.
            tree = self._unpacker(file, max_array_len=0, object_pairs_hook=as_map).unpack()
            leaves: Leaves = {}
            self._flatten(tree, "", leaves)
            return leaves

    def integer(self, span: Span) -> int:
        """Decode a whole number, such as a step.

        Raises:
            CheckpointError: There is something else.
        """
        with self._at(span) as file:
            value = self._unpacker(file, max_array_len=0).unpack()
            if isinstance(value, msgpack.ExtType):
                array = _decoded(value, _INTEGERS)
                value = int(array.flat[0]) if array.size == 1 else None
            if type(value) is not int:
                raise CheckpointError(f"{self.path} is damaged: no whole number where one should be")
            return value

    def _unpacker(self, file: "BinaryIO | _Hashed", **limits: Any) -> msgpack.Unpacker:
        # No value can be longer than the file: a header that says so is refused before anything is reserved.
        longest = min(self.bytes, _MAX_ARRAY_BYTES)
        return msgpack.Unpacker(
            file,
            read_size=_READ_SIZE,
            max_buffer_size=longest + _READ_SIZE,
            **{
                "max_ext_len": longest,
                "max_bin_len": min(longest, _READ_SIZE),
                "max_str_len": min(longest, _READ_SIZE),
                "max_map_len": min(longest, _MAX_LEAVES),
                "max_array_len": min(longest, _MAX_LEAVES),
                **limits,
            },
        )

    def _places(self, unpacker: msgpack.Unpacker, offset: int) -> dict[str, Span]:
        try:
            count = unpacker.read_map_header()
        except ValueError:
            raise CheckpointError(f"{self.path} is no Flax checkpoint: it is not a map of names") from None
        places: dict[str, Span] = {}
        for _ in range(count):
            name = unpacker.unpack()
            if not _is_name(name) or name in places:
                raise CheckpointError(f"{self.path} is no Flax checkpoint: it is not a map of names")
            start = offset + unpacker.tell()
            unpacker.skip()
            places[name] = Span(start, offset + unpacker.tell())
        return places

    def _flatten(self, tree: Any, path: str, leaves: Leaves) -> None:
        """Move the arrays of a tree to `leaves`, so that each is held once."""
        if isinstance(tree, dict) and _CHUNKED in tree:
            leaves[path] = self._at_leaf(path, lambda: _joined(tree))
        elif isinstance(tree, dict):
            if path.count("/") >= _MAX_DEPTH:
                raise CheckpointError(f"{self.path} is nested too deeply")
            for name in list(tree):
                if not _is_name(name):
                    raise CheckpointError(f"{self.path} is damaged: {str(name)[:40]!r} is no name")
                self._flatten(tree.pop(name), f"{path}/{name}" if path else name, leaves)
        else:
            leaves[path] = self._at_leaf(path, lambda: _decoded(tree, _FLOATS))

    def _at_leaf(self, path: str, read: Callable[[], NDArray[Any]]) -> NDArray[np.float32]:
        try:
            with np.errstate(over="ignore", invalid="ignore"):  # What float32 cannot hold becomes infinite.
                return read().astype(np.float32, copy=False)
        except (ValueError, TypeError, KeyError, AttributeError, msgpack.UnpackException) as error:
            raise CheckpointError(f"{self.path}: {path or 'it'} is damaged: {_reason(error)}") from error

    @contextmanager
    def _at(self, span: Span) -> Iterator[BinaryIO]:
        with self.path.open("rb") as file, self._one_line():
            file.seek(span.start)
            yield file

    @contextmanager
    def _one_line(self) -> Iterator[None]:
        """Whatever msgpack finds wrong, as one kind of error."""
        try:
            yield
        except msgpack.OutOfData:
            state = f"cut off after {self.bytes} bytes" if self.bytes else "empty"
            raise CheckpointError(f"{self.path} is {state}: copy or download it again") from None
        except (ValueError, TypeError, OverflowError, msgpack.UnpackException) as error:
            raise CheckpointError(f"{self.path} is damaged: {_reason(error)}") from error


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, file: BinaryIO, count: Count) -> None:
        self.digest = hashlib.sha256()
        self._file, self._count = file, count

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self.digest.update(data)
        if data:
            self._count(len(data))
        return data


def _decoded(leaf: Any, dtypes: Mapping[bytes, str]) -> NDArray[Any]:
    """The array in an extension; a view of its bytes where they need no conversion."""
    if not isinstance(leaf, msgpack.ExtType) or leaf.code not in (_ARRAY, _SCALAR):
        raise ValueError("it is not an array")
    shape, name, data = msgpack.unpackb(
        leaf.data, raw=True, max_array_len=_MAX_DIMENSIONS, max_map_len=0, max_ext_len=0
    )
    if name not in dtypes:
        shown = name[:32].decode(errors="replace") if isinstance(name, bytes) else type(name).__name__
        allowed = b", ".join(dtypes).decode()
        raise ValueError(f"its dtype is {shown!r}, not one of {allowed}")
    dtype = np.dtype(dtypes[name])
    if not isinstance(data, bytes) or _size(shape) * dtype.itemsize != len(data):
        raise ValueError(f"shape {shape} and dtype {name.decode()} do not fit its {len(data)} bytes")
    array: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape)
    if name == b"bfloat16":  # The upper half of a float32.
        return (array.astype("<u4") << 16).view("<f4")
    return array


def _joined(node: dict[str, Any]) -> NDArray[np.float32]:
    """The array that was cut into chunks; they are let go one by one as it fills."""
    shape, chunks = (node[key] for key in ("shape", "chunks"))
    shape = [shape[str(axis)] for axis in range(len(shape))]
    size, available = _size(shape), sum(len(chunk.data) for chunk in chunks.values())
    if size > available:
        raise ValueError(f"shape {shape} is more than its {available} bytes hold")
    flat, filled = np.empty(size, np.float32), 0
    for number in range(len(chunks)):
        part = _decoded(chunks.pop(str(number)), _FLOATS).reshape(-1)
        if filled + part.size > size:
            break
        flat[filled : filled + part.size] = part
        filled += part.size
    if filled != size or chunks:
        raise ValueError(f"its chunks do not fill shape {shape}")
    return flat.reshape(shape)


def _size(shape: Any) -> int:
    """Elements of an array; no parameter has none."""
    if not isinstance(shape, list) or len(shape) > _MAX_DIMENSIONS:
        raise ValueError("its shape is not a list of a few numbers")
    if not all(type(axis) is int and axis > 0 for axis in shape):
        raise ValueError("its shape is not made of positive whole numbers")
    return math.prod(shape)


def _is_name(name: object) -> bool:
    return isinstance(name, str) and len(name) <= _MAX_NAME and name.isprintable() and "/" not in name


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
