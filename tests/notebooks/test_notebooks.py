"""The notebooks: pairs that agree, outputs fit to commit, and every cell runs."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
NOTEBOOKS = [script.with_suffix(".ipynb") for script in SCRIPTS]
MOST_BYTES = 300_000

every_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells_of(notebook: Any) -> list[tuple[str, str, list[str]]]:
    return [(cell.cell_type, cell.source, cell.metadata.get("tags", [])) for cell in notebook.cells]


def code_of(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def wrong_outputs(notebook: Any) -> list[Any]:
    """Errors, and whatever was said on stderr: warnings, for example."""
    outputs = [output for cell in code_of(notebook) for output in cell.outputs]
    return [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]


def test_every_notebook_has_both_forms() -> None:
    assert len(NOTEBOOKS) == 4
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == NOTEBOOKS


@every_notebook
def test_both_forms_have_the_same_cells(path: Path) -> None:
    script = jupytext.read(path.with_suffix(".py"), fmt="py:percent")
    assert cells_of(nbformat.read(path, as_version=4)) == cells_of(script)


@every_notebook
def test_a_title_then_parameters(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].source.startswith("# ")
    assert code_of(notebook)[0].metadata.tags == ["parameters"]
    assert "MATVIT_NOTEBOOK_" in code_of(notebook)[0].source


@every_notebook
def test_committed_outputs_are_whole_small_and_from_nowhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert [cell.execution_count for cell in code_of(notebook)] == list(range(1, len(code_of(notebook)) + 1))
    assert wrong_outputs(notebook) == []
    assert path.stat().st_size < MOST_BYTES
    outputs = json.dumps([cell.outputs for cell in code_of(notebook)])
    assert re.findall(r"/(?:home|root|Users|tmp|var)/[^\"\\ ]*", outputs) == []


@every_notebook
def test_every_cell_runs(path: Path, tmp_path: Path) -> None:
    # In a process of its own: what Jupyter's event loop warns of is no business of these tests.
    done = subprocess.run(
        [sys.executable, "-m", "cli.main", "notebook", path.stem, "--execute", "-o", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"MATVIT_NOTEBOOK_FAST": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    executed = nbformat.read(tmp_path / path.name, as_version=4)
    assert cells_of(executed) == cells_of(nbformat.read(path, as_version=4))
    assert all(cell.execution_count for cell in code_of(executed))
    assert wrong_outputs(executed) == []
    assert list(tmp_path.iterdir()) == [tmp_path / path.name], "notebooks work in a temporary folder"
