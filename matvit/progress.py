"""How long work tells how far it is: one kind of callback for all of it."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Told what is counted and done, the unit first, such as ``images embedded``; how much of it is done; and how
much there is in all, None where nobody knows."""


def silent(what: str, done: int, total: int | None) -> None:
    """Nobody watches."""


class Count:
    """Work that is counted as it comes.

    Args:
        progress: Told before the first step, which may take long, and after every one.
        what: See `Progress`.
        total: See `Progress`.
        done: So much was done before.
    """

    def __init__(self, progress: Progress, what: str, total: int | None = None, *, done: int = 0) -> None:
        self._progress, self._what, self._total, self._done = progress, what, total, done
        progress(what, done, total)

    def __call__(self, count: int = 1) -> None:
        """Count what was done since the last call."""
        self._done += count
        self._progress(self._what, self._done, self._total)
