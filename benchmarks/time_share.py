"""How far time follows compute: each submodel's share of XL's time against its share of XL's MACs.

    matvit plan -m matvit_base_patch16_224 --measure --every-point --batch-size 8 --dtype fp32 --csv plan.csv
    python benchmarks/time_share.py plan.csv

Prints the ratio at each granularity (bar: at most 1.1) and how much, if at all, time ever falls along the
curve, on which every submodel costs more than the one before.
"""

import argparse
import csv
from itertools import pairwise
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("plan", type=Path)
    with parser.parse_args().plan.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["measured"] == "True"]

    print("          ms   time of XL   MACs of XL   ratio")
    for row in rows:
        if "*" not in row["submodel"]:
            time, macs = float(row["ms_share_of_xl"]), float(row["share_of_xl"])
            ms = float(row["ms"])
            print(f"{row['submodel']:4} {ms:7.1f} {100 * time:11.1f}% {100 * macs:11.1f}% {time / macs:7.3f}")
    steps = [
        (float(after["ms"]) / float(before["ms"]) - 1, after["submodel"]) for before, after in pairwise(rows)
    ]
    falls = sorted(step for step in steps if step[0] < 0)
    print(f"{len(rows)} submodels; time falls at {len(falls)} of {len(steps)} steps along the curve")
    for change, submodel in falls[:3]:
        print(f"  by {-100 * change:.1f}% at {submodel}")


if __name__ == "__main__":
    main()
