"""Work that is killed before each of its file operations in turn, in processes forked from a warm one."""

import itertools
import os
import shutil
import signal
import stat
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

# Python tells of these before they happen. `matvit.files.exchange` tells of its own as a rename.
OPERATIONS = {
    "open",
    "os.chmod",
    "os.link",
    "os.mkdir",
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.truncate",
    "shutil.rmtree",
}
KILLED = signal.SIGKILL


def die_before(operation: int, folder: Path) -> None:
    """Let this process be killed before so many operations below a folder; an fsync counts, too."""
    count = itertools.count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event not in OPERATIONS or not (place := _place(arguments)).startswith(str(folder)):
            return
        if next(count) == operation:
            # Between opening a file anew and writing to it, nothing is told: die in that moment, not before.
            if event == "open" and isinstance(arguments[2], int) and arguments[2] & os.O_TRUNC:
                Path(place).write_bytes(b"")
            os.kill(os.getpid(), KILLED)

    def torn_fsync(descriptor: int) -> None:
        """Lose half of what is not on the disk yet, as a power cut may; the rest survives a mere kill."""
        if next(count) == operation:
            status = os.fstat(descriptor)
            if stat.S_ISREG(status.st_mode):
                os.truncate(f"/proc/self/fd/{descriptor}", status.st_size // 2)
            os.kill(os.getpid(), KILLED)

    sys.addaudithook(hook)
    os.fsync = torn_fsync


def _place(arguments: tuple[object, ...]) -> str:
    """What an operation is about; inside `shutil.rmtree` names are relative to an open directory."""
    path = arguments[0]
    if isinstance(path, bytes | str | os.PathLike):
        name, at = os.fsdecode(path), arguments[-1]
        if not os.path.isabs(name) and isinstance(at, int) and at >= 0:  # noqa: PTH117
            return f"{os.readlink(f'/proc/self/fd/{at}')}/{name}"  # noqa: PTH115
        return name
    return ""


def start(work: Callable[[], object]) -> int:
    """Fork a process that does the work: its id."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    return child


def wait(child: int) -> int:
    """Its wait status, which is 0 or the signal that killed it, unless it failed."""
    return os.waitpid(child, 0)[1]


def in_child(work: Callable[[], object]) -> int:
    """Fork a process that does the work, and wait for it."""
    return wait(start(work))


def every_kill(
    folder: Path,
    prepare: Callable[[Path], None],
    work: Callable[[Path], object],
    check: Callable[[Path, int], object],
    *,
    step: int = 1,
) -> int:
    """Kill the work before its file operations, one after the other, and look at what is left.

    Args:
        folder: Where cases are made, each in an empty folder of its own.
        prepare: Makes what is there before.
        work: Is killed, in the folder of its case.
        check: Is told the folder and the operation, and does the work again.
        step: From one operation that it is killed before to the next.

    Returns:
        How often it was killed.
    """
    kills = 0
    for operation in itertools.count(0, step):
        case = folder / "case"
        case.mkdir()
        prepare(case)

        def killed(case: Path = case, operation: int = operation) -> None:
            die_before(operation, case)
            work(case)

        status = in_child(killed)
        assert status in (0, KILLED), f"it failed, though not killed before operation {operation}"
        assert in_child(lambda case=case, operation=operation: check(case, operation)) == 0, (  # type: ignore[misc]
            f"after a kill before operation {operation}"
        )
        shutil.rmtree(case)
        if status == 0:
            break
        kills += 1
    return kills
