"""Which images a training step sees: a function of the seed and the step alone.

So a run that is resumed needs no memory of what it drew: it asks for the steps that are left.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from matvit.errors import TrainingError

SHARDS_MIXED = 16
"""Shards whose images are shuffled together: more mix better and are read less in order."""

Place = tuple[int, int]
"""Epoch, from 0, and number of an image."""


@dataclass(frozen=True)
class Order:
    """The order of images in every epoch, without the few that do not fill a last step.

    Args:
        runs: Images that lie together, in the order of their numbers: a shard's, or simply all of them.
            Runs are shuffled as wholes, then the images of a few neighbouring runs among each other.
        batch_size: Images a step.
        seed: Of the shuffling.

    Raises:
        TrainingError: There are fewer images than a step needs.
    """

    runs: tuple[int, ...]
    batch_size: int
    seed: int

    def __post_init__(self) -> None:
        if self.images < self.batch_size:
            raise TrainingError(f"{self.images} images are fewer than one batch of {self.batch_size}")

    @property
    def images(self) -> int:
        """How many there are in all."""
        return sum(self.runs)

    @property
    def steps_per_epoch(self) -> int:
        """Full steps in one pass over the images."""
        return self.images // self.batch_size

    def step(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """The epoch that a step, from 0, belongs to, and the numbers of its images."""
        epoch, step_of_epoch = divmod(step, self.steps_per_epoch)
        start = step_of_epoch * self.batch_size
        return epoch, _permutation(self, epoch)[start : start + self.batch_size]


@lru_cache(maxsize=2)
def _permutation(order: Order, epoch: int) -> NDArray[np.int64]:
    generator = np.random.default_rng((order.seed, epoch))
    starts = np.cumsum((0, *order.runs))
    runs = generator.permutation(len(order.runs))
    mixed = []
    for first in range(0, len(runs), SHARDS_MIXED):
        some = [np.arange(starts[run], starts[run + 1]) for run in runs[first : first + SHARDS_MIXED]]
        mixed.append(generator.permutation(np.concatenate(some)))
    return np.concatenate(mixed)


class MicroBatches(Sampler[list[Place]]):
    """The images of each forward pass of one process, from one step of a run to another.

    Args:
        order: Of the images.
        steps: The steps to take.
        rank: Number of this process.
        world_size: Processes that share a step.
        accumulate: Forward passes a step in each of them.

    Raises:
        TrainingError: A step does not divide into so many.
    """

    def __init__(
        self, order: Order, steps: Sequence[int], *, rank: int = 0, world_size: int = 1, accumulate: int = 1
    ) -> None:
        if order.batch_size % (world_size * accumulate):
            raise TrainingError(
                f"a batch of {order.batch_size} does not divide into {world_size} processes "
                f"x {accumulate} parts"
            )
        self._order, self._steps = order, steps
        self._rank, self._world_size, self._accumulate = rank, world_size, accumulate

    def __len__(self) -> int:
        return len(self._steps) * self._accumulate

    def __iter__(self) -> Iterator[list[Place]]:
        size = self._order.batch_size // (self._world_size * self._accumulate)
        for step in self._steps:
            epoch, images = self._order.step(step)
            for part in range(self._accumulate):
                start = (part * self._world_size + self._rank) * size
                yield [(epoch, int(image)) for image in images[start : start + size]]
