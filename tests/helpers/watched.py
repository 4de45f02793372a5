"""What long work tells while it runs: its progress, and the lines that it logs."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise


class Watched:
    """One kind of progress.

    Attributes:
        done: How far it was, each time.
        totals: How far it goes, each time.
    """

    def __init__(self, what: str) -> None:
        self._what, self.done, self.totals = what, list[int](), list[int | None]()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what == self._what:
            self.done.append(done)
            self.totals.append(total)

    @property
    def steps(self) -> list[int]:
        """How much was done from one time to the next."""
        return [after - before for before, after in pairwise([0, *self.done])]


@contextmanager
def logged(logger: str) -> Iterator[list[str]]:
    """The lines for the user that a logger and those below it tell."""
    log, lines = logging.getLogger(logger), list[str]()

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keep, level = Keep(), log.level
    log.addHandler(keep)
    log.setLevel(logging.INFO)
    try:
        yield lines
    finally:
        log.removeHandler(keep)
        log.setLevel(level)
