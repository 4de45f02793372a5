"""How long work tells how far it is: as in `matvit.progress`, which may not be imported here."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Told what is counted and done, the unit first; how much of it is done; and how much there is, if known."""


def silent(what: str, done: int, total: int | None) -> None:
    """Nobody watches."""
