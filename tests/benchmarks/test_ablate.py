"""The script: tables, files kept, mistakes."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from PIL import Image

from ablate import ablate
from ablation.orders import ORDERS


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple]:
    """Runs the script in this process: its exit code, stdout and stderr."""

    def script(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["benchmarks/ablate.py", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            typer.run(ablate)
        return (int(stop.value.code or 0), *capfd.readouterr())

    return script


def test_what_is_told_and_kept(run: Callable, index: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    code, stdout, _ = run(queries, "-i", index, "-o", out, "--search", "2", "--json")
    assert code == 0
    told = json.loads(stdout)
    assert [mean["order"] for mean in told["means"]] == list(ORDERS)
    assert len(told["orders"]) == len(ORDERS) * 9
    assert [found["evaluations"] for found in told["search"]] == [2] * 5
    for name, key in (("orders", "orders"), ("means", "means"), ("search", "search")):
        with (out / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [{k: str(v) for k, v in row.items()} for row in told[key]] == rows
    with Image.open(out / "orders.png") as image:
        assert image.getcolors(16) is None
    command = (out / "command.txt").read_text()
    assert command == f"python benchmarks/ablate.py {queries} -i {index} -o {out} --search 2 --json\n"


def test_the_table(run: Callable, index: Path, queries: Path) -> None:
    code, stdout, _ = run(queries, "-i", index)
    assert code == 0
    assert stdout.splitlines()[0] == "20 queries, mean over 9 budgets"
    assert "larger in the middle" in stdout
    assert "search" not in stdout


def test_a_search_without_optuna(
    run: Callable, index: Path, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, stderr = run(queries, "-i", index, "--search", "2")
    assert code == 2
    assert "run pip install optuna" in " ".join(stderr.split())
