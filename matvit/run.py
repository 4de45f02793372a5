"""A run directory: what a training run keeps, and how it goes on after it was stopped.

    config.toml      the recipe, verbatim
    metrics.jsonl    a line every few steps and one an epoch
    checkpoint/      the model after the last epoch that was finished
    best/            the model of the best evaluation
    last/            state.safetensors and state.json: all that training needs to go on, and no one else

Each directory is replaced as a whole. ``last/`` says how long ``metrics.jsonl`` was when it was written, so
what a killed process logged after that is dropped and comes again.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matvit.atomic import replaced_directory, tidy
from matvit.errors import TrainingError

CONFIG, METRICS, CHECKPOINT, BEST, LAST = "config.toml", "metrics.jsonl", "checkpoint", "best", "last"
_STATE, _GROUP = "optimizer", "group"


@dataclass
class Progress:
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


class RunDirectory:
    """The files of one run; only the first process of a run writes them.

    Args:
        path: Where it is.
        recipe_file: The recipe, kept as ``config.toml``.
        resume: Go on with the run that is there, if one is.

    Raises:
        TrainingError: The directory is in use, or holds a run of another recipe.
    """

    def __init__(self, path: Path, recipe_file: Path, *, resume: bool) -> None:
        self.path = path
        self.resumes = resume and (path / CONFIG).is_file()
        if self.resumes:
            if (path / CONFIG).read_bytes() != recipe_file.read_bytes():
                raise TrainingError(
                    f"{path} is a run of another recipe: {path / CONFIG} differs from {recipe_file}"
                )
        elif path.is_dir() and any(path.iterdir()):
            raise TrainingError(f"{path} is not empty: choose a new run directory, or --resume the run there")

    def open(self) -> None:
        """Make the directory, or tidy up what a killed process left in it."""
        self.path.mkdir(parents=True, exist_ok=True)
        for name in (CHECKPOINT, BEST, LAST):
            tidy(self.path / name)

    def start(self, recipe_file: Path) -> None:
        """Keep the recipe, which makes this the directory of a run."""
        shutil.copyfile(recipe_file, self.path / CONFIG)

    def log(self, line: Mapping[str, Any], progress: Progress) -> None:
        """Append a line to the metrics."""
        with (self.path / METRICS).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
            progress.metrics_bytes = log.tell()

    def save(
        self, progress: Progress, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
    ) -> None:
        """Write ``last/``.

        Raises:
            TrainingError: The optimizer's state cannot be kept, or it does not fit on the disk.
        """
        tensors = {
            f"{name}/{key}": tensor.contiguous()
            for name, module in modules.items()
            for key, tensor in module.state_dict().items()
        }
        numbers: dict[str, float | int | bool | None] = {}
        for name, value in _entries(optimizer):
            if isinstance(value, Tensor):
                tensors[name] = value.contiguous()
            elif value is None or isinstance(value, float | int | bool):
                numbers[name] = value
            else:
                raise TrainingError(f"an optimizer that keeps a {type(value).__name__} cannot be resumed")
        state = json.dumps({"progress": asdict(progress), "numbers": numbers})
        try:
            with replaced_directory(self.path / LAST) as staging:
                save_file(tensors, staging / "state.safetensors")
                (staging / "state.json").write_text(state, encoding="utf-8")
        except SafetensorError as error:  # Its words for a full disk, for example.
            raise TrainingError(f"cannot write {self.path / LAST}: {error}") from error

    def restore(self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> Progress:
        """Put modules and optimizer back to where ``last/`` was written, or leave them if it never was.

        Raises:
            TrainingError: What is there is damaged, or belongs to another run.
        """
        if not (self.path / LAST).is_dir():
            return Progress()
        try:
            state = json.loads((self.path / LAST / "state.json").read_text(encoding="utf-8"))
            tensors = load_file(self.path / LAST / "state.safetensors")
            for name, module in modules.items():
                prefix = f"{name}/"
                module.load_state_dict(
                    {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
                )
            # Rates and decays are the recipe's, and the schedule's for each step.
            groups = optimizer.state_dict()["param_groups"]
            kept: dict[int, dict[str, Any]] = {}
            for where, value in (*tensors.items(), *state["numbers"].items()):
                if where.startswith((f"{_STATE}/", f"{_GROUP}/")):
                    kind, number, key = where.split("/", 2)
                    learnt = kept.setdefault(int(number), {}) if kind == _STATE else groups[int(number)]
                    learnt[key] = value
            optimizer.load_state_dict({"state": kept, "param_groups": groups})
            progress = Progress(**state["progress"])
            progress.sums = {name: (total, count) for name, (total, count) in progress.sums.items()}
        except (
            AttributeError,
            KeyError,
            OSError,
            RuntimeError,
            SafetensorError,
            TypeError,
            ValueError,
        ) as error:
            reason = next(iter(str(error).splitlines()), "") or type(error).__name__
            raise TrainingError(f"cannot resume from {self.path / LAST}: {reason}") from error
        return progress

    def cut_metrics(self, progress: Progress) -> None:
        """Drop the lines that were logged after ``last/`` was written."""
        if (self.path / METRICS).exists():
            os.truncate(self.path / METRICS, progress.metrics_bytes)


def _entries(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, Any]]:
    """What an optimizer learnt of each parameter, and the steps that some count for a whole group."""
    state = optimizer.state_dict()
    for parameter, learnt in state["state"].items():
        for key, value in learnt.items():
            yield f"{_STATE}/{parameter}/{key}", value
    for number, group in enumerate(state["param_groups"]):
        if "step" in group:
            yield f"{_GROUP}/{number}/step", group["step"]
