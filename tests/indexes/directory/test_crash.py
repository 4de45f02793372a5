"""What is killed with SIGKILL, again and again, ends as if nothing had happened."""

import random
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from entries import keys_of

from indexes import Index, verify

SCRIPT = Path(__file__).with_name("slow_build.py")
ROOT = Path(__file__).parents[3]


def start(target: Path, mode: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(target), mode],
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'helpers'}", "OMP_NUM_THREADS": "1"},
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def files_of(out: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in out.rglob("*.*") if file.name != "manifest.json"}


def test_kill_at_random_moments(tmp_path: Path) -> None:
    undisturbed, out = tmp_path / "a.index", tmp_path / "b.index"
    with start(undisturbed, "0") as process:
        pass
    assert process.returncode == 0
    kills = 0
    while not out.exists():
        with start(out, "0.05") as process:
            with suppress(subprocess.TimeoutExpired):
                process.wait(random.uniform(0, 0.1 * (kills + 1)))
            process.kill()
        kills += 1
    assert kills > 1
    assert verify(out) == []
    assert files_of(out) == files_of(undisturbed)
    assert keys_of(Index.open(out)) == keys_of(Index.open(undisturbed))


@pytest.mark.parametrize(
    "change, least", [("build", 60), ("add", 60), ("add_prefixed", 70), ("remove", 30), ("relocate", 40)]
)
def test_kill_before_every_file_operation(tmp_path: Path, change: str, least: int) -> None:
    with start(tmp_path, change) as process:
        operations, _ = process.communicate()
    assert process.returncode == 0
    assert int(operations) > least
