"""Nested training from a recipe, with retrieval accuracy measured as it goes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matvit.progress import Progress, silent
from matvit.runtime.device import pick_device, pick_dtype
from matvit.training import recipe as recipes
from matvit.training.train import Execution, Hooks
from matvit.training.train import train as train_recipe
from matvit.vision.elastic_vit import MatViT
from retrieval.learning.tensorboard import scalars
from retrieval.measuring.during_training import accuracy_evaluation, open_data


def train(
    recipe: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    execution: Execution | None = None,
    init: str | Path | None = None,
    resume: bool = False,
    tensorboard: bool = False,
    write: Callable[[Mapping[str, Any]], None] | None = None,
    progress: Progress = silent,
) -> MatViT:
    """Train a MatViT: see `matvit.training.train.train`, which raises alike.

    Args:
        recipe: A file, or the name of one of the package.
        data: As in `retrieval.measuring.during_training.open_data`, which raises alike. Of images held out,
            top-1 and adaptive 1-NN accuracy are measured.
        out: The run directory.
        execution: Device, memory and processes; None is the device and number format that `auto` means here.
        init: Weights to start from.
        resume: Go on with the run in `out`, or start it if there is none.
        tensorboard: Also write metrics for TensorBoard, into ``out/tensorboard``.
        write: Called with each line of metrics, by the first process.
        progress: Told of the images trained on.

    Returns:
        The model that was saved.

    Raises:
        MissingExtraError: TensorBoard is asked for and not installed.
    """
    file, out = recipes.find(str(recipe)), Path(out)
    settings = recipes.read(file)
    if execution is None:
        device = pick_device("auto")
        execution = Execution(device=device, dtype=pick_dtype("auto", device, training=True))
    evaluate, writes = None, [write] if write else []
    if tensorboard and execution.processes.is_first:
        writes.append(scalars(out / "tensorboard"))
    images, held_out = open_data(str(data), settings)
    if held_out and execution.processes.is_first:
        evaluate = accuracy_evaluation(
            images,
            held_out,
            settings,
            device=execution.device,
            dtype=execution.dtype,
            workers=execution.workers,
        )

    def write_all(line: Mapping[str, Any]) -> None:
        for each in writes:
            each(line)

    hooks = Hooks(evaluate=evaluate, progress=progress, write=write_all)
    return train_recipe(file, images, out, execution=execution, hooks=hooks, init=init, resume=resume)
