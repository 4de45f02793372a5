"""The processes that share a training run: one, or as many as `torchrun` started."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from matvit.errors import TrainingError
from matvit.runtime.device import pick_device

_PATIENCE = timedelta(hours=6)
"""For the first process, which evaluates while the others wait."""


@dataclass(frozen=True)
class Processes:
    """This process among those of a run.

    Args:
        rank: Its number.
        world_size: How many there are.
    """

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the one that evaluates, writes and reports."""
        return self.rank == 0

    def mean(self, values: Sequence[float], device: torch.device) -> list[float]:
        """The mean over all processes of each of several numbers, which all of them must give."""
        if self.world_size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64)
        total = total.to(device)
        dist.all_reduce(total)
        return (total / self.world_size).tolist()

    def first(self, work: Callable[[], object], device: torch.device) -> None:
        """Let the first process do something, which the others wait for; what stops it there stops them, too.

        Raises:
            Exception: What `work` raises, in the first process.
            TrainingError: In the others.
        """
        stopped: Exception | None = None
        if self.is_first:
            try:
                work()
            except Exception as error:
                stopped = error
        [share] = self.mean([float(stopped is not None)], device)
        if stopped:
            raise stopped
        if share:
            raise TrainingError("the first process of this run cannot begin, and says why")

    def wait(self) -> None:
        """Until all have come here."""
        if self.world_size > 1:
            dist.barrier()


ALONE = Processes()


@contextmanager
def joined(device: str) -> Iterator[tuple[Processes, torch.device]]:
    """Inside, this process is among the others that `torchrun` started, if it did, on a device of its own.

    Args:
        device: As for `matvit.runtime.device.pick_device`; under `torchrun`, every process takes the GPU of
            its local rank.

    Raises:
        TrainingError: The others cannot be reached.
        DeviceError: There is no such device.
    """
    torch_device = pick_device(device)
    if not dist.is_torchelastic_launched():
        yield ALONE, torch_device
        return
    if torch_device.type == "cuda":
        torch_device = pick_device(f"cuda:{os.environ['LOCAL_RANK']}")
        torch.cuda.set_device(torch_device)
    try:
        dist.init_process_group("nccl" if torch_device.type == "cuda" else "gloo", timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise TrainingError(f"the processes of this run cannot reach each other: {error}") from error
    try:
        yield Processes(dist.get_rank(), dist.get_world_size()), torch_device
    finally:
        dist.destroy_process_group()
