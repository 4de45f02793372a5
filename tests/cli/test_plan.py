"""`matvit plan`: the curve and what it costs."""

import csv
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from machine_world import Machine
from PIL import Image

from matvit.runtime import latency


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Path:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "SETTLE_SECONDS", 0)
    return tmp_path / "cache" / "latency"


@pytest.fixture
def measured(matvit: Callable, checkpoint: Path) -> Callable:
    """Plans the tiny checkpoint with times, on the CPU."""
    return lambda *arguments: matvit(
        "plan", "-m", checkpoint, "--device", "cpu", "--dtype", "fp32", *arguments
    )


def test_the_published_shape_has_37_budgets(matvit: Callable) -> None:
    done = matvit("plan", "-m", "matvit_base_patch16_224")
    assert (done.code, done.err) == (0, "")
    header, *rows = done.out.splitlines()
    assert header.split() == ["submodel", "MACs", "FLOPs", "parameters", "of", "XL"]
    assert len(rows) == 37
    assert rows[0].split()[:3] == ["S", "7.397", "G"]
    assert rows[-1].split()[:5] == ["XL", "16.35", "G", "32.7", "G"]
    assert rows[-1].split()[-1] == "100.0%"


def test_json(matvit: Callable) -> None:
    points = json.loads(matvit("plan", "-m", "matvit_base_patch16_224", "--json").out)
    assert len(points) == 37
    assert [round(p["gmacs"], 2) for p in points if "*" not in p["submodel"]] == [7.4, 8.68, 11.23, 16.35]
    for point in points:
        assert point["gflops"] == pytest.approx(2 * point["gmacs"])
        assert len(point["widths"]) == 12
        assert point["widths"] == sorted(point["widths"])
    assert [p["gmacs"] for p in points] == sorted(p["gmacs"] for p in points)
    assert points[-1]["share_of_xl"] == 1


def test_a_budget_shows_one_point_within_it(matvit: Callable) -> None:
    (point,) = json.loads(matvit("plan", "-m", "matvit_base_patch16_224", "--budget", "60%", "--json").out)
    assert 0.57 < point["share_of_xl"] <= 0.6
    lines = matvit("plan", "-m", "matvit_base_patch16_224", "--budget", "M").out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("M ")


def test_a_checkpoint_is_planned_without_its_classifier(matvit: Callable, checkpoint: Path) -> None:
    points = json.loads(matvit("plan", "-m", checkpoint, "--json").out)
    assert len(points) == 13
    assert points[-1]["widths"] == [128] * 4
    assert points[-1]["gmacs"] == 752_896 / 1e9


def test_a_clip_tower_is_planned_with_its_projection(matvit: Callable) -> None:
    (point,) = json.loads(
        matvit("plan", "-m", "vit_base_patch32_clip_224.openai", "--budget", "XL", "--json").out
    )
    assert point["mparams"] == 87.849728  # as OpenAI's image tower, and a bias of 512 zeros


def test_measured_times_stand_beside_the_costs(measured: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.progress._QUIET_SECONDS", 0)
    done = measured("--measure")
    assert done.code == 0
    header, *rows = done.out.splitlines()
    assert header.split()[-6:] == ["XL", "ms", "ms", "of", "XL", "images/s"]
    assert len(rows) == 13
    assert rows[0].split()[0] == "S"
    assert ("~" in rows[0], "~" in rows[2]) == (False, True), "two of three between neighbours are measured"
    assert ("±" in rows[0], "±" in rows[2]) == (True, False)
    assert rows[-1].split()[-2] == "100.0%"
    assert "runs timed: 160/160, " in done.err
    assert "ms a batch of 1 on " in done.err
    assert "; ± is the interquartile range; ~ is interpolated" in done.err
    assert "not to be relied on" not in done.err


def test_times_of_a_busy_machine_come_with_a_warning(measured: Callable, machine: Machine) -> None:
    machine.other_work = 0.4
    for _ in range(2):
        done = measured("--measure")
        assert done.code == 0
        (warning,) = [line for line in done.err.splitlines() if line.startswith("matvit: ")]
        assert "other work took up to 40% of the processor meanwhile" in warning
    assert "measured before, on 2" in done.err
    (point,) = json.loads(measured("--budget", "S", "--measure", "--json").out)
    assert point["other_work"] == pytest.approx(0.4)


def test_measured_json(measured: Callable) -> None:
    points = json.loads(measured("--measure", "--batch-size", 2, "--json").out)
    assert [len(points), sum(point["measured"] for point in points)] == [13, 10]
    assert all(point["ms"] > 0 for point in points)
    assert all((point["iqr_ms"] is None) != point["measured"] for point in points)
    assert all((point["at"] is None) != point["measured"] for point in points)
    assert all(p["ms_share_of_xl"] == pytest.approx(p["ms"] / points[-1]["ms"]) for p in points)
    every = measured("--measure", "--batch-size", 2, "--every-point", "--json")
    assert all(point["measured"] for point in json.loads(every.out))
    assert "~" not in every.err


def test_times_are_kept_until_they_are_refreshed(
    measured: Callable, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cli.progress._QUIET_SECONDS", 0)
    first = measured("--measure", "--json")
    (file,) = cache.iterdir()
    again = measured("--measure", "--json")
    assert again.out == first.out
    assert "runs timed" not in again.err
    today = time.strftime("%Y-%m-%d", time.localtime(json.loads(first.out)[0]["at"]))
    assert (
        f"measured before, on {today} (`matvit plan -m MODEL --measure --refresh` measures again)"
        in again.err
    )
    before = file.read_text()
    assert "runs timed" in measured("--measure", "--refresh").err
    assert file.read_text() != before


def test_a_budget_in_ms_is_measured_unasked(measured: Callable) -> None:
    times = {p["submodel"]: p["ms"] for p in json.loads(measured("--measure", "--json").out)}
    (all_of_it,) = json.loads(measured("--budget", "10000ms", "--json").out)
    assert (all_of_it["submodel"], all_of_it["ms"]) == ("XL", times["XL"])
    (point,) = json.loads(measured("--budget", f"{min(times.values()) + 1e-6:.9f}ms", "--json").out)
    assert point["ms"] <= min(times.values()) + 2e-6
    done = measured("--budget", "0.000001ms")
    assert (done.code, done.out) == (2, "")
    assert "matvit: 0.000001ms is below the smallest submodel, S: " in done.err.splitlines()[-1]


def test_a_wrong_budget_is_refused_before_anything_is_measured(measured: Callable) -> None:
    done = measured("--measure", "--budget", "fast")
    assert (done.code, len(done.err.splitlines())) == (2, 1)


def test_widths_off_the_curve_get_an_interpolated_time(measured: Callable) -> None:
    (point,) = json.loads(measured("--budget", "XL*2+S*2", "--measure", "--json").out)
    assert point["ms"] > 0
    assert not point["measured"]


def test_a_name_is_measured_with_weights_made_up(matvit: Callable) -> None:
    ask = (
        "plan",
        "-m",
        "matvit_tiny_patch16_224",
        "--device",
        "cpu",
        "--dtype",
        "bf16",
        "--budget",
        "9000ms",
    )
    threads = torch.get_num_threads()
    try:
        done = matvit(*ask, "--threads", 1)
    finally:
        torch.set_num_threads(threads)
    assert done.code == 0
    assert done.out.splitlines()[1].startswith("XL ")
    assert "1 thread), bfloat16" in done.err


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_reach_torch(
    matvit: Callable, checkpoint: Path, made_up_times: list[int], threads: int
) -> None:
    usual = torch.get_num_threads()
    try:
        done = matvit("plan", "-m", checkpoint, "--measure", "--device", "cpu", "--threads", threads)
    finally:
        torch.set_num_threads(usual)
    assert done.code == 0
    assert made_up_times == [threads]
    assert f"(cpu, {threads} threads)" in done.err


def test_no_time_at_all_is_refused_and_nothing_measured(measured: Callable, cache: Path) -> None:
    done = measured("--budget", "0ms")
    assert (done.code, done.out) == (2, "")
    assert done.err == "matvit: 0ms is no time to embed anything in\n"
    assert not cache.exists()


COSTS = ["submodel", "widths", "gmacs", "gflops", "mparams", "share_of_xl"]


def test_tables_and_figures_are_kept(measured: Callable, tmp_path: Path) -> None:
    table, figure = tmp_path / "new" / "plan.csv", tmp_path / "new" / "plan.png"
    done = measured("--csv", table)
    assert (done.code, done.err) == (0, f"kept: {table}\n")
    assert list(read_csv(table)[0]) == COSTS
    done = measured("--measure", "--csv", table, "--figure", figure)
    assert f"kept: {table}, {figure}" in done.err
    rows = read_csv(table)
    assert list(rows[0]) == [*COSTS, "ms", "ms_share_of_xl", "measured", "iqr_ms", "other_work", "at"]
    assert len(rows) == 13
    assert (rows[1]["submodel"], rows[1]["widths"], rows[1]["measured"]) == ("S*3+M*1", "16*3+32*1", "True")
    with Image.open(figure) as image:
        assert image.format == "PNG"


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    "message, options",
    [
        ("draws .png, .pdf and .svg files", "--measure --figure plan.gif"),
        ("--figure needs times: add --measure", "--figure plan.png"),
        ("--every-point needs times: add --measure", "--every-point --budget 60%"),
        ("--refresh needs times: add --measure", "--refresh"),
        ("'abacus' is no device", "--measure --device abacus"),
        ("'fp8' is no number format", "--measure --dtype fp8"),
        ("--batch-size", "--measure --batch-size 0"),
        ("--threads", "--measure --threads 0"),
        *[("--threads", f"--measure --threads {number}") for number in (1025, 10**9, 10**30)],
        *[("--batch-size", f"--measure --batch-size {number}") for number in (65537, 10**9, 10**30)],
    ],
)
def test_a_mistake_gets_one_line(
    measured: Callable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    message: str,
    options: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = measured(*options.split())
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert message in done.err
    assert list(tmp_path.iterdir()) == []
