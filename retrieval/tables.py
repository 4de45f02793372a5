"""Results as rows of plain values, and rows as CSV files."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from matvit.atomic import whole_file
from matvit.cost import Cost
from matvit.submodel import Submodel
from retrieval.intervals import Estimate, Share

Row = dict[str, str | int | float]


def submodel_row(
    submodel: Submodel,
    cost: Cost,
    share_of_full: float,
    ms: float | None,
    measures: Mapping[str, Share | Estimate],
) -> Row:
    """What one submodel costs and is worth, each measure with the ends of its interval, `_low` and `_high`.

    Args:
        submodel: Which.
        cost: Of one image.
        share_of_full: Its multiply-accumulates as a share of the full encoder's, 0 to 1.
        ms: Milliseconds an image, where they were measured.
        measures: By name, in the order of the columns.
    """
    row: Row = {
        "submodel": str(submodel),
        "widths": " ".join(map(str, submodel.widths)),
        "gmacs": cost.gmacs,
        "gflops": cost.gflops,
        "mparams": cost.mparams,
        "share_of_xl": round(share_of_full, 6),
    }
    if ms is not None:
        row["ms"] = ms
    for name, measure in measures.items():
        low, high = measure.interval
        row |= {
            name: round(measure.value, 6),
            f"{name}_low": round(low, 6),
            f"{name}_high": round(high, 6),
        }
    return row


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    """Write rows of the same keys as a CSV file, whole or not at all."""
    with whole_file(path) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
