"""A run directory: what a training run keeps, and how it goes on after it was stopped.

    config.toml      the recipe, verbatim; written once
    metrics.jsonl    a line every few steps and one an epoch
    checkpoint/      the model after the last epoch that was finished
    best/            the model of the best evaluation
    last/            all that training needs to go on, and no one else: see `matvit.training.saved_state`

One process writes it at a time, which holds the lock ``.matvit-lock`` in it. Each directory is replaced as a
whole. ``last/`` says how long ``metrics.jsonl`` was when it was written, so what a killed process logged
after it is dropped and comes again.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from matvit.errors import TrainingError
from matvit.files.atomic import NEW, tidy, whole_file
from matvit.files.full_disk import naming
from matvit.files.lock import INSIDE, exclusive_inside
from matvit.training import saved_state as state

CONFIG, METRICS, CHECKPOINT, BEST, LAST = "config.toml", "metrics.jsonl", "checkpoint", "best", "last"
_BEFORE_CONFIG = {INSIDE, f"{INSIDE}-{CONFIG}", f"{NEW}{CONFIG}"}
"""What a run leaves that was killed before it was one."""


@dataclass
class Position:
    """Where a run is.

    Args:
        step: Optimizer steps taken.
        sums: For each measure of the epoch under way, its total and the steps that gave it.
        seconds: Spent on the epoch under way.
        best: The best mean of an evaluation's measures so far.
        metrics_bytes: Length of ``metrics.jsonl``.
        images: Fingerprint of the training images.
    """

    step: int = 0
    sums: dict[str, tuple[float, int]] = field(default_factory=dict)
    seconds: float = 0.0
    best: float | None = None
    metrics_bytes: int = 0
    images: str = ""

    def add(self, measures: Mapping[str, float]) -> None:
        """Count the measures of one step."""
        for name, value in measures.items():
            total, count = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, count + 1)

    def close_epoch(self) -> dict[str, float]:
        """The mean of every measure since the last call."""
        means = {name: total / count for name, (total, count) in sorted(self.sums.items())}
        self.sums, self.seconds = {}, 0.0
        return means

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> "Position":
        """From the values of all fields, as JSON keeps them."""
        position = cls(**fields)
        position.sums = {name: (total, count) for name, (total, count) in position.sums.items()}
        return position


class RunDirectory:
    """The files of one run; only the first process of a run writes them.

    Args:
        path: Where it is.
        recipe_file: The recipe, kept as ``config.toml``.
        resume: Go on with the run that is there, if one is.

    Raises:
        TrainingError: The directory holds something else, or a run of another recipe.
    """

    def __init__(self, path: Path, recipe_file: Path, *, resume: bool) -> None:
        self.path, self.resumes = path, False
        self._recipe_file, self._resume = recipe_file, resume
        self.check()

    def check(self) -> None:
        """See whether there is a run to go on with, or a place for a new one.

        Raises:
            TrainingError: As the class.
        """
        config = self.path / CONFIG
        self.resumes = self._resume and config.is_file()
        if self.resumes:
            if config.read_bytes() != self._recipe_file.read_bytes():
                raise TrainingError(
                    f"{self.path} is a run of another recipe: {config} differs from {self._recipe_file}"
                )
        elif self.path.is_dir() and {file.name for file in self.path.iterdir()} - _BEFORE_CONFIG:
            raise TrainingError(
                f"{self.path} is not empty: choose a new run directory, or --resume the run there"
            )

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Inside, no other process writes here; what a killed one left is tidied up.

        Raises:
            BusyError: Another process is writing here.
            TrainingError: As the class: what was looked at before the lock was held may be over.
        """
        with exclusive_inside(self.path):
            self.check()
            for name in (CONFIG, CHECKPOINT, BEST, LAST) if self.resumes else ():
                tidy(self.path / name)
            yield

    def start(self, position: Position) -> None:
        """Go on from `position`: what was logged after it is dropped, for it comes again.

        A new run keeps its recipe, which makes this the directory of a run and is never written again.
        """
        if not self.resumes:
            with whole_file(self.path / CONFIG) as new:
                new.write_bytes(self._recipe_file.read_bytes())
        if (metrics := self.path / METRICS).exists():
            # Shorter than noted where its end was lost in a crash, perhaps within a line: whole lines stay.
            noted = metrics.read_bytes()[: position.metrics_bytes]
            position.metrics_bytes = noted.rfind(b"\n") + 1
            os.truncate(metrics, position.metrics_bytes)

    def log(self, line: Mapping[str, Any], position: Position) -> None:
        """Append a line to the metrics."""
        with naming(self.path / METRICS), (self.path / METRICS).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
            position.metrics_bytes = log.tell()

    def save(
        self, position: Position, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
    ) -> None:
        """Write ``last/``.

        Raises:
            TrainingError: The optimizer's state cannot be kept, or it does not fit on the disk.
        """
        state.write(self.path / LAST, asdict(position), modules, optimizer)

    def restore(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> Position:
        """Put modules and optimizer back to where ``last/`` was written, or leave them if it never was.

        Raises:
            TrainingError: What is there is damaged, or belongs to another run.
        """
        if not (self.path / LAST).exists():
            return Position()
        return state.read(self.path / LAST, Position.of, modules, optimizer)
