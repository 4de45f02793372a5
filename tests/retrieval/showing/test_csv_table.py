"""Rows of results."""

import csv
from pathlib import Path

from matvit import Submodel
from matvit.submodels.cost import Cost
from retrieval.measuring.curve import Point
from retrieval.measuring.estimate import Estimate, Share
from retrieval.showing.csv_table import write_csv


def test_a_row_has_a_measure_between_the_ends_of_its_interval(tmp_path: Path) -> None:
    measures = {"accuracy": Share(9, 10), "difference": Estimate(-0.125, (-0.25, 0.0625))}
    row = Point(Submodel((4, 8)), Cost(macs=10**9, params=2 * 10**6), 0.5, measures, 3.5).row()
    low, high = Share(9, 10).interval
    assert row == {
        "submodel": "4*1+8*1",
        "widths": "4 8",
        "gmacs": 1.0,
        "gflops": 2.0,
        "mparams": 2.0,
        "share_of_xl": 0.5,
        "ms": 3.5,
        "accuracy": 0.9,
        "accuracy_low": round(low, 6),
        "accuracy_high": round(high, 6),
        "difference": -0.125,
        "difference_low": -0.25,
        "difference_high": 0.0625,
    }
    assert "ms" not in Point(Submodel((4, 8)), Cost(macs=1, params=1), 0.5, {}).row()
    write_csv(tmp_path / "rows.csv", [row, row])
    with (tmp_path / "rows.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [{key: str(value) for key, value in row.items()}] * 2
