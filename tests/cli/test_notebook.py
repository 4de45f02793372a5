"""`matvit notebook`: list, copy, open, run."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

from cli import notebook

NAMES = ["01_quickstart", "02_mixnmatch", "03_adaptive_retrieval", "04_your_own_images"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes it look as if only these of Jupyter's packages were installed."""

    def only(*packages: str) -> None:
        ours = {"jupyterlab", "notebook", "nbclient", "ipykernel"}
        monkeypatch.setattr(
            notebook, "find_spec", lambda name: name in packages if name in ours else find_spec(name)
        )

    return only


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """Puts a notebook of these code cells in place of the real ones."""

    def put(*code: str) -> Path:
        cells = [nbformat.v4.new_markdown_cell("# A title\nand more")]
        cells += [nbformat.v4.new_code_cell(source) for source in code]
        (tmp_path / "shelf").mkdir()
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "shelf" / "07_tiny.ipynb")
        monkeypatch.setattr(notebook, "NOTEBOOKS", tmp_path / "shelf")
        return tmp_path / "shelf" / "07_tiny.ipynb"

    return put


def test_without_a_name_it_lists_them(matvit: Callable) -> None:
    done = matvit("notebook")
    assert (done.code, done.err) == (0, "")
    header, *lines = done.out.splitlines()
    assert header.split() == ["notebook", "about"]
    assert [line.split()[0] for line in lines] == NAMES
    assert lines[0].rstrip().endswith("One index, three budgets")


@pytest.mark.parametrize("name", ["02_mixnmatch", "02", "mixnmatch", "02_mixnmatch.ipynb"])
def test_a_copy_and_how_to_open_it(matvit: Callable, installed: Callable, tmp_path: Path, name: str) -> None:
    installed()
    done = matvit("notebook", name, "-o", tmp_path / "new")
    target = tmp_path / "new" / "02_mixnmatch.ipynb"
    assert (done.code, done.out) == (0, "")
    assert done.err == f"copied: {target}; to open it: pip install jupyterlab && jupyter lab {target}\n"
    assert target.read_bytes() == (notebook.NOTEBOOKS / target.name).read_bytes()


def test_the_current_folder_is_the_default(
    matvit: Callable, installed: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed()
    monkeypatch.chdir(tmp_path)
    assert matvit("notebook", "quickstart").code == 0
    assert list(tmp_path.iterdir()) == [tmp_path / "01_quickstart.ipynb"]


@pytest.mark.parametrize("jupyter", ["jupyterlab", "notebook"])
def test_jupyter_opens_it_where_there_is_one(
    matvit: Callable, installed: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jupyter: str
) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr("os.execv", lambda program, arguments: started.append([program, *arguments]))
    installed(jupyter)
    done = matvit("notebook", "03", "-o", tmp_path)
    assert done.code == 0
    target = tmp_path / "03_adaptive_retrieval.ipynb"
    assert started == [[sys.executable, sys.executable, "-m", jupyter, str(target)]]
    assert done.err == f"copied: {target}; opening it with {jupyter}\n"


def test_an_unknown_name_lists_the_known_ones(matvit: Callable, tmp_path: Path) -> None:
    done = matvit("notebook", "05", "-o", tmp_path / "new")
    assert (done.code, done.out) == (2, "")
    assert len(done.err.splitlines()) == 1
    assert f"no notebook '05': there are {', '.join(NAMES)}." in done.err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [[], ["--execute"]])
def test_nothing_is_overwritten(matvit: Callable, tmp_path: Path, options: list[str]) -> None:
    target = tmp_path / "01_quickstart.ipynb"
    target.write_text("mine")
    done = matvit("notebook", "01", "-o", tmp_path, *options)
    assert (done.code, done.out) == (2, "")
    assert done.err == f"matvit: {target} exists: remove it, or choose another folder with -o\n"
    assert target.read_text() == "mine"


@pytest.mark.parametrize("there", [(), ("nbclient",), ("ipykernel",)])
def test_a_missing_extra_is_named(
    matvit: Callable, installed: Callable, tmp_path: Path, there: tuple[str, ...]
) -> None:
    installed(*there)
    done = matvit("notebook", "01", "--execute", "-o", tmp_path / "new")
    assert (done.code, done.out) == (1, "")
    needed = "in the clone of matvit, pip install -e '.[notebooks]'"
    assert done.err == f"matvit: running a notebook needs more packages: {needed}\n"
    assert not (tmp_path / "new").exists()


def test_an_executed_copy(
    matvit: Callable, shelf: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.progress._QUIET_SECONDS", 0)
    source = shelf("import sys, os\nprint(sys.executable)", "print(os.getcwd())")
    before = source.read_bytes()
    done = matvit("notebook", "tiny", "--execute", "-o", tmp_path / "new")
    target = tmp_path / "new" / "07_tiny.ipynb"
    assert (done.code, done.out) == (0, "")
    assert "cells run: 2/2, " in done.err
    assert done.err.splitlines()[-1] == f"executed: {target}"
    cells = [cell for cell in nbformat.read(target, as_version=4).cells if cell.cell_type == "code"]
    assert [cell.outputs[0].text.strip() for cell in cells] == [sys.executable, str(target.parent)]
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    "code, why",
    [
        ("wish = 'not like\\nthat'\nraise ValueError(wish)", "ValueError: not like that"),
        ("import os; os._exit(3)", "the kernel stopped"),
    ],
    ids=["error", "death"],
)
def test_a_failing_cell_is_named_and_nothing_is_kept(
    matvit: Callable, shelf: Callable, tmp_path: Path, code: str, why: str
) -> None:
    shelf("1", "", code, "2")
    done = matvit("notebook", "07", "--execute", "-o", tmp_path / "new")
    assert (done.code, done.out) == (1, "")
    told = done.err.splitlines()[-1]
    assert told == f"matvit: 07_tiny: code cell 2, which begins `{code.splitlines()[0]}`: {why}"
    assert list((tmp_path / "new").iterdir()) == []


ON_A_SHELF = """
import sys
from pathlib import Path
from cli import main, notebook
notebook.NOTEBOOKS = Path(sys.argv.pop(1))
main.main()
"""


def test_ctrl_c_stops_the_kernel_and_keeps_nothing(shelf: Callable, tmp_path: Path) -> None:
    source = shelf(
        "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    )
    out = tmp_path / "new"
    command = [sys.executable, "-c", ON_A_SHELF, source.parent, "notebook", "07", "--execute", "-o", out]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while not ((out / "pid").exists() and (out / "pid").read_text()) and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=120)
    assert process.returncode == 130
    assert told.splitlines()[-1] == "matvit: interrupted"
    assert list(out.iterdir()) == [out / "pid"]
    with pytest.raises(ProcessLookupError):
        os.kill(int((out / "pid").read_text()), 0)
