"""How long commands take here, against another checkout of this project, run in turn.

    git worktree add ../before COMMIT
    python benchmarks/before_and_after.py ../before

Writes small labelled PNGs to a temporary folder. Each round runs `matvit index build` of 3,000 of them, one
`matvit query`, `matvit evaluate` of 500 queries on the whole curve, and `matvit --help`, each in both
checkouts and in an order that alternates, with the same interpreter and the same packages. Each checkout
searches an index of its own. Printed are medians, and the median of the rounds' ratios with the smallest and
the largest.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parents[1]
MODEL = HERE / "benchmarks" / "checkpoints" / "fashion_mnist"


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Labelled PNGs of 28 x 28 pixels in ten classes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        place = folder / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(place / f"{number:05}.png")
    return folder


def seconds(checkout: Path, arguments: list[str]) -> float:
    """How long a command takes in a process of its own."""
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        cwd=checkout,
        env=environment,
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    checkouts = {"before": options.other.resolve(), "after": HERE}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, queries = write_images(folder / "corpus", 3000, 0), write_images(folder / "queries", 500, 1)
        image = str(queries / "0" / "00000.png")

        def commands(which: str, round_number: int) -> dict[str, list[str]]:
            index = str(folder / f"{which}-{round_number}.index")
            how = ["--device", "cpu", "--dtype", "fp32"]
            return {
                "index build": ["index", "build", str(corpus), "-m", str(MODEL), "-o", index, *how],
                "query": ["query", image, "-i", index, "--budget", "60%", *how],
                "evaluate": ["evaluate", str(queries), "-i", index, *how],
                "--help": ["--help"],
            }

        times: dict[str, dict[str, list[float]]] = {}
        for number in range(options.rounds + 1):
            order = list(checkouts)[:: 1 if number % 2 else -1]
            for command in commands("before", 0):
                for which in order:
                    taken = seconds(checkouts[which], commands(which, number)[command])
                    if number:  # The first round only fills caches.
                        times.setdefault(command, {}).setdefault(which, []).append(taken)
    for command, each in times.items():
        ratios = [after / before for before, after in zip(each["before"], each["after"], strict=True)]
        medians = {which: statistics.median(taken) for which, taken in each.items()}
        print(
            f"{command:12} before {medians['before']:6.2f} s, after {medians['after']:6.2f} s; "
            f"after / before {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
