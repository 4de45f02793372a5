"""How the exact search of `matvit evaluate` grows with the corpus and the queries.

    python benchmarks/evaluate_growth.py

Searches stored vectors of 1,024 dimensions for the 201 nearest of each query, as an evaluation does, for ever
larger corpora and ever more queries; prints seconds, multiply-accumulates a second, the peak memory of the
process, and what that makes of ImageNet: 50,000 queries at four budgets against 1,281,167 vectors.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from indexes.disk.vectors import Vectors, write_vectors
from indexes.faiss_kinds.search import exact
from retrieval.measuring.metrics.all_metrics import DEPTH

PART = 10_000
IMAGENET, IMAGENET_QUERIES, BUDGETS = 1_281_167, 50_000, 4


def write_parts(folder: Path, count: int, dim: int) -> list[Path]:
    """Parts of vectors that lie around some hundred centres."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((200, dim), dtype=np.float32)
    files = []
    for start in range(0, count, PART):
        size = min(PART, count - start)
        vectors = centres[rng.integers(0, 200, size)] + rng.standard_normal((size, dim), dtype=np.float32)
        files.append(folder / f"part-{start // PART:05d}.npy")
        write_vectors(files[-1], vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dim", type=int, default=1024)
    parser.add_argument("--corpora", type=int, nargs="+", default=[20_000, 80_000, 320_000])
    parser.add_argument("--queries", type=int, nargs="+", default=[1_000, 4_000, 16_000])
    options = parser.parse_args()
    rate = 0.0
    with tempfile.TemporaryDirectory() as folder:
        files = write_parts(Path(folder), max(options.corpora), options.dim)
        asked = Vectors(files, options.dim).take(np.arange(max(options.queries)))
        sizes = [(rows, min(options.queries)) for rows in options.corpora]
        sizes += [(min(options.corpora), queries) for queries in options.queries[1:]]
        for rows, queries in sizes:
            vectors = Vectors(files[: -(-rows // PART)], options.dim)
            start = time.perf_counter()
            exact(asked[:queries], vectors, DEPTH + 1)
            seconds = time.perf_counter() - start
            rate = len(vectors) * queries * options.dim / seconds
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
            print(
                f"{queries:6,} queries, {len(vectors):9,} vectors: {seconds:6.1f} s, {rate / 1e9:5.1f} "
                f"GMACs/s, peak memory so far {memory:.2f} GB",
                flush=True,
            )
    hours = IMAGENET * IMAGENET_QUERIES * BUDGETS * options.dim / rate / 3600
    print(f"at that rate, ImageNet at {BUDGETS} budgets: {hours:.1f} hours of searching on this processor")


if __name__ == "__main__":
    main()
