"""What `matvit calibrate` takes beside the encoders' own time, for the submodels that it has to test.

    python benchmarks/calibrate_cost.py INDEX QUERIES

The bar is 1.2 times. Both are of one run, on the CPU; the encoders' time is that of their calls.
"""

import argparse
import time
from pathlib import Path

from retrieval import Searcher, open_source
from retrieval.measuring.calibrate import calibrate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("index", type=Path)
    parser.add_argument("queries")
    parser.add_argument("--max-drop", type=float, default=2.0, help="points")
    options = parser.parse_args()
    searcher = Searcher.open(options.index, device="cpu", dtype="fp32")
    encoder, own = searcher.encoder, 0.0
    runner = encoder.runner

    def timed(*arguments: object) -> object:
        nonlocal own
        start = time.perf_counter()
        try:
            return runner(*arguments)
        finally:
            own += time.perf_counter() - start

    encoder.runner = timed
    start = time.perf_counter()
    found = calibrate(searcher, open_source(options.queries), max_drop=options.max_drop / 100)
    seconds = time.perf_counter() - start
    tested = ", ".join(str(submodel) for submodel, _ in found.comparisons) or "none"
    print(
        f"{found.queries + found.check_queries} queries; tested: {tested}; auto is {found.submodel}\n"
        f"{seconds:.0f} s, of which encoders {own:.0f} s: {seconds / own:.2f} times their own (bar 1.2)"
    )


if __name__ == "__main__":
    main()
