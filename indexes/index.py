"""A finished index: opened, searched, verified."""

from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes import search, vectors
from indexes.errors import IndexDamagedError
from indexes.files import sha256_of
from indexes.manifest import FILE_NAME, FileEntry, Manifest, read_manifest
from indexes.rows import read_rows
from indexes.store import staging_of


class Index:
    """An image corpus that can be searched. Row i is vector i and FAISS id i.

    Attributes:
        path: Its directory.
        manifest: What made it.
        rows: pyarrow Table: key, path, label, and what else the source carried.
    """

    def __init__(self, path: Path, manifest: Manifest, rows: Any, flat: Any) -> None:
        self.path = path
        self.manifest = manifest
        self.rows = rows
        self._flat = flat

    @classmethod
    def open(cls, path: Path) -> "Index":
        """Open an index after the checks that cost little: manifest, sizes, headers and counts.

        `verify` reads every byte.

        Raises:
            IndexDamagedError: It is missing, unfinished or damaged; the message says what to do.
        """
        if not path.exists():
            raise IndexDamagedError(_why_missing(path))
        manifest = read_manifest(path)
        for name, entry in manifest.files.items():
            file = path / name
            size = file.stat().st_size if file.is_file() else None
            if size != entry.bytes:
                what = "is missing" if size is None else f"has {size} bytes, not {entry.bytes}"
                raise IndexDamagedError(f"{file} {what}: restore it, or remove it and build again")
        rows = read_rows(path / "rows.parquet")
        if len(rows) != manifest.ntotal:
            raise IndexDamagedError(
                f"{path} has {len(rows)} rows where its manifest says {manifest.ntotal}: build it again"
            )
        flat = search.load(path / "index.faiss", dim=manifest.encoder.embed_dim, ntotal=manifest.ntotal)
        return cls(path, manifest, rows, flat)

    def __len__(self) -> int:
        return self.manifest.ntotal

    @cached_property
    def keys(self) -> list[str]:
        """The key of every row."""
        keys: list[str] = self.rows["key"].to_pylist()
        return keys

    @cached_property
    def paths(self) -> list[str]:
        """Where the image of every row was."""
        paths: list[str] = self.rows["path"].to_pylist()
        return paths

    @cached_property
    def labels(self) -> list[str | None]:
        """The label of every row, None where it has none."""
        labels: list[str | None] = self.rows["label"].to_pylist()
        return labels

    def search(
        self, queries_QD: NDArray[np.floating], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Find the rows with the largest inner product, exactly.

        Args:
            queries_QD: L2-normalised by the caller, so that scores are cosines; nothing is normalised here.
            k: Rows a query, at least 1; clipped to the size of the corpus.

        Returns:
            Scores and row numbers, both Q x k, best first.

        Raises:
            ValueError: Queries of the wrong shape or not finite, or k below 1.
        """
        queries_QD = np.ascontiguousarray(queries_QD, dtype=np.float32)
        dim = self.manifest.encoder.embed_dim
        if queries_QD.ndim != 2 or queries_QD.shape[1] != dim:
            raise ValueError(f"queries are {queries_QD.shape}, not (Q, {dim})")
        if not np.isfinite(queries_QD).all():
            raise ValueError("queries hold a NaN or an infinity")
        if k < 1:
            raise ValueError(f"k is {k}, not at least 1")
        scores_QK, ids_QK = self._flat.search(queries_QD, min(k, len(self)))
        return scores_QK, ids_QK

    def vectors(self) -> Iterator[NDArray[np.float32]]:
        """Stream all vectors in row order, as float32 blocks."""
        files = (self.path / name for name in self.manifest.vector_files())
        return vectors.blocks(files, self.manifest.encoder.embed_dim)


def verify(path: Path, progress: Callable[[int, int], None] | None = None) -> list[str]:
    """Compare every byte of an index with what was written. Works where `Index.open` refuses.

    Args:
        path: The index directory.
        progress: Called after every file with the bytes read so far and the bytes in all.

    Returns:
        The problems, one line each; none means sound.
    """
    if not path.exists():
        return [_why_missing(path)]
    try:
        files = read_manifest(path).files
    except IndexDamagedError as error:
        return [str(error)]
    problems = []
    done, total = 0, sum(entry.bytes for entry in files.values())
    for name, entry in sorted(files.items()):
        problem = _problem(path / name, entry)
        if problem is not None:
            problems.append(f"{name}: {problem}")
        done += entry.bytes
        if progress is not None:
            progress(done, total)
    present = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    unknown = sorted(present - files.keys() - {FILE_NAME})
    return problems + [f"{name}: not part of this index" for name in unknown]


def _problem(file: Path, entry: FileEntry) -> str | None:
    try:
        if file.stat().st_size != entry.bytes:
            return f"has {file.stat().st_size} bytes, not {entry.bytes}"
        return "its bytes have changed" if sha256_of(file) != entry.sha256 else None
    except FileNotFoundError:
        return "missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _why_missing(path: Path) -> str:
    if staging_of(path).is_dir():
        return f"{path} is not finished: run the same `matvit index build` again to continue it"
    return f"there is no index at {path}: make one with `matvit index build`"
