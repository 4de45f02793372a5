"""Calls timed one by one, while other work on the same machine is watched.

`torch.utils.benchmark.Timer` would make two calls more before each that it times in turn with others, set
torch's threads itself, and know of other work only that times vary.
"""

import time
from collections.abc import Callable, Sequence
from typing import Self

import numpy as np
import psutil
import torch

from matvit.submodels.profile import BUSY, Timing

LOOK_SECONDS = 0.3
"""Other work is watched for at least so long: the system counts it in hundredths of a second."""


class Stopwatch:
    """Times calls while a block runs; when it has ended, it knows what else the machine did meanwhile.

    Args:
        device: Where the calls run.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.other_work = 0.0

    def __enter__(self) -> Self:
        self._entered, self._before = time.monotonic(), _processor_seconds()
        return self

    def __exit__(self, *_: object) -> None:
        time.sleep(max(0.0, self._entered + LOOK_SECONDS - time.monotonic()))
        there_were, others_took = (
            now - then for now, then in zip(_processor_seconds(), self._before, strict=True)
        )
        # Rounding may make others take less than nothing. Where the system tells nothing, both are 0.
        self.other_work = min(1.0, max(0.0, others_took / max(there_were, 1e-9)))

    def seconds(self, call: Callable[[], object]) -> float:
        """How long one call takes, until its work is done."""
        self._wait()
        start = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - start

    def timing(self, seconds: Sequence[float]) -> Timing:
        """What calls took that were timed in the block, which has ended."""
        low, middle, high = (1000 * np.percentile(seconds, (25, 50, 75))).tolist()
        return Timing(ms=middle, iqr_ms=high - low, other_work=self.other_work, at=time.time())

    def _wait(self) -> None:
        if self._device.type != "cpu":  # An accelerator's call returns before its work is done.
            torch.accelerator.synchronize(self._device)


def is_free() -> bool:
    """Whether this machine does no other work worth speaking of, as a short look tells."""
    with Stopwatch(torch.device("cpu")) as watch:
        pass
    return watch.other_work <= BUSY


def _processor_seconds() -> tuple[float, float]:
    """Seconds of all processors since they started, and how many of them other processes took.

    What a virtual machine's host withholds counts as taken.
    """
    all_of_it, own = psutil.cpu_times(), psutil.Process().cpu_times()
    spent = all_of_it._asdict()
    # Linux counts its guests' time as the user's, too.
    total = sum(spent.values()) - spent.get("guest", 0) - spent.get("guest_nice", 0)
    idle = spent["idle"] + spent.get("iowait", 0)
    return total, total - idle - own.user - own.system
