"""Where an index is made before it is one: beside its place, under a lock, and moved there whole.

photos.index.partial/
    .matvit-lock    held by the one process that writes; without it, the folder is a user's own
    helpers         held by the processes that embed for it
    plan.json       which encoder, and the fingerprint of every part
    parts/          part-00000.npy, part-00000.parquet ...
    failures/       part-00000.parquet ...
    scratch/        parts whose rows are copied: without removed ones, or with other keys or paths
    index/          becomes photos.index
    previous/       the photos.index that was, while it is replaced
"""

import shutil
import time
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from indexes.disk.durable import sync_directory
from indexes.disk.writer_lock import LOCK, exclusive
from indexes.errors import IndexBusyError, IndexDamagedError, IndexExistsError, IndexNameError

PLAN = "plan.json"

_OF_EARLIER_VERSIONS = {"lock", "helpers", PLAN, "parts", "failures", "index", "scratch"}
"""What their builds and changes of an index leave when they are killed."""
_PATIENCE_S = 10.0


def staging_of(path: Path) -> Path:
    """Return the directory in which the index `path` is built: beside what a symbolic link leads to."""
    real = path.resolve()
    return real.parent / f"{real.name}.partial"


class Staging:
    """A context manager: inside it, nobody else writes this index.

    Args:
        out: The index to make.
        replaces: Whether `out` is an index already, which the new one replaces.

    Raises:
        IndexNameError: `out` is not UTF-8.
        IndexExistsError: On entering: `out` exists, and is not to be replaced; or something else lies where
            it would be made.
        IndexDamagedError: On entering: `out` does not exist, and is to be replaced.
        IndexBusyError: On entering: another process is writing it.
    """

    def __init__(self, out: Path, *, replaces: bool = False) -> None:
        try:
            str(out).encode()
        except UnicodeEncodeError as error:  # Parquet's writer takes no such path.
            raise IndexNameError(f"{str(out)!r} is not UTF-8: choose another name") from error
        self.out = out
        self.folder = staging_of(out)
        self.index = self.folder / "index"
        self.scratch = self.folder / "scratch"
        self._place = out.resolve()
        self._replaces = replaces
        self._previous = self.folder / "previous"
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self.check_place()
        with ExitStack() as stack:
            stack.enter_context(exclusive(self.folder))
            self._bring_back()
            self._discard()
            stack.callback(self._discard)
            self._check_out()  # once more: the last holder of the lock may have just finished it
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._held.close()

    def check_place(self) -> None:
        """Refuse what cannot be entered, but for others that write there; raises as entering does."""
        # What is replaced may be missing for an instant; what is not may have been finished by a process that
        # was killed before it had tidied up.
        is_ours = _is_ours(self.folder)
        if not is_ours or not self.folder.exists():
            self._check_out()
        if not is_ours:
            raise IndexExistsError(
                f"{self.folder} is in the way, and is not of matvit's making: rename it, or the index"
            )

    def clear(self) -> None:
        """Make `index` an empty one."""
        shutil.rmtree(self.index, ignore_errors=True)
        (self.index / "vectors").mkdir(parents=True)

    def publish(self) -> None:
        """Move the finished index into place.

        A directory cannot be renamed over another, so one that is replaced steps aside first; if this process
        dies in the instant between, `restore` brings it back.
        """
        if self._replaces:
            self._place.rename(self._previous)
        self.index.rename(self._place)
        sync_directory(self._place.parent)
        shutil.rmtree(self._previous, ignore_errors=True)

    def _discard(self) -> None:
        """Remove what another attempt would make again."""
        for folder in (self.scratch, self.index):
            shutil.rmtree(folder, ignore_errors=True)

    def _bring_back(self) -> None:
        if self._previous.exists():
            if self._place.exists():
                shutil.rmtree(self._previous)
            else:
                self._previous.rename(self._place)

    def _check_out(self) -> None:
        if not self._replaces and (self.out.exists() or self.out.is_symlink()):
            raise IndexExistsError(f"{self.out} exists: choose another directory, or remove it first")
        if self._replaces and not self.out.exists():
            raise IndexDamagedError(_why_missing(self.out))


def restore(out: Path) -> None:
    """Bring back an index whose writer died in the instant of replacing it, or wait for one that lives.

    Raises:
        IndexDamagedError: There is no index at `out`; the message says what to do.
        IndexBusyError: A process that is replacing it neither goes on nor ends.
    """
    previous, since, misses = staging_of(out) / "previous", time.monotonic(), 0
    while not out.exists():
        if previous.exists() and _is_ours(previous.parent):
            try:
                with Staging(out, replaces=True):
                    continue
            except IndexBusyError:
                if time.monotonic() - since > _PATIENCE_S:
                    raise
        else:
            # Once may be bad luck: the index of a moment ago was not looked at, and the next is on its way.
            misses += 1
            if misses == 3:
                raise IndexDamagedError(_why_missing(out))
        time.sleep(0.001)


def _is_ours(folder: Path) -> bool:
    """Whether a folder is such as described above, and not what a user happens to have called so."""
    try:
        names = {file.name for file in folder.iterdir()}
    except FileNotFoundError:  # Whoever held it has just removed it.
        return True
    except NotADirectoryError:
        return False
    return not names or LOCK in names or (bool({PLAN, "scratch"} & names) and names <= _OF_EARLIER_VERSIONS)


def _why_missing(path: Path) -> str:
    if (staging_of(path) / PLAN).exists() and _is_ours(staging_of(path)):
        return f"{path} is not finished: run the same `matvit index build` again to continue it"
    return f"there is no index at {path}: make one with `matvit index build`"
