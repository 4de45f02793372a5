"""What commands print: tables and JSON on stdout, messages and progress on stderr."""

import json
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich import filesize
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text


def console_on(**where: Any) -> Console:
    """A console that prints text as it is: to rich, a file name such as `[red]:100:.jpg` is a program."""
    return Console(markup=False, emoji=False, highlight=False, **where)


# One console for messages and bars, so that a message is printed above a running bar.
_stderr = console_on(stderr=True)
_PLAIN_SECONDS = 10.0
"""How often a line is printed where no bar can be drawn."""


def printable(text: str) -> str:
    """Text on one line, whatever file name is in it: control characters and stray bytes as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command_line() -> str:
    """What was run, as what is written remembers it."""
    return shlex.join(["matvit", *sys.argv[1:]])


def say(message: str) -> None:
    """Tell the person at the terminal something, in one line on stderr."""
    _stderr.print(printable(message), soft_wrap=True)


@contextmanager
def to_stdout() -> Iterator[None]:
    """Let errors of printing name what was printed to."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or "stdout"
        raise


def print_json(value: object) -> None:
    """Print one line of JSON on stdout."""
    with to_stdout():
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()


def print_path(path: str, end: bytes) -> None:
    """Print the very bytes of a path on stdout; at a terminal, which some would command, in one line."""
    with to_stdout():
        if sys.stdout.isatty():
            sys.stdout.write(printable(path) + end.decode())
        else:
            sys.stdout.flush()
            sys.stdout.buffer.write(os.fsencode(path) + end)
        sys.stdout.flush()


def print_table(rows: Sequence[Mapping[str, object]], *, title: str = "") -> None:
    """Print rows under the keys of the first one."""
    table = Table(box=None, pad_edge=False)
    for name in rows[0]:
        table.add_column(printable(name), overflow="fold")
    for row in rows:
        cells = (row.get(name) for name in rows[0])
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in cells))
    # Where stdout is no terminal, each row stays on a line of its own, however long.
    console = console_on(width=None if sys.stdout.isatty() else 100_000)
    with to_stdout():
        if title:
            console.print(Text(printable(title)), soft_wrap=True)
        console.print(table)


@contextmanager
def progress(what: str, total: int | None, unit: str = "images") -> Iterator[Callable[[int], None]]:
    """Show how many images, or other things, long work has done, on stderr.

    Args:
        what: What is being done.
        total: How many there are, if known.
        unit: What is counted.

    Yields:
        A function to call with the number done since its last call.
    """
    what = printable(what)
    if not _stderr.is_terminal:
        yield from _plain(what, total, unit)
        return
    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(unit),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=_stderr,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)


def _plain(what: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    started = told = time.monotonic()
    done = 0

    def line() -> str:
        rate = done / max(time.monotonic() - started, 1e-9)
        left = f", {(total - done) / rate:.0f} s left" if total and rate and done < total else ""
        return f"{what}: {done}{f'/{total}' if total else ''} {unit}, {rate:.1f} {unit}/s{left}"

    def advance(count: int) -> None:
        nonlocal done, told
        done += count
        if time.monotonic() - told >= _PLAIN_SECONDS:
            told = time.monotonic()
            say(line())

    yield advance
    say(line())


def steps() -> Callable[[str, int, int], None]:
    """What tells of each step of long work once it goes on for some seconds, as plain lines on stderr.

    Returns:
        A function to call with the step, how far it is and how far it goes.
    """
    started = told = time.monotonic()

    def tell(what: str, done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - started > 2 and (now - told >= _PLAIN_SECONDS or done == total):
            told = now
            say(f"{what}: {done}/{total}")

    return tell


@contextmanager
def progress_bytes(*steps: str) -> Iterator[list["ByteCount"]]:
    """Show how many bytes each step of long work has gone through, on stderr, once it starts.

    Args:
        *steps: What is being done.

    Yields:
        For each step, what counts its bytes.
    """
    if not _stderr.is_terminal:
        counts = [ByteCount(step) for step in steps]
        yield counts
        for count in counts:
            count.end()
        return
    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}", markup=False), *columns, console=_stderr) as bar:
        yield [_ByteBar(printable(step), bar) for step in steps]


class ByteCount:
    """The bytes of one step, as plain lines."""

    def __init__(self, what: str) -> None:
        self._what, self._done, self._total = what, 0, 0
        self._started = self._told = time.monotonic()

    def total(self, count: int) -> None:
        """Say how many bytes there are."""
        self._total = count

    def advance(self, count: int) -> None:
        """Count bytes done since the last call."""
        if not self._done:
            self._started = self._told = time.monotonic()
        self._done += count
        if time.monotonic() - self._told >= _PLAIN_SECONDS:
            self._told = time.monotonic()
            self.end()

    def end(self) -> None:
        """Print how far it has come, if it has started."""
        if self._done:
            rate = self._done / max(time.monotonic() - self._started, 1e-9)
            of = f" of {filesize.decimal(self._total)}" if self._total else ""
            say(f"{self._what}: {filesize.decimal(self._done)}{of}, {filesize.decimal(int(rate))}/s")


class _ByteBar(ByteCount):
    def __init__(self, what: str, bar: Progress) -> None:
        self._bar, self._task = bar, bar.add_task(what, total=None, visible=False)

    def total(self, count: int) -> None:
        self._bar.update(self._task, total=count)

    def advance(self, count: int) -> None:
        self._bar.update(self._task, advance=count, visible=True)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "")


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}%"


def si(number: float) -> str:
    """A count with four significant digits and a decimal prefix: 17.56 G."""
    for scale, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.4g}{prefix}"
    return f"{number:.4g}"
