"""What commands print: tables and JSON on stdout, messages and progress on stderr."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.style import Style
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


@dataclass(frozen=True)
class Ends:
    """A cell of a table: text of which a terminal that is too narrow for it shows both ends.

    Attributes:
        text: The text.
        link: URI of what a terminal opens for it.
    """

    text: str
    link: str | None = None

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        width = cell_len(printable(self.text))
        return Measurement(min(width, 12), width)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        text, width = printable(self.text), options.max_width
        if cell_len(text) > width:
            gap = "..." if options.ascii_only else "…"
            beginning = max(0, width - len(gap)) // 3  # for the end tells more of a path
            end = max(0, width - len(gap) - beginning)
            text = f"{set_cell_size(text, beginning)}{gap}{set_cell_size(text[::-1], end)[::-1]}"
        yield Text(text, Style(link=self.link), no_wrap=True)


def from_here(path: str) -> str:
    """A path as one would type it: relative where it lies in the working directory."""
    return path.removeprefix(f"{str(Path.cwd()).rstrip('/')}/")


def print_table(rows: Sequence[Mapping[str, object]], *, title: str = "") -> None:
    """Print rows under the keys of the first one."""
    table = Table(box=None, pad_edge=False)
    for name, value in rows[0].items():
        justify: Literal["right", "left"] = "right" if isinstance(value, int) else "left"
        table.add_column(printable(name), overflow="fold", justify=justify)
    for row in rows:
        table.add_row(*(_cell(row.get(name)) for name in rows[0]))
    # Where stdout is no terminal, each row stays on a line of its own, however long, and nothing is a link.
    is_terminal = sys.stdout.isatty()
    console = console_on(force_terminal=is_terminal, width=None if is_terminal else 100_000)
    with to_stdout():
        if title:
            console.print(Text(printable(title)), soft_wrap=True)
        console.print(table)


def _cell(value: object) -> Text | Ends:
    if isinstance(value, Ends):
        return value
    return Text("" if value is None else printable(str(value)))


def percent(share: float) -> str:
    """A share as a percentage."""
    return f"{100 * share:.1f}%"


def si(number: float) -> str:
    """A count with four significant digits and a decimal prefix: 17.56 G."""
    for scale, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= scale:
            return f"{number / scale:.4g}{prefix}"
    return f"{number:.4g}"
