"""A library that moved: its rows follow it, without a vector being made again."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from indexes import Index, RelocationError
from indexes.directory.change import Relocation
from matvit.progress import Count, Progress, silent
from retrieval.sources.file_bytes import state_of, without_links
from retrieval.upkeep.known_files import Known


def relocate_index(
    path: Path,
    old: str,
    new: str,
    *,
    command: str,
    check_content: bool = False,
    keep_missing: bool = False,
    progress: Progress = silent,
) -> tuple[int, int]:
    """Let the rows of files below one folder point to another, where the same files are now.

    A file is the same if it has the size and time of before, or else the bytes.

    Args:
        path: The index.
        old: Folder or file as the index knows it; need not exist.
        new: Where it is now.
        command: What was run.
        check_content: Compare the bytes of every file.
        keep_missing: Leave rows as they are whose files are not there, or are others, instead of refusing.
        progress: Told of files compared.

    Returns:
        Files whose rows point to `new`, and those whose rows were left.

    Raises:
        RelocationError: No row comes from `old`, nothing is at `new`, a file is missing there or is another
            one and `keep_missing` is off, or other rows have those files already.
        IndexBusyError: Another process is writing this index.
        IndexDamagedError: There is no whole index.
    """
    counts = (0, 0)

    def where(index: Index) -> Relocation:
        nonlocal counts
        move = _Move(index, old, new)
        known, files, missing = Known(index), {}, []
        moves = list(move.files())
        count = Count(progress, "files compared", len(moves))
        for before, after in moves:
            state = state_of(after)
            if known.same_file(before, after, check_content=check_content):
                files[before] = after, state
            else:
                missing.append((before, after))
            count()
        _refuse(index, files, missing, move, keep_missing=keep_missing)
        counts = len(files), len(missing)
        for before, after in move.kept_out():
            if known.same_file(before, after, check_content=check_content):
                files[before] = after, state_of(after)
        return move.relocation(files, keeps_old=bool(missing))

    Index.open(path).relocate(where, command=command)
    return counts


class _Move:
    """From one place to another.

    Attributes:
        old: The place as rows name it.
        new: The other one, without links.
    """

    def __init__(self, index: Index, old: str, new: str) -> None:
        self._index = index
        self._paths = index.entries(["path"])["path"].unique()
        spelled = os.path.abspath(old)  # noqa: PTH100
        # As it was: what is a link now may have been a folder then.
        candidates = dict.fromkeys((spelled, without_links(spelled), os.path.realpath(spelled)))
        self.old = next((location for location in candidates if len(_below(self._paths, location))), spelled)
        self.new = without_links(os.path.abspath(new))  # noqa: PTH100
        if Path(self.new).is_dir():
            self.new = os.path.realpath(self.new)
        self._spelled = {spelled, self.old}
        if not len(_below(self._paths, self.old)):
            raise RelocationError(
                f"no image of {index.path} comes from {spelled}; it has {', '.join(index.manifest.sources)}"
            )
        if not Path(self.new).exists():
            raise RelocationError(f"{self.new}: no such file or folder; say where {old} is now")

    def files(self) -> Iterator[tuple[str, str]]:
        """Every file that rows below the old place come from, and where it should be now."""
        yield from self._moves(self._paths)

    def kept_out(self) -> Iterator[tuple[str, str]]:
        """The same of files that only images come from which were removed, and which may be gone."""
        paths = self._index.kept_out()["path"].unique()
        yield from self._moves(paths.filter(pc.invert(pc.is_in(paths, self._paths))))

    def _moves(self, paths: pa.Array) -> Iterator[tuple[str, str]]:
        for path in _below(paths, self.old).to_pylist():
            yield path, self._at_new(path[len(self.old.rstrip("/")) :])

    def _at_new(self, below: str) -> str:
        """A path at the new place, which may be the root; what is below begins with a slash, or is empty."""
        return self.new.rstrip("/") + below or "/"

    def relocation(self, files: dict[str, tuple[str, str]], *, keeps_old: bool) -> Relocation:
        """What to write down."""
        manifest = self._index.manifest
        sources: dict[str, str] = {}
        excludes: dict[str, Sequence[str]] = {}
        for source in manifest.sources:
            prefix, globs = manifest.key_prefixes.get(source, ""), manifest.excludes.get(source, [])
            location, below = self._moved(source)
            if location is None or below or keeps_old:
                sources[source], excludes[source] = prefix, globs
            if location is not None:
                sources[location] = prefix + below
                # Within a folder of the source, paths relative to the source mean nothing.
                excludes[location] = [glob for glob in globs if not below or "/" not in glob.rstrip("/")]
        excludes = {source: globs for source, globs in excludes.items() if globs}
        return Relocation(files, list(sources), sources, excludes)

    def _moved(self, source: str) -> tuple[str | None, str]:
        """Where a source is now, None if it did not move, and which of its folders that is, if not all."""
        for location in self._spelled:
            if source == location or source.startswith(location.rstrip("/") + "/"):
                return self._at_new(source[len(location.rstrip("/")) :]), ""
            if location.startswith(source.rstrip("/") + "/") and Path(self.new).is_dir():
                return self.new, location[len(source.rstrip("/")) + 1 :] + "/"
        return None, ""


def _below(paths: pa.Array, location: str) -> pa.Array:
    """Those of some paths that are a place, or inside it."""
    inside = pc.starts_with(paths, location.rstrip("/") + "/")
    return paths.filter(pc.or_(inside, pc.equal(paths, location)))


def _refuse(
    index: Index,
    files: dict[str, tuple[str, str]],
    missing: list[tuple[str, str]],
    move: _Move,
    *,
    keep_missing: bool,
) -> None:
    if not files or (missing and not keep_missing):
        absent = [after for _, after in missing if not Path(after).exists()]
        what = "is missing" if absent[:1] == [missing[0][1]] else "is another image, or cannot be read"
        hint = "--missing keep leaves their rows as they are" if files else "check both places"
        raise RelocationError(
            f"{len(missing)} of {len(files) + len(missing)} files of {move.old} are not at {move.new}, "
            f"{len(absent)} are missing there; the first, {missing[0][1]}, {what}: {hint}"
        )
    targets = pa.array([after for after, _ in files.values()], pa.string())
    paths = index.entries(["path"])["path"]
    others = paths.filter(pc.invert(pc.is_in(paths, pa.array(files, pa.string()))))
    if len(taken := others.filter(pc.is_in(others, targets))):
        raise RelocationError(
            f"{len(taken)} rows come from files at {move.new} already (the first, {taken[0]}): remove them, "
            f"or those of {move.old}, first"
        )
