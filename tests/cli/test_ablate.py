"""`matvit ablate`: tables, files kept, mistakes."""

import csv
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from retrieval.measuring.ablation import ORDERS


def test_what_is_told_and_kept(matvit: Callable, index: Path, queries: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = matvit("ablate", queries, "-i", index, "-o", out, "--search", "2", "--json")
    assert done.code == 0
    told = json.loads(done.out)
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
    assert command == f"matvit ablate {queries} -i {index} -o {out} --search 2 --json\n"


def test_the_table(matvit: Callable, index: Path, queries: Path) -> None:
    done = matvit("ablate", queries, "-i", index)
    assert done.code == 0
    assert done.out.splitlines()[0] == "20 queries, mean over 9 budgets"
    assert "larger in the middle" in done.out
    assert "search" not in done.out


def test_a_search_without_optuna(
    matvit: Callable, index: Path, queries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    done = matvit("ablate", queries, "-i", index, "--search", "2")
    assert done.code == 2
    assert 'run pip install "matvit[search]"' in " ".join(done.err.split())
