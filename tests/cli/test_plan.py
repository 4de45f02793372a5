"""`matvit plan`: the curve and what it costs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest


def test_the_published_shape_has_37_budgets(matvit: Callable) -> None:
    done = matvit("plan", "matvit_base_patch16_224")
    assert (done.code, done.err) == (0, "")
    header, *rows = done.out.splitlines()
    assert header.split() == ["submodel", "MACs", "FLOPs", "parameters", "of", "XL"]
    assert len(rows) == 37
    assert rows[0].split()[:3] == ["S", "7.803", "G"]
    assert rows[-1].split()[:5] == ["XL", "17.56", "G", "35.13", "G"]
    assert rows[-1].split()[-1] == "100.0%"


def test_json(matvit: Callable) -> None:
    points = json.loads(matvit("plan", "matvit_base_patch16_224", "--json").out)
    assert len(points) == 37
    assert [round(p["gmacs"], 2) for p in points if "*" not in p["submodel"]] == [7.8, 9.2, 11.99, 17.56]
    for point in points:
        assert point["gflops"] == pytest.approx(2 * point["gmacs"])
        assert len(point["widths"]) == 12
        assert point["widths"] == sorted(point["widths"])
    assert [p["gmacs"] for p in points] == sorted(p["gmacs"] for p in points)
    assert points[-1]["share_of_xl"] == 1


def test_a_budget_shows_one_point_within_it(matvit: Callable) -> None:
    (point,) = json.loads(matvit("plan", "matvit_base_patch16_224", "--budget", "60%", "--json").out)
    assert 0.57 < point["share_of_xl"] <= 0.6
    lines = matvit("plan", "matvit_base_patch16_224", "--budget", "M").out.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("M ")


def test_a_checkpoint_is_planned_without_its_classifier(matvit: Callable, checkpoint: Path) -> None:
    points = json.loads(matvit("plan", checkpoint, "--json").out)
    assert len(points) == 13
    assert points[-1]["widths"] == [128] * 4
    assert points[-1]["gmacs"] == 934_144 / 1e9
