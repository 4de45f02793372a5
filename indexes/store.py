"""Index directories that are written whole or not at all, and go on after a crash.

Work in progress lies beside the index to be, and only a whole index is moved into place:

    photos.index.partial/
        lock
        plan.json       which encoder, and the fingerprint of every part
        failures/       part-00000.parquet ...
        index/          becomes photos.index
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from indexes.errors import EmptyIndexError, IndexDamagedError, IndexExistsError, IndexNameError
from indexes.files import sha256_of, sync_directory, written_whole
from indexes.lock import exclusive
from indexes.manifest import FILE_NAME, FORMAT_VERSION, EncoderIdentity, FileEntry, Manifest
from indexes.rows import (
    check_unique,
    concatenate,
    count,
    failures_table,
    read_failures,
    read_rows,
    rows_table,
    write_table,
)
from indexes.search import build_flat
from indexes.vectors import blocks, write_vectors


def staging_of(path: Path) -> Path:
    """Return the directory in which the index `path` is built."""
    return path.parent / f"{path.name}.partial"


class IndexWriter:
    """Builds an index part by part. A context manager: inside it, nobody else writes this index.

    Leaving without `commit`, by an error or by being killed, keeps the finished parts for the next attempt.

    Args:
        out: The index to make; must not exist.
        identity: The encoder whose vectors will be written.

    Raises:
        IndexNameError: `out` is not UTF-8.
        IndexExistsError: On entering: `out` exists.
        IndexBusyError: On entering: another process is building it.
    """

    def __init__(self, out: Path, identity: EncoderIdentity) -> None:
        try:
            str(out).encode()
        except UnicodeEncodeError as error:  # Parquet's writer takes no such path.
            raise IndexNameError(f"{str(out)!r} is not UTF-8: choose another name") from error
        self._out = out
        self._identity = identity
        self._staging = staging_of(out)
        self._index = self._staging / "index"
        self._parts: list[tuple[str, str]] = []
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self._refuse_existing()
        with ExitStack() as stack:
            stack.enter_context(exclusive(self._staging))
            self._refuse_existing()  # once more: the last holder of the lock may have just finished it
            for folder in (self._index / "vectors", self._staging / "failures"):
                folder.mkdir(parents=True, exist_ok=True)
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def plan(self, parts: Sequence[tuple[str, str]]) -> None:
        """Say what the parts are, before any work.

        Parts that an earlier attempt finished are kept where encoder, name and fingerprint are unchanged.

        Args:
            parts: Name and fingerprint of every part, in the order of the index's rows.
        """
        self._parts = list(parts)
        header = {"format_version": FORMAT_VERSION, "encoder": asdict(self._identity)}
        before = self._planned_before(header)
        kept = {
            f"part-{i:05d}"
            for i, (old, new) in enumerate(zip(before, self._parts, strict=False))
            if old == list(new)
        }
        # What is stale goes before the new plan could vouch for it.
        for folder in (self._index / "vectors", self._staging / "failures"):
            for file in folder.iterdir():
                if file.stem not in kept:
                    file.unlink()
            sync_directory(folder)
        with written_whole(self._staging / "plan.json") as plan:
            plan.write(json.dumps(header | {"parts": self._parts}).encode())
        sync_directory(self._index)
        sync_directory(self._out.parent)

    def is_done(self, i: int) -> bool:
        """Whether part `i` is finished."""
        files = (self._vectors_file(i), self._failures_file(i), self._rows_file(i))
        return all(file.exists() for file in files)

    def rows_done(self, i: int) -> tuple[int, int]:
        """Return how many rows and how many failures the finished part `i` has."""
        return count(self._rows_file(i)), count(self._failures_file(i))

    def write_part(
        self,
        i: int,
        vectors: NDArray[np.floating],
        rows: Sequence[Mapping[str, str | None]],
        failures: Sequence[tuple[str, str]],
    ) -> None:
        """Write part `i`, whole or not at all.

        Args:
            i: Position in the plan.
            vectors: L2-normalised, one a row; stored as float16.
            rows: `key`, `path`, optional `label` and other text of every image, in the vectors' order.
            failures: Key and reason of every image that could not be embedded.

        Raises:
            ValueError: Vectors of the wrong shape or length, rows without key or path; nothing is written.
        """
        expected = (len(rows), self._identity.embed_dim)
        if vectors.shape != expected:
            raise ValueError(f"part {self._parts[i][0]}: vectors are {vectors.shape}, not {expected}")
        table, failed = rows_table(rows), failures_table(failures)
        # The rows go first and come last: where they are, the rest is whole.
        self._rows_file(i).unlink(missing_ok=True)
        write_vectors(self._vectors_file(i), vectors)
        write_table(self._failures_file(i), failed)
        write_table(self._rows_file(i), table)

    def commit(self, *, dtype: str, device: str, checkpoint: str, source: str, command: str) -> Manifest:
        """Seal the finished parts and move the index into place.

        Args:
            dtype: What the encoder computed in.
            device: Where it computed.
            checkpoint: Where the encoder was loaded from.
            source: Where the images came from.
            command: What was run.

        Raises:
            ValueError: A part is not finished.
            DuplicateKeyError: Two rows have the same key.
            EmptyIndexError: There are no rows at all.
        """
        numbers = range(len(self._parts))
        for i in numbers:
            if not self.is_done(i):
                raise ValueError(f"part {self._parts[i][0]} is not finished: write it before the commit")
        tables = [read_rows(self._rows_file(i)) for i in numbers]
        table = concatenate([rows_table([]), *tables])
        failures = concatenate(
            [failures_table([]), *(read_failures(self._failures_file(i)) for i in numbers)]
        )
        if not len(table):
            raise EmptyIndexError(_why_empty(failures))
        check_unique(table)
        write_table(self._index / "rows.parquet", table)
        write_table(self._index / "failures.parquet", failures)
        dim = self._identity.embed_dim
        stream = blocks((self._vectors_file(i) for i in numbers), dim)
        ntotal = build_flat(stream, dim, self._index / "index.faiss")
        if ntotal != len(table):
            raise IndexDamagedError(
                f"{self._staging} holds {ntotal} vectors for {len(table)} rows: remove it and build again"
            )
        counts = {self._index / "rows.parquet": ntotal, self._index / "index.faiss": ntotal}
        counts[self._index / "failures.parquet"] = len(failures)
        for i in numbers:
            counts[self._vectors_file(i)] = counts[self._rows_file(i)] = len(tables[i])
        sealed = Manifest(
            encoder=self._identity,
            dtype=dtype,
            device=device,
            checkpoint=checkpoint,
            ntotal=ntotal,
            classes=sorted({label for label in table["label"].to_pylist() if label is not None}),
            source=source,
            files={path.relative_to(self._index).as_posix(): _entry(path, n) for path, n in counts.items()},
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            command=command,
        )
        with written_whole(self._index / FILE_NAME) as file:
            file.write(sealed.to_json())
        self._publish()
        return sealed

    def _publish(self) -> None:
        self._index.rename(self._out)
        sync_directory(self._out.parent)
        # The plan and the parts' failures never lay inside the index: at no moment could a crash leave them
        # in it, or lose them while they were needed.
        shutil.rmtree(self._staging / "failures")
        (self._staging / "plan.json").unlink()

    def _planned_before(self, header: dict[str, Any]) -> list[list[str]]:
        try:
            saved = json.loads((self._staging / "plan.json").read_bytes())
        except (FileNotFoundError, ValueError):
            return []
        parts: list[list[str]] = saved.pop("parts")
        return parts if saved == header else []

    def _refuse_existing(self) -> None:
        if self._out.exists() or self._out.is_symlink():
            raise IndexExistsError(f"{self._out} exists: choose another directory, or remove it first")

    def _vectors_file(self, i: int) -> Path:
        return self._index / "vectors" / f"part-{i:05d}.npy"

    def _rows_file(self, i: int) -> Path:
        return self._index / "vectors" / f"part-{i:05d}.parquet"

    def _failures_file(self, i: int) -> Path:
        return self._staging / "failures" / f"part-{i:05d}.parquet"


def _entry(path: Path, number: int) -> FileEntry:
    return FileEntry(bytes=path.stat().st_size, sha256=sha256_of(path), rows=number)


def _why_empty(failures: Any) -> str:
    if not len(failures):
        return "there are no images: check the source"
    first = failures.slice(0, 1).to_pylist()[0]
    return (
        f"no image could be embedded, {len(failures)} failed (the first, {first['key']}: {first['reason']})"
    )
