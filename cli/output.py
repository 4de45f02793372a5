"""What commands print: tables and JSON on stdout, messages and progress on stderr."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from retrieval.sources.sample import Failure


def console_on(**where: Any) -> Console:
    """A console that prints text as it is: to rich, a file name such as `[red]:100:.jpg` is a program."""
    return Console(markup=False, emoji=False, highlight=False, **where)


# One console for messages and bars, so that a message is printed above a running bar.
_stderr = console_on(stderr=True)


def stderr() -> Console:
    """Where messages and bars go."""
    return _stderr


class _Notes(logging.Handler):
    """Says what the library has to tell: notes as they are, warnings as this command's own."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        say(text if record.levelno < logging.WARNING else f"matvit: {text}")


_NOTES = _Notes()
_SHOWN_FAILURES = 20


def say_notes() -> None:
    """From now on, say what the library logs for the user."""
    for package in ("matvit", "retrieval", "indexes"):
        logging.getLogger(package).setLevel(logging.INFO)
        logging.getLogger(package).addHandler(_NOTES)


def printable(text: str) -> str:
    """Text on one line, whatever file name is in it: control characters and stray bytes as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def command_line() -> str:
    """What was run, as what is written remembers it."""
    return shlex.join(["matvit", *sys.argv[1:]])


def say(message: str) -> None:
    """Tell the person at the terminal something, in one line on stderr."""
    _stderr.print(printable(message), soft_wrap=True)


def say_failures(failures: "Sequence[Failure]", what: str = "not readable") -> None:
    """Tell of the first images that failed, and why."""
    for failure in failures[:_SHOWN_FAILURES]:
        say(f"{what}: {failure.key}: {failure.reason}")


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


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}%"


def si(number: float) -> str:
    """A count with four significant digits and a decimal prefix: 17.56 G."""
    for scale, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.4g}{prefix}"
    return f"{number:.4g}"
