"""Building an index part by part, in work that goes on after a crash."""

import json
import shutil
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from indexes.directory.index import Index
from indexes.directory.numbered_rows import NumberedRows
from indexes.directory.parts_to_index import assemble, link
from indexes.disk.durable import sync_directory, written_whole
from indexes.disk.key_prefixes import with_prefix
from indexes.disk.manifest import FORMAT_VERSION, READ_VERSIONS, EncoderIdentity, Manifest
from indexes.disk.origin import Origin
from indexes.disk.rows import (
    concatenate,
    count,
    failures_table,
    kept_out_table,
    read_failures,
    read_rows,
    rows_table,
    write_table,
)
from indexes.disk.schema import checked
from indexes.disk.staging import PLAN, Staging
from indexes.disk.vectors import write_vectors
from indexes.disk.writer_lock import helping
from indexes.errors import PlanChangedError
from indexes.faiss_kinds.options import AUTO, KindOptions
from indexes.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """The contents of `plan.json`."""

    format_version: int
    encoder: EncoderIdentity
    parts: list[tuple[str, str]]


class IndexWriter:
    """Builds an index, or adds to one, part by part, as a `StoreWriter`: inside it, nobody else writes it.

    Leaving without `commit`, by an error or by being killed, keeps the finished parts for the next attempt.
    Several processes may share the work: one writer that plans and commits, and helpers, which plan the same
    after it and write other parts.

    Args:
        out: The index.
        identity: The encoder whose vectors will be written.
        extends: Whether `out` is there already and gets more rows; else it must not exist.
        helps: Whether this is a helper.

    Attributes:
        base: The index that is extended, inside.

    Raises:
        IndexNameError: `out` is not UTF-8.
        IndexExistsError: On entering: `out` exists, and is not to be extended.
        IndexBusyError: On entering: another process is writing it.
        IndexDamagedError: On entering: there is no whole index to extend.
        WrongEncoderError: On entering: the index to extend was made by another encoder.
    """

    def __init__(
        self, out: Path, identity: EncoderIdentity, *, extends: bool = False, helps: bool = False
    ) -> None:
        self._staging = Staging(out, replaces=extends)
        self._done = self._staging.folder / "parts"
        self._failures = self._staging.folder / "failures"
        self._plan_file = self._staging.folder / PLAN
        self._identity = identity
        self._extends, self._helps = extends, helps
        self._parts: list[tuple[str, str]] = []
        self._held = ExitStack()
        self._base: NumberedRows | None = None
        self.base: Index | None = None

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(helping(self._staging.folder) if self._helps else self._staging)
            if self._extends:
                self._base = NumberedRows.open(self._staging.out)
                self._base.manifest.require_encoder(self._identity)
                self.base = Index(self._base)
            for folder in (self._done, self._failures):
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

        Raises:
            PlanChangedError: This is a helper, and the writer planned something else.
        """
        self._parts = list(parts)
        plan = _Plan(format_version=FORMAT_VERSION, encoder=self._identity, parts=self._parts)
        before = self._planned_before()
        if self._helps:
            if before != self._parts:
                raise PlanChangedError("the images changed while this began: start again")
            return
        kept = {
            f"part-{i:05d}"
            for i, (old, new) in enumerate(zip(before, self._parts, strict=False))
            if old == new
        }
        # What is stale goes before the new plan could vouch for it.
        for folder in (self._done, self._failures):
            for file in folder.iterdir():
                if file.stem not in kept:
                    file.unlink()
            sync_directory(folder)
        with written_whole(self._plan_file) as written:
            written.write(json.dumps(asdict(plan)).encode())
        sync_directory(self._staging.out.parent)

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

    def rows(self) -> pa.Table:
        """The rows of all parts, with the keys that they were written with.

        Raises:
            ValueError: A part is not finished.
        """
        self._require_done()
        return concatenate([rows_table([]), *map(read_rows, map(self._rows_file, self._numbers))])

    def failures(self) -> pa.Table:
        """Key and reason of what could not be embedded in all parts, likewise.

        Raises:
            ValueError: A part is not finished.
        """
        self._require_done()
        return concatenate([failures_table([]), *map(read_failures, map(self._failures_file, self._numbers))])

    def _require_done(self) -> None:
        for i, (name, _) in enumerate(self._parts):
            if not self.is_done(i):
                raise ValueError(f"part {name} is not finished: write it before the commit")

    def commit(
        self,
        origin: Origin,
        options: KindOptions = AUTO,
        progress: Progress = silent,
        *,
        key_prefix: str = "",
        moved: Collection[str] = (),
        kept_out: Collection[str] = (),
    ) -> Manifest:
        """Seal the finished parts, with those of the index that is extended, and move it into place.

        Rows of that index that come from the same files as new ones are replaced by them.

        Args:
            origin: What made the new rows.
            options: How to index; an index that is extended keeps its kind.
            progress: Told of the steps of indexing.
            key_prefix: What to put before every new key, and to remember of the sources. The parts are kept
                without: whoever has to choose another one repeats no work.
            moved: Keys of further rows of that index that new ones replace, as their files are elsewhere now.
            kept_out: Keys, as they were written, of new rows that are not to be found: it is noted that their
                images were there, so that nobody embeds them again.

        Raises:
            ValueError: A part is not finished.
            DuplicateKeyError: Two rows have the same key.
            EmptyIndexError: There are no rows at all.
            UnknownKeyError: No row that can be found has a key of `moved`.
        """
        rows = self.rows()
        out_N = pc.is_in(rows["key"], pa.array(kept_out, pa.string()))
        new = with_prefix(rows, key_prefix)
        failures = [with_prefix(self.failures(), key_prefix)]
        origin = replace(origin, key_prefixes=dict.fromkeys(origin.sources, key_prefix))
        parts, removed = [], np.flatnonzero(out_N)
        keeps_out = [kept_out_table(new.filter(out_N))]
        if self._base is not None:
            before = self._base.manifest
            parts = self._base.vector_files
            replaced_N = self._base.from_files(new["path"]) | self._base.with_keys(moved)
            removed = np.concatenate(
                [np.union1d(self._base.removed, np.flatnonzero(replaced_N)), before.ntotal + removed]
            )
            keeps_out.insert(0, self._base.kept_out)
            failures.insert(0, _still_failing(self._base, new, failures[0]))
            origin = replace(
                origin,
                sources=list(dict.fromkeys([*before.sources, *origin.sources])),
                key_prefixes={**before.key_prefixes, **origin.key_prefixes},
                excludes={**before.excludes, **origin.excludes},
                calibration=before.calibration,
                curve=before.curve,
            )
        sealed = assemble(
            self._staging,
            [*parts, *self._new_parts(key_prefix)],
            failures=concatenate(failures),
            removed=removed,
            kept_out=concatenate(keeps_out),
            origin=origin,
            options=options,
            base=self._base,
            progress=progress,
        )
        for folder in (self._done, self._failures):
            shutil.rmtree(folder)
        self._plan_file.unlink()
        return sealed

    @property
    def _numbers(self) -> range:
        return range(len(self._parts))

    def _new_parts(self, key_prefix: str) -> list[Path]:
        """The finished parts; with a prefix, links to their vectors and copies of their rows."""
        finished = [self._vectors_file(i) for i in self._numbers]
        if not key_prefix:
            return finished
        shutil.rmtree(self._staging.scratch, ignore_errors=True)
        self._staging.scratch.mkdir()
        parts = [self._staging.scratch / file.name for file in finished]
        for file, part in zip(finished, parts, strict=True):
            link(file, part)
            rows = with_prefix(read_rows(file.with_suffix(".parquet")), key_prefix)
            write_table(part.with_suffix(".parquet"), rows)
        return parts

    def _planned_before(self) -> list[tuple[str, str]]:
        """The parts of the plan that is there, if it is one, of this version and encoder."""
        try:
            saved = checked(json.loads(self._plan_file.read_bytes()), _Plan)
        except (FileNotFoundError, ValueError, RecursionError):
            return []
        same = saved.format_version in READ_VERSIONS and saved.encoder == self._identity
        return saved.parts if same else []

    def _vectors_file(self, i: int) -> Path:
        return self._done / f"part-{i:05d}.npy"

    def _rows_file(self, i: int) -> Path:
        return self._done / f"part-{i:05d}.parquet"

    def _failures_file(self, i: int) -> Path:
        return self._failures / f"part-{i:05d}.parquet"


def _still_failing(base: NumberedRows, new: Any, failed: Any) -> Any:
    """The failures of an index that nothing has been heard of since."""
    before = read_failures(base.path / "failures.parquet")
    keys = pa.chunked_array([*new["key"].chunks, *failed["key"].chunks], pa.string())
    heard = pc.is_in(before["key"], keys)
    return before.filter(pc.invert(heard))
