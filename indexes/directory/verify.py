"""Whether every byte of an index is as it was written."""

from pathlib import Path

from indexes.directory.numbered_rows import generation_of
from indexes.disk.durable import sha256_of
from indexes.disk.manifest import FILE_NAME, FileEntry, read_manifest
from indexes.disk.staging import restore
from indexes.errors import IndexBusyError, IndexDamagedError
from indexes.progress import Progress, silent

_TRIES = 5


def verify(path: Path, progress: Progress = silent) -> list[str]:
    """Compare every byte of an index with what was written. Works where `Index.open` refuses.

    Args:
        path: The index directory.
        progress: Told of the bytes verified after every file; they start again where the index was replaced
            meanwhile.

    Returns:
        The problems, one line each; none means sound.

    Raises:
        IndexBusyError: It was replaced before its files were read, again and again.
    """
    for _ in range(_TRIES):
        before = generation_of(path)
        problems = _problems(path, progress)
        # Files of a newer index that are compared with an older manifest look like damage, and are none.
        if not problems or generation_of(path) == before:
            return problems
    raise IndexBusyError(f"{path} is being written: verify it when that has ended")


def _problems(path: Path, progress: Progress) -> list[str]:
    try:
        restore(path)
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
        progress("bytes verified", done, total)
    try:
        present = {file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir()}
    except OSError as error:
        return [*problems, f"{error.filename}: cannot be listed ({error.strerror})"]
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
