"""Rows of plain values as CSV files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matvit.files.atomic import whole_file

Row = dict[str, str | int | float]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows of the same keys as a CSV file, whole or not at all."""
    with whole_file(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
