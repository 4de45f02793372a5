"""Indexes of a few rows, built the way everything else builds one."""

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from entries import keys_of, labels_of, paths_of, vectors_of

from indexes import EncoderIdentity, Index, IndexWriter
from indexes.disk.origin import Origin
from indexes.faiss_kinds.options import KindOptions

DIM = 8
ENCODER = EncoderIdentity(
    architecture="matvit_tiny",
    weights_sha256="0123456789abcdef" * 4,
    pooling="token",
    embed_dim=DIM,
    preprocess={"size": 224},
)


class Row(NamedTuple):
    """A row whose vector follows from its key and a number."""

    key: str
    path: str
    label: str | None = None
    number: int = 0
    content: str | None = None

    @property
    def vector(self) -> np.ndarray:
        drawn = np.random.default_rng([zlib.crc32(self.key.encode()), self.number]).standard_normal(DIM)
        return (drawn / np.linalg.norm(drawn)).astype(np.float16)


def rows_of(file: str, count: int = 1, *, label: str | None = None, number: int = 0) -> list[Row]:
    return [Row(f"{file}:{n}", f"/{file}", label, number) for n in range(count)]


def origin(encoder: EncoderIdentity = ENCODER, source: str = "photos") -> Origin:
    return Origin(encoder=encoder, dtype="", device="", checkpoint="m", sources=[source], command="build")


def fill(
    writer: IndexWriter, parts: Sequence[Sequence[Row]], failures: Sequence[tuple[str, str]] = ()
) -> None:
    """Plan and write all parts; the failures are those of the last."""
    writer.plan([(f"part {i}", repr(rows)) for i, rows in enumerate(parts)])
    for i, rows in enumerate(parts):
        vectors_ND = np.array([row.vector for row in rows], np.float16).reshape(-1, DIM)
        table = [{name: getattr(row, name) for name in ("key", "path", "label", "content")} for row in rows]
        writer.write_part(i, vectors_ND, table, failures if i == len(parts) - 1 else [])


def build(
    out: Path,
    *parts: Sequence[Row],
    failures: Sequence[tuple[str, str]] = (),
    extends: bool = False,
    encoder: EncoderIdentity = ENCODER,
    source: str = "photos",
    factory: str = "Flat",
    key_prefix: str = "",
) -> Path:
    with IndexWriter(out, encoder, extends=extends) as writer:
        fill(writer, parts, failures)
        writer.commit(origin(encoder, source), KindOptions(factory=factory), key_prefix=key_prefix)
    return out


def contents(out: Path) -> dict[str, tuple[str, str | None, bytes]]:
    """Key -> path, label and vector of every row that can be found."""
    index = Index.open(out)
    vectors_ND = vectors_of(index).astype(np.float16)
    rows = zip(keys_of(index), paths_of(index), labels_of(index), vectors_ND, strict=True)
    return {key: (path, label, vector.tobytes()) for key, path, label, vector in rows}


def expected(*parts: Sequence[Row]) -> dict[str, tuple[str, str | None, bytes]]:
    """What `contents` must be of an index of these rows."""
    return {row.key: (row.path, row.label, row.vector.tobytes()) for rows in parts for row in rows}


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
