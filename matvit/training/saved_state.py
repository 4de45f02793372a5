"""What training needs to go on after it was stopped: a directory that is replaced as a whole.

state.safetensors    tensors of modules, and those of the optimizer
state.json           its other numbers, and how far training is
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from matvit.errors import TrainingError
from matvit.files.atomic import whole_directory

_STATE, _GROUP = "optimizer", "group"
_TENSORS, _NUMBERS = "state.safetensors", "state.json"
_Progress = TypeVar("_Progress")


def write(
    directory: Path, progress: Mapping[str, Any], modules: Mapping[str, nn.Module], optimizer: Optimizer
) -> None:
    """Keep modules, optimizer and progress, which JSON must be able to hold.

    Raises:
        TrainingError: The optimizer's state cannot be kept, or it does not fit on the disk.
        BusyError: Another process is writing it.
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
    state = json.dumps({"progress": progress, "numbers": numbers})
    try:
        with whole_directory(directory) as staging:
            save_file(tensors, staging / _TENSORS)
            (staging / _NUMBERS).write_text(state, encoding="utf-8")
    except SafetensorError as error:  # Its words for a full disk, for example.
        raise TrainingError(f"cannot write {directory}: {error}") from error


def read(
    directory: Path,
    progress_of: Callable[[Mapping[str, Any]], _Progress],
    modules: Mapping[str, nn.Module],
    optimizer: Optimizer,
) -> _Progress:
    """Put modules and optimizer back to where `write` found them.

    Args:
        directory: What was written.
        progress_of: Makes what is returned of the progress that was kept.
        modules: Of the names and shapes they had.
        optimizer: Of the same kind, over the same parameters.

    Raises:
        TrainingError: What is there is damaged, or belongs to other modules.
    """
    with _whole(directory):
        state = _state(directory)
        tensors = load_file(directory / _TENSORS)
        for name, module in modules.items():
            prefix = f"{name}/"
            module.load_state_dict(
                {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
            )
        # Rates and decays are the caller's, and the schedule's for each step.
        groups = optimizer.state_dict()["param_groups"]
        kept: dict[int, dict[str, Any]] = {}
        for where, value in (*tensors.items(), *state["numbers"].items()):
            if where.startswith((f"{_STATE}/", f"{_GROUP}/")):
                kind, number, key = where.split("/", 2)
                learnt = kept.setdefault(int(number), {}) if kind == _STATE else groups[int(number)]
                learnt[key] = value
        optimizer.load_state_dict({"state": kept, "param_groups": groups})
        return progress_of(state["progress"])


def is_kept(directory: Path) -> bool:
    """Whether there is something to read; a mere part of it was half removed, for none is half written."""
    if not directory.is_dir():
        return directory.exists()  # A file that lies there can be neither read nor replaced.
    return not {file.name for file in directory.iterdir()} < {_TENSORS, _NUMBERS}


def progress_in(directory: Path) -> Mapping[str, Any]:
    """The progress that was kept; empty where nothing was.

    Raises:
        TrainingError: What is there is damaged.
    """
    if not directory.exists():
        return {}
    with _whole(directory):
        return dict(_state(directory)["progress"])


def _state(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / _NUMBERS).read_text(encoding="utf-8"))
    return found


@contextmanager
def _whole(directory: Path) -> Iterator[None]:
    """Say what is damaged in a word of our own."""
    try:
        yield
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
        raise TrainingError(f"cannot resume from {directory}: {reason}") from error


def _entries(optimizer: Optimizer) -> Iterator[tuple[str, Any]]:
    """What an optimizer learnt of each parameter, and the steps that some count for a whole group."""
    state = optimizer.state_dict()
    for parameter, learnt in state["state"].items():
        for key, value in learnt.items():
            yield f"{_STATE}/{parameter}/{key}", value
    for number, group in enumerate(state["param_groups"]):
        if "step" in group:
            yield f"{_GROUP}/{number}/step", group["step"]
