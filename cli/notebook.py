"""`matvit notebook`: the demo notebooks, to open or to run."""

import json
import os
import shlex
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.output import print_table, say
from cli.progress import progress

# Beside this package, in the checkout and where it is installed; others may have a package of that name, too.
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
_JUPYTERS = ("jupyterlab", "notebook")


class NotebookError(RuntimeError):
    """A notebook of which a cell failed."""


def notebook(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME",
            help="A notebook, such as 01_quickstart, 01 or quickstart. Without a name, all are listed.",
        ),
    ] = None,
    execute: Annotated[
        bool, typer.Option("--execute", help="Run it and keep the executed copy; do not open it.")
    ] = False,
    output: options.OutputHere = Path(),
) -> None:
    """Copy a demo notebook and open it in Jupyter, or run it.

    Without Jupyter, it is only copied. The notebooks need no network. Their first cell tells what environment
    variables change.

    Example: matvit notebook

    Example: matvit notebook quickstart --execute -o results/
    """
    known = sorted(NOTEBOOKS.glob("[0-9]*.ipynb"))
    if name is None:
        print_table([{"notebook": path.stem, "about": _heading(path)} for path in known])
        return
    source = _find(name, known)
    target = output / source.name
    _refuse_existing(target)
    if execute:
        _execute(source, target)
        say(f"executed: {target}")
    else:
        _copy(source, target)
        _open(target)


def _heading(path: Path) -> str:
    """The first line of a notebook's first cell, which is its title."""
    first = json.loads(path.read_text(encoding="utf-8"))["cells"][0]["source"]
    return "".join(first).partition("\n")[0].lstrip("# ")


def _find(name: str, known: list[Path]) -> Path:
    wanted = name.removesuffix(".ipynb")
    for path in known:
        if wanted in (path.stem, *path.stem.split("_", 1)):
            return path
    names = ", ".join(path.stem for path in known)
    raise typer.BadParameter(f"no notebook {name!r}: there are {names}")


def _refuse_existing(target: Path) -> None:
    from retrieval.errors import OutputExistsError

    if target.exists():
        raise OutputExistsError(f"{target} exists: remove it, or choose another folder with -o")


def _copy(source: Path, target: Path) -> None:
    from indexes.disk.durable import written_whole

    target.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(target) as file:
        file.write(source.read_bytes())


def _open(target: Path) -> None:
    jupyter = next((module for module in _JUPYTERS if find_spec(module)), None)
    if jupyter is None:
        say(f"copied: {target}; to open it: pip install jupyterlab && jupyter lab {shlex.quote(str(target))}")
        return
    say(f"copied: {target}; opening it with {jupyter}")
    # In place of this process: Ctrl-C and the exit code are Jupyter's own.
    os.execv(sys.executable, [sys.executable, "-m", jupyter, str(target)])


def _require_kernel() -> None:
    from retrieval.errors import MissingExtraError

    if not all(map(find_spec, ("nbclient", "ipykernel"))):
        raise MissingExtraError(
            "running a notebook needs more packages: in the clone of matvit, pip install -e '.[notebooks]'"
        )


def _execute(source: Path, target: Path) -> None:
    """Run a notebook in a kernel of this very Python and write it with its outputs, or write nothing."""
    _require_kernel()
    from matvit.files.lock import exclusive

    with exclusive(target):
        _refuse_existing(target)
        _run(source, target)


def _run(source: Path, target: Path) -> None:
    import asyncio
    import signal
    import subprocess

    import nbformat
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpecManager
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError, DeadKernelError

    from matvit.files.atomic import whole_file

    content = nbformat.read(source, as_version=4)
    code = [cell for cell in content.cells if cell.cell_type == "code" and cell.source.strip()]
    begun: list[str] = []
    interrupted = False

    def stop_on_ctrl_c(**_: object) -> None:
        # nbclient's own way stops the kernel twice and ends in an error about that.
        def stop() -> None:
            nonlocal interrupted
            interrupted = True
            if task:
                task.cancel()

        task = asyncio.current_task()
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, stop)

    with progress() as bar:
        client = NotebookClient(
            content,
            # With no folder of kernels to look in, Jupyter takes the one that belongs to this interpreter.
            km=AsyncKernelManager(kernel_spec_manager=KernelSpecManager(kernel_dirs=[])),
            timeout=None,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(target.parent)}},
            on_notebook_start=stop_on_ctrl_c,
            on_cell_execute=lambda cell, **_: begun.append(cell.source),
            on_cell_executed=lambda **_: bar("cells run", len(begun), len(code)),
        )
        try:
            # Cells' own stderr lands in the notebook; what is left is Jupyter talking to itself.
            client.execute(cleanup_kc=True, stderr=subprocess.DEVNULL)
        except (CellExecutionError, DeadKernelError, asyncio.CancelledError) as error:
            if interrupted:
                raise KeyboardInterrupt from None
            why = "the kernel stopped"
            if isinstance(error, CellExecutionError):
                why = f"{error.ename}: {error.evalue}"
            first_line = begun[-1].strip().splitlines()[0]
            cell = f"code cell {len(begun)}, which begins `{first_line}`"
            raise NotebookError(f"{source.stem}: {cell}: {why}") from error
    with whole_file(target) as new:
        nbformat.write(content, new)
