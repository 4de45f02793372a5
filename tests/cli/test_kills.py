"""What writes is killed with SIGKILL before its file operations, one after the other: see `slow_kills.py`.

Nothing is lost: a checkpoint, an export or a run is the old one whole or the new one whole. Nothing is
refused: the same command, given again, ends as the undisturbed one. Nothing is left over after that.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("slow_kills.py")
ROOT = Path(__file__).parents[2]

LEAST = {"save": 20, "save-without-swap": 20, "export": 25, "elasticize": 150, "train": 150}
"""File operations that each has at the least."""
OFTEN = {"save": 1, "save-without-swap": 2, "export": 2, "elasticize": 61, "train": 33}
"""For every run of the tests: before every how manieth of them it is killed."""


def kills(folder: Path, steps: dict[str, int]) -> dict[str, int]:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), *(f"{what}:{step}" for what, step in steps.items())],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}", "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(steps, map(int, done.stdout.split()), strict=True))


def test_some_kills(tmp_path: Path) -> None:
    counts = kills(tmp_path, OFTEN)
    assert all(count >= LEAST[what] // OFTEN[what] for what, count in counts.items()), counts


@pytest.mark.slow
@pytest.mark.parametrize("what", LEAST)
def test_kill_before_every_file_operation(tmp_path: Path, what: str) -> None:
    assert kills(tmp_path, {what: 1})[what] >= LEAST[what]
