"""`matvit bench`: the table, and its figures as JSON and CSV."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from machine_world import Machine
from toy_engine import register, without_runtimes

from matvit.engines import compare as bench
from matvit.engines.all_engines import ENGINES

NOT_COMPILED = [word for name in ("eager", "openvino", "onnxruntime") for word in ("--engine", name)]
QUICK = (*NOT_COMPILED, "--repeats", 2, "--device", "cpu")


@pytest.fixture(autouse=True)
def no_other_runtimes(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> None:
    without_runtimes(monkeypatch)


def test_a_row_for_each_way_and_a_column_for_each_submodel(matvit: Callable, checkpoint: Path) -> None:
    done = matvit("bench", "-m", checkpoint, *QUICK, "-b", "S", "-b", "S*2+M*2", "-b", "S")
    assert done.code == 0
    title, header, *rows = done.out.splitlines()
    assert title == "batch of 1"
    assert header.split() == ["S", "S*2+M*2", "XL", "mean", "cosine", "worst", "note"]
    assert [row.split("  ")[0] for row in rows[:3]] == [
        "timm eager fp32",
        "matvit eager fp32",
        "matvit eager bf16",
    ]
    assert rows[0].split()[-1] == "1.00x"
    assert [row.count(" ms ±") for row in rows] == [1, 2, 2, 0, 0]
    assert all("not installed: in the clone of matvit, pip install -e '.[bench]'" in row for row in rows[3:])
    assert f"{checkpoint} on " in done.err
    assert done.err.rstrip().endswith("medians of 2; ± is the interquartile range")


def test_times_of_a_busy_machine_come_with_a_warning(
    matvit: Callable, checkpoint: Path, machine: Machine
) -> None:
    machine.other_work = 0.4
    done = matvit("bench", "-m", checkpoint, *QUICK, "-b", "S", "--json")
    assert done.code == 0
    told, warning = done.err.splitlines()
    assert "medians of 2" in told
    assert warning == (
        "matvit: these times are not to be relied on: other work took up to 40% of the processor meanwhile"
    )
    assert json.loads(done.out)["results"][0]["other_work"] == pytest.approx(0.4)


def test_a_time_is_a_submodel_too(matvit: Callable, checkpoint: Path, made_up_times: list) -> None:
    done = matvit("bench", "-m", checkpoint, *QUICK, "-b", "64ms", "-b", "512ms")
    assert done.code == 0
    assert done.out.splitlines()[1].split()[:2] == ["S", "XL"]
    assert len(made_up_times) == 1


def test_json_and_csv_hold_every_figure(matvit: Callable, checkpoint: Path, tmp_path: Path) -> None:
    kept = tmp_path / "new" / "bench.csv"
    done = matvit(
        "bench", "-m", checkpoint, *QUICK, "--batch-size", 1, "--batch-size", 2, "--json", "--csv", kept
    )
    assert done.code == 0
    told = json.loads(done.out)
    assert (told["model"], told["random_weights"], told["repeats"]) == (str(checkpoint), False, 2)
    results = told["results"]
    assert len(results) == 2 * (1 + 4 * 4)
    assert [result["batch_size"] for result in results] == [1] * 17 + [2] * 17
    assert "timing" not in results[0]
    for result in results:
        if result["engine"].startswith("matvit"):
            assert result["iqr_ms"] >= 0
            assert min(result["ms"], result["speedup"]) > 0
            assert result["cosine_mean"] >= result["cosine_worst"] > 0.99
    with kept.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["submodel"] for row in rows] == [result["submodel"] for result in results]
    assert float(rows[1]["ms"]) == results[1]["ms"]


def test_random_weights_are_told(matvit: Callable) -> None:
    usual = torch.get_num_threads()
    done = matvit("bench", "-m", "matvit_tiny_patch16_224", *QUICK, "-b", "S", "--threads", 1, "--json")
    torch.set_num_threads(usual)
    assert json.loads(done.out)["random_weights"]
    assert json.loads(done.out)["threads"] == 1
    assert "; 1 thread; torch " in done.err
    assert done.err.rstrip().endswith("; random weights")


def test_threads_reach_torch(matvit: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()
    rounds = bench._rounds

    def watch(*arguments: object) -> dict[str, float]:
        seen.add(torch.get_num_threads())
        return rounds(*arguments)

    monkeypatch.setattr(bench, "_rounds", watch)
    usual = torch.get_num_threads()
    try:
        done = matvit("bench", "-m", checkpoint, *QUICK, "-b", "S", "--threads", 3, "--json")
    finally:
        torch.set_num_threads(usual)
    assert json.loads(done.out)["threads"] == 3
    assert seen == {3}
    assert "; 3 threads; torch " in done.err


def test_only_the_engines_asked_for_stand_beside_timm(
    matvit: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask = ("bench", "-m", checkpoint, "--repeats", 1, "--device", "cpu", "-b", "S", "--json")
    named = {"eager": ["matvit eager fp32", "matvit eager bf16"], "toy": ["toy fp32"], "timm": []}
    register(monkeypatch)
    for name, ways in named.items():
        results = json.loads(matvit(*ask, "--engine", name).out)["results"]
        assert [result["engine"] for result in results] == ["timm eager fp32", *ways]


def test_every_engine_is_compared_unless_some_are_named(
    matvit: Callable, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []

    def compare(*_: object, ways: tuple[bench.Way, ...], **__: object) -> tuple[bench.Result, ...]:
        asked.append([way.name for way in ways])
        return ()

    monkeypatch.setattr("matvit.engines.bench.compare", compare)
    assert matvit("bench", "-m", checkpoint, "--device", "cpu", "--json").code == 0
    assert asked == [[way.name for way in bench.ways_on(torch.device("cpu"))]]
    assert {way.split(" ")[0] for way in asked[0]} == {"timm", "matvit", "OpenVINO", "ONNX"}


def test_help(matvit: Callable) -> None:
    done = matvit("bench", "--help")
    assert done.code == 0
    assert "Example: matvit bench" in done.out
    assert all(engine.name in done.out for engine in ENGINES)


@pytest.mark.parametrize(
    "code, message, options",
    [
        (2, "'fast' is not a budget", ("-b", "fast")),
        (2, "--batch-size", ("--batch-size", 0)),
        *[(2, "--batch-size", ("--batch-size", number)) for number in (65537, 10**30)],
        *[(2, "--threads", ("--threads", number)) for number in (0, 1025, 10**30)],
        (2, "'abacus' is no device", ("--device", "abacus")),
        (2, "'abacus' is no engine: write timm, eager, ", ("--engine", "eager", "--engine", "abacus")),
    ],
)
def test_a_mistake_gets_one_line(
    matvit: Callable, checkpoint: Path, code: int, message: str, options: tuple[object, ...]
) -> None:
    done = matvit("bench", "-m", checkpoint, *options)
    assert (done.code, done.out) == (code, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
