"""Commands that write: while one does, another that would write to the same place is refused at once."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from pathlib import Path
from typing import Any

Command = Callable[..., None]


def alone_in_output(command: Command) -> Command:
    """Keep others from the folder `output`, if there is one; it is made if missing."""

    def lock(folder: Path) -> AbstractContextManager[None]:
        from matvit.files.lock import exclusive_inside

        return exclusive_inside(folder)

    return _holding(lock, command)


def alone_at_output(command: Command) -> Command:
    """Keep others from the file or directory `output`, which the command replaces as a whole."""

    def lock(path: Path) -> AbstractContextManager[None]:
        from matvit.files.lock import exclusive

        return exclusive(path)

    return _holding(lock, command)


def _holding(lock: Callable[[Path], AbstractContextManager[None]], command: Command) -> Command:
    @wraps(command)
    def run(*, output: Path | None, **arguments: Any) -> None:
        if output is None:
            command(output=output, **arguments)
            return
        with lock(output):
            command(output=output, **arguments)

    return run
