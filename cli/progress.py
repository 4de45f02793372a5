"""How far long work is, on stderr: a bar for each step at a terminal, elsewhere a plain line now and then."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from rich import filesize
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from cli import output

if TYPE_CHECKING:
    from matvit.progress import Progress as Port

_MOMENT_SECONDS = 1.0
"""What takes longer is told of while it goes on."""
_QUIET_SECONDS = 2.0
"""Steps that end before are not worth a line."""
_PLAIN_SECONDS = 10.0
"""How often a line is printed where no bar can be drawn."""


@contextmanager
def progress(*, shown: bool = True) -> Iterator["Port"]:
    """Show how far work is while the block runs.

    Args:
        shown: Whether to: of several processes, one tells.

    Yields:
        What library functions take as `progress`: see `matvit.progress`.
    """
    if not shown:
        from matvit.progress import silent

        yield silent
        return
    if not output.stderr().is_terminal:
        lines = _Lines()
        try:
            yield lines
            lines.end()
        finally:
            lines.stop()
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Amount(),
        _Rate(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=output.stderr()) as bars:
        yield _Bars(bars)


@contextmanager
def waiting_for(what: str) -> Iterator[None]:
    """Say what there is to wait for while the block runs, once it has taken a moment."""
    late = _in_a_moment(lambda: output.say(what))
    try:
        yield
    finally:
        late.cancel()


def _in_a_moment(tell: Callable[[], None]) -> threading.Timer:
    timer = threading.Timer(_MOMENT_SECONDS, tell)
    timer.daemon = True
    timer.start()
    return timer


class _Bars:
    def __init__(self, bars: Progress) -> None:
        self._bars, self._tasks = bars, dict[str, TaskID]()

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(output.printable(what), total=total, unit=_unit(what))
        self._bars.update(self._tasks[what], completed=done, total=total)


class _Lines:
    """Plain lines, of the step that work is at."""

    def __init__(self) -> None:
        self._what, self._done = "", 0
        self._total: int | None = None
        self._begun = self._told = 0.0
        self._before = 0
        self._start: threading.Timer | None = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if what != self._what or done < self._done:
            self.end()
            self._what, self._begun, self._told, self._before = what, now, now, done
            self._start = _in_a_moment(partial(self._tell_start, what, done, total))
        self._done, self._total = done, total
        if now - self._told >= _PLAIN_SECONDS:
            self._told = now
            output.say(self._line(now))

    def end(self) -> None:
        """Print how far the step has come, if it took a while."""
        now = time.monotonic()
        self.stop()
        if self._what and now - self._begun >= _QUIET_SECONDS:
            output.say(self._line(now))
        self._what = ""

    def stop(self) -> None:
        """Tell no more of the step's start."""
        if self._start is not None:
            self._start.cancel()

    def _tell_start(self, what: str, done: int, total: int | None) -> None:
        """Tell of a step of which nothing more is done yet: the first images may take long."""
        if (what, done) == (self._what, self._done):
            output.say(f"{what}: {_of(done, total, _unit(what))}")

    def _line(self, now: float) -> str:
        rate = (self._done - self._before) / max(now - self._begun, 1e-9)
        unit, total = _unit(self._what), self._total
        left = f", {(total - self._done) / rate:.0f} s left" if total and rate and self._done < total else ""
        return f"{self._what}: {_of(self._done, total, unit)}, {_speed(rate, unit)}{left}"


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        unit = task.fields["unit"]
        total = "?" if task.total is None else _amount(task.total, unit)
        return Text(f"{_amount(task.completed, unit)}/{total}")


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(_speed(task.speed, task.fields["unit"]) if task.speed else "")


def _unit(what: str) -> str:
    """What is counted: the first word says it."""
    return what.partition(" ")[0]


def _of(done: int, total: int | None, unit: str) -> str:
    return _amount(done, unit) + (f"/{_amount(total, unit)}" if total else "")


def _amount(number: float, unit: str) -> str:
    return filesize.decimal(int(number)) if unit == "bytes" else f"{number:.0f}"


def _speed(rate: float, unit: str) -> str:
    return f"{filesize.decimal(int(rate))}/s" if unit == "bytes" else f"{rate:.1f} {unit}/s"
