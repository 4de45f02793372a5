"""The `matvit` command. Commands import torch, timm and FAISS themselves: `--help` answers at once."""

import os
import re
import signal
import sys
import threading
from importlib.metadata import version
from types import FrameType
from typing import Annotated

import typer

from cli import (
    bench,
    calibrate,
    demo,
    elasticize,
    evaluate,
    index,
    models,
    notebook,
    plan,
    query,
    scenic,
    train,
)
from cli.output import say, say_notes, to_stdout

# Typer carries a click of its own and exports just this much of it.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    name="matvit",
    help="Image search whose query cost is a knob: one Vision Transformer, hundreds of nested encoders.\n\n"
    "Example: matvit demo\n\n"
    "Example: matvit index build photos/\n\n"
    "Example: matvit query cat.jpg -i photos.index -b 60%",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("train")(train.train)
app.command("elasticize")(elasticize.elasticize)
app.command("models")(models.models)
app.command("plan")(plan.plan)
app.command("query")(query.query)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("bench")(bench.bench)
app.command("notebook")(notebook.notebook)
app.add_typer(index.app, name="index")
app.add_typer(scenic.app, name="import")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("matvit"))
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; may stand anywhere.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; a mistake ends in one line on stderr and exit code 2, failed work in 1."""
    say_notes()
    interrupt = _Interrupt()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, interrupt)
    try:
        _run()
    except KeyboardInterrupt:  # outside of a command, which Typer answers for
        say("matvit: interrupted")
        sys.exit(130)
    finally:
        interrupt.seen = True  # What is left is Python's own end, which would tell of an interrupt at length.


class _Interrupt:
    """Ctrl-C: the first one ends the work in order, as Python does; one more ends it here and now.

    A worker process leaves both to its parent, which ends it.
    """

    def __init__(self) -> None:
        self.seen, self._process = False, os.getpid()

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return
        if self.seen:
            os._exit(130)  # What was written survives a kill at any moment.
        self.seen = True
        raise KeyboardInterrupt


def _run() -> None:
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        code = app(arguments, prog_name="matvit", standalone_mode=False)
        with to_stdout():  # or a disk that is full would show when nobody could say so any more
            sys.stdout.flush()
    except _UsageError as error:
        context = error.ctx.command_path if error.ctx else "matvit"  # type: ignore[attr-defined]
        message: str = error.format_message()  # type: ignore[attr-defined]
        # A command that needs a subcommand and got none says so with its whole help.
        if message.startswith("Usage:"):
            typer.echo(message, err=True)
        else:
            end = "" if message.endswith((".", "?")) else "."
            say(f"{context}: {message}{end} Try `{context} --help`.")
        sys.exit(2)
    except Exception as error:
        known = exit_code(error)
        if known is None or "--debug" in sys.argv:
            raise
        say(f"matvit: {_one_line(error)}")
        _let_go_of_stdout()
        sys.exit(known)
    if code == 130:  # Typer's answer to Ctrl-C
        say("matvit: interrupted")
    sys.exit(code)


def exit_code(error: Exception) -> int | None:
    """2 for a mistake of the caller, 1 for work that failed, None for a fault of this program."""
    ours = {"matvit", "retrieval", "indexes", "cli"}
    if type(error).__module__.partition(".")[0] in ours:
        return 2 if isinstance(error, ValueError) else 1
    return 1 if isinstance(error, OSError | MemoryError) else None


def _one_line(error: Exception) -> str:
    message = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        path = error.filename2 or error.filename  # of a copy, where to
        message = f"{os.fsdecode(path)}: {error.strerror}" if path else error.strerror
    return f"{message}: free some space there, or write elsewhere" if _is_full(error) else message


def _is_full(error: BaseException | None) -> bool:
    """Whether a disk that is full is behind an error; libraries in Rust have just the number, in words."""
    from indexes.disk.durable import FULL

    if error is None:
        return False
    number = error.errno if isinstance(error, OSError) else None
    told = re.search(r"\(os error (\d+)\)", str(error))
    return number in FULL or (told is not None and int(told[1]) in FULL) or _is_full(error.__cause__)


def _let_go_of_stdout() -> None:
    """Flush what was printed; where that cannot be, keep Python from trying once more as it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        sys.stdout = open(os.devnull, "w")  # noqa: PTH123, SIM115


if __name__ == "__main__":
    main()
