"""How long calls take, and what others do meanwhile: on this very machine."""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import torch

from matvit.runtime.stopwatch import Stopwatch, is_free

CPU = torch.device("cpu")
SPIN = "import time\nend = time.monotonic() + 60\nwhile time.monotonic() < end: pass"


@pytest.fixture
def neighbours() -> Iterator[None]:
    """Processes that would take every processor."""
    if sum(psutil.cpu_times()) == 0:
        pytest.skip("this system does not tell what its processors do")
    processes = [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(os.cpu_count() or 1)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def test_a_call_is_timed_until_it_ends() -> None:
    with Stopwatch(CPU) as watch:
        assert watch.seconds(lambda: time.sleep(0.05)) >= 0.05


def test_a_timing_is_the_middle_half_of_the_calls(machine: object) -> None:
    before = time.time()
    with Stopwatch(CPU) as watch:
        pass
    timing = watch.timing([0.4, 0.1, 0.2, 0.5, 0.3])
    assert (timing.ms, timing.iqr_ms, timing.other_work) == pytest.approx((300, 200, 0))
    assert before <= timing.at <= time.time()
    assert watch.timing([0.1]).iqr_ms == 0


def test_busy_neighbours_are_seen(neighbours: None) -> None:
    with Stopwatch(CPU) as watch:
        time.sleep(1)
    assert watch.other_work > 0.5
    assert not is_free()


def test_own_work_is_not_other_work() -> None:
    cores, data = os.cpu_count() or 1, bytes(2**20)
    end = time.monotonic() + 1

    def work() -> None:
        while time.monotonic() < end:
            hashlib.sha256(data)  # Which lets other threads run meanwhile.

    before = time.process_time()
    with Stopwatch(CPU) as watch, ThreadPoolExecutor(cores) as pool:
        for each in [pool.submit(work) for _ in range(cores)]:
            each.result()
    own = (time.process_time() - before) / cores
    assert watch.other_work <= 1 - own + 0.15


def test_a_short_block_is_watched_for_long_enough() -> None:
    start = time.monotonic()
    is_free()
    assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize("seen", [(0.0, 0.0), (1.0, -0.02), (1.0, 1.01)])
def test_other_work_is_a_share_whatever_the_system_rounds(
    monkeypatch: pytest.MonkeyPatch, machine: object, seen: tuple[float, float]
) -> None:
    looks = iter([(5.0, 3.0), (5.0 + seen[0], 3.0 + seen[1])])
    monkeypatch.setattr("matvit.runtime.stopwatch._processor_seconds", lambda: next(looks))
    with Stopwatch(CPU) as watch:
        pass
    assert 0 <= watch.other_work <= 1
