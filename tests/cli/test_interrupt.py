"""Ctrl-C, once and more often, wherever a command is: quiet, with exit code 130."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# A command that says when it is in the middle of its work and then takes long, here or in what comes after.
SLOW = """
import sys, time
import retrieval.upkeep.embed
from cli.main import main
from retrieval.encoding.encoder import Encoder
embed = Encoder.embed
def slowly(*arguments):
    try:
        print("working", flush=True)
        time.sleep(60)
    finally:
        if {stubborn}:
            print("cleaning up", flush=True)
            time.sleep(60)
    return embed(*arguments)
Encoder.embed = slowly
sys.argv[0] = "matvit"
main()
"""


def start(stubborn: bool, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SLOW.format(stubborn=stubborn), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdout is not None
    while (said := process.stdout.readline()) != f"{line}\n":
        assert said, process.communicate()


@pytest.mark.parametrize("workers, often", [(0, 1), (2, 3)])
def test_a_build_ends_quietly(
    corpus: Path, checkpoint: Path, tmp_path: Path, workers: int, often: int
) -> None:
    out = tmp_path / "i"
    build = ["index", "build", corpus, "-m", checkpoint, "-o", out, "--workers", workers]
    process = start(often > 1, *build)
    wait_for(process, "working")
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to its workers, too
    if often > 1:
        wait_for(process, "cleaning up")
    for _ in range(1, often):
        os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert "Exception" not in err
    assert (often > 1) or err.splitlines()[-1] == "matvit: interrupted"
    assert not out.exists()


def test_what_waits_for_names_ends_quietly(index: Path, corpus: Path) -> None:
    process = start(False, "query", "-", "-i", index)
    assert process.stdin is not None
    process.stdin.write(f"{next(corpus.rglob('*.png'))}\n")
    process.stdin.flush()
    wait_for(process, "working")
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert (process.returncode, err.splitlines()[-1]) == (130, "matvit: interrupted")
    assert "Traceback" not in err
