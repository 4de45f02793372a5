"""Draw several measured curves on the same axes.

    python benchmarks/plot_curves.py OUT.png "NAME=curve.csv" "NAME=curve.csv" --floor "NAME=0.8497"

The CSV files are those that `matvit evaluate -o DIR` keeps; the first one is the subject.
"""

import argparse
import csv
from pathlib import Path

from retrieval.showing.figures import plot_curve
from retrieval.showing.series import Series


def series(spec: str, column: str) -> Series:
    name, _, path = spec.rpartition("=")
    with Path(path).open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return Series(
        name,
        [float(row["gmacs"]) for row in rows],
        [float(row[column]) for row in rows],
        [(float(row[f"{column}_low"]), float(row[f"{column}_high"])) for row in rows],
        [row["submodel"] for row in rows],
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("output", type=Path)
    parser.add_argument("curves", nargs="+", metavar="NAME=CSV")
    parser.add_argument("--column", default="adaptive_1nn")
    parser.add_argument("--floor", action="append", default=[], metavar="NAME=ACCURACY")
    parser.add_argument("--title", default="")
    options = parser.parse_args()
    curves = [series(spec, options.column) for spec in options.curves]
    floors = {name: float(value) for name, _, value in (floor.rpartition("=") for floor in options.floor)}
    plot_curve(options.output, curves, full_gmacs=max(curves[0].gmacs), title=options.title, floors=floors)


if __name__ == "__main__":
    main()
