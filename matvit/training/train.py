"""The training loop: a recipe and labelled images in, a run directory with a checkpoint out.

Every random draw depends on the seed and the step, or on the seed, the epoch and the image, and on nothing
else: a run that was killed and resumed ends as the undisturbed one does.
"""

import math
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from matvit.errors import TrainingError
from matvit.progress import Progress, silent
from matvit.runtime.device import autocast
from matvit.runtime.processes import ALONE, Processes
from matvit.training import recipe
from matvit.training.augment import Augmented, LabelledImages, mixing, seed_everything, with_one_line_errors
from matvit.training.from_recipe import build, initialise, objective, transform
from matvit.training.image_order import MicroBatches, Order
from matvit.training.optimisation import optimizer, scheduler
from matvit.training.recipe import Recipe
from matvit.training.run_directory import BEST, CHECKPOINT, Position, RunDirectory
from matvit.vision.elastic_vit import MatViT
from matvit.weights import checkpoint

Evaluate = Callable[[MatViT], Mapping[str, float]]


_CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a caller may hang into a run; only the first process calls them.

    Args:
        evaluate: Measures of the model, kept in ``metrics.jsonl``; the model with the highest mean of them is
            kept as ``best/``.
        progress: Told of the images trained on, first of all those of a run that is resumed.
        write: Called with each line of ``metrics.jsonl``.
    """

    evaluate: Evaluate | None = None
    progress: Progress = silent
    write: Callable[[Mapping[str, Any]], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a run is carried out, which changes what it learns by rounding alone.

    Args:
        device: Where to compute.
        dtype: Of matrix products; weights stay float32.
        workers: Processes that read and augment images.
        accumulate: Forward passes that one step is divided into, to save memory.
        grad_checkpointing: Compute activations again in the backward pass, to save more of it.
        compile: Compile the model with `torch.compile`.
        save_minutes: Time from one saved state to the next, beside the one after every epoch.
        log_every: Steps from one line of ``metrics.jsonl`` to the next.
        processes: Those that share the run.
    """

    device: torch.device = _CPU
    dtype: torch.dtype = torch.float32
    workers: int = 0
    accumulate: int = 1
    grad_checkpointing: bool = False
    compile: bool = False
    save_minutes: float = 10.0
    log_every: int = 50
    processes: Processes = ALONE


def train(
    recipe_file: Path,
    images: LabelledImages,
    out: Path,
    *,
    execution: Execution = Execution(),
    hooks: Hooks = Hooks(),
    init: str | Path | None = None,
    resume: bool = False,
) -> MatViT:
    """Train a MatViT and keep it, with its measures, in a run directory.

    Args:
        recipe_file: See `matvit.training.recipe`.
        images: Labelled, of at least two classes.
        out: Run directory: see `matvit.training.run_directory`.
        execution: Device, memory and processes.
        hooks: Evaluation and reports.
        init: Weights to start from, as `matvit.load` takes them.
        resume: Go on with the run in `out`, or start it if there is none.

    Returns:
        The model that was saved: the averaged weights where the recipe keeps an average.

    Raises:
        BusyError: Another process trains in `out`.
        TrainingError: `out` holds something else, there are fewer images than a batch, or the loss is not
            finite.
        RecipeError: The recipe is wrong.
    """
    settings = recipe.read(recipe_file)
    run = RunDirectory(out, recipe_file, resume=resume)
    if len(images.class_to_idx) < 2:
        raise TrainingError("training needs images of two classes at least, each in a subfolder of its own")
    order = Order(tuple(images.runs), settings.batch_size, settings.seed)
    trainer = _Trainer(settings, images, order, run, execution, hooks)
    with ExitStack() as held:
        execution.processes.first(lambda: held.enter_context(run.writing()), execution.device)
        run.check()
        position = run.restore(trainer.modules, trainer.optimizer) if run.resumes else Position()
        if init is not None and not position.step:
            initialise(trainer.model, init)
        if position.images not in ("", images.fingerprint):
            raise TrainingError(f"the training images are not those that {out} was started with")
        position.images = images.fingerprint
        execution.processes.wait()
        execution.processes.first(lambda: run.start(position), execution.device)
        return trainer.run_from(position)


class _Trainer:
    """One run in one process."""

    def __init__(
        self,
        settings: Recipe,
        images: LabelledImages,
        order: Order,
        run: RunDirectory,
        execution: Execution,
        hooks: Hooks,
    ) -> None:
        self.settings, self.images, self.order = settings, images, order
        self.run, self.execution, self.hooks = run, execution, hooks
        self.steps = settings.epochs * order.steps_per_epoch
        augment, label_smoothing = settings.augment, settings.objective.label_smoothing
        self.model = build(settings, num_classes=len(images.class_to_idx)).to(execution.device)
        if execution.grad_checkpointing:
            self.model.set_grad_checkpointing()
        self.mixing = mixing(augment, num_classes=len(images.class_to_idx), label_smoothing=label_smoothing)
        if self.mixing and settings.batch_size // (execution.processes.world_size * execution.accumulate) % 2:
            raise TrainingError("mixup and cutmix need an even number of images in every part of a batch")
        self.transform = transform(settings, self.model)
        self.optimizer = optimizer(settings, self.model)
        self.scheduler = scheduler(settings, self.optimizer, steps_per_epoch=order.steps_per_epoch)
        self.task = objective(settings, self.model, device=execution.device, mixes=self.mixing is not None)
        if settings.optim.ema_decay:
            self.task.setup_ema(decay=settings.optim.ema_decay, use_warmup=True)
        self.kept: MatViT = (
            self.task.get_trainable_module(ema=True).module if self.task.has_ema() else self.model
        )
        self.modules = {"model": self.model} | ({"average": self.kept} if self.task.has_ema() else {})

    def run_from(self, position: Position) -> MatViT:
        """Take every step that is left."""
        if self.execution.compile:
            self.task.compile()
        if self.execution.processes.world_size > 1:
            gpu = [self.execution.device.index] if self.execution.device.type == "cuda" else None
            self.task.prepare_distributed(device_ids=gpu)
        batches = self._batches(position.step)
        if position.step:
            self._tell(position)
            self.scheduler.step_update(num_updates=position.step)
        saved = started = time.monotonic()
        self.model.train()
        while position.step < self.steps:
            losses = self._step(position.step, batches)
            position.add(losses)
            position.step += 1
            self._tell(position)
            now = time.monotonic()
            seconds, started = now - started, now
            position.seconds += seconds
            if position.step % self.execution.log_every == 0:
                self._log({"step": position.step, **losses, **self._state(seconds)}, position)
            if position.step % self.order.steps_per_epoch == 0:
                self._end_epoch(position)
                saved = started = time.monotonic()
                self.model.train()
            elif now - saved >= 60 * self.execution.save_minutes:
                self._save(position)
                saved = time.monotonic()
        return self.kept.eval()

    def _tell(self, position: Position) -> None:
        size = self.settings.batch_size
        self.hooks.progress("images trained on", position.step * size, self.steps * size)

    def _batches(self, step: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The forward passes of all steps that are left."""
        execution = self.execution
        places = MicroBatches(
            self.order,
            range(step, self.steps),
            rank=execution.processes.rank,
            world_size=execution.processes.world_size,
            accumulate=execution.accumulate,
        )
        loader = DataLoader(
            Augmented(self.images, self.transform, self.settings.seed),
            batch_sampler=places,
            num_workers=execution.workers,
            pin_memory=execution.device.type == "cuda",
        )
        return with_one_line_errors(loader)

    def _step(self, step: int, batches: Iterator[tuple[Tensor, Tensor]]) -> dict[str, float]:
        """One optimizer step; the losses of it, as means over all processes."""
        execution, optim = self.execution, self.settings.optim
        losses: dict[str, Tensor] = {}
        self.optimizer.zero_grad()
        for part in range(execution.accumulate):
            images, target = (t.to(execution.device, non_blocking=True) for t in next(batches))
            seed_everything(self.settings.seed, "step", step, part, execution.processes.rank)
            if self.mixing:
                images, target = self.mixing(images, target)
            with nullcontext() if part == execution.accumulate - 1 else self.task.no_sync():
                with autocast(execution.device, execution.dtype):
                    result = self.task(images, target, step=step, progress=step / self.steps)
                (result["loss"] / execution.accumulate).backward()
            for name in sorted(result.keys() - {"output"}):
                losses[name] = losses.get(name, 0) + result[name].detach().float() / execution.accumulate
        means = execution.processes.mean(torch.stack(list(losses.values())).tolist(), execution.device)
        measures = dict(zip(losses, means, strict=True))
        self._refuse("loss", measures["loss"], step)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip_grad or math.inf)
        self._refuse("gradient", norm.item(), step)
        self.optimizer.step()
        self.task.update_ema(step=step + 1)
        self.scheduler.step_update(num_updates=step + 1)
        return measures

    def _refuse(self, what: str, value: float, step: int) -> None:
        """Stop where a loss or a gradient is not finite, before any weight is touched by it."""
        if not math.isfinite(value):
            epoch = 1 + step // self.order.steps_per_epoch
            raise TrainingError(
                f"the {what} is not finite at step {step + 1}, in epoch {epoch}; a lower learning rate may "
                f"help. {self.run.path} keeps the last good state"
            )

    def _end_epoch(self, position: Position) -> None:
        """Measure and keep the model; the other processes wait."""
        if self.execution.processes.is_first:
            self._keep(position)
        self.execution.processes.wait()

    def _state(self, seconds: float) -> dict[str, float]:
        """What else a line of metrics tells of the steps behind it."""
        return {
            "lr": max(group["lr"] for group in self.optimizer.param_groups),
            "seconds": round(seconds, 3),
            "peak_memory_mb": _peak_memory_bytes(self.execution.device) // 10**6,
        }

    def _log(self, line: Mapping[str, Any], position: Position) -> None:
        if self.execution.processes.is_first:
            self.run.log(line, position)
            if self.hooks.write:
                self.hooks.write(line)

    def _save(self, position: Position) -> None:
        if self.execution.processes.is_first:
            self._check_weights(position)
            self.run.save(position, self.modules, self.optimizer)

    def _check_weights(self, position: Position) -> None:
        """Refuse to keep what is no good; a step may have spoiled it without a trace in its own loss."""
        sums = [tensor.sum() for m in self.modules.values() for tensor in m.state_dict().values()]
        self._refuse("model", torch.stack(sums).sum().item(), position.step - 1)

    def _keep(self, position: Position) -> None:
        self._check_weights(position)
        settings, order = self.settings, self.order
        epoch = position.step // order.steps_per_epoch
        seconds = position.seconds
        line: dict[str, Any] = {
            "epoch": epoch,
            "step": position.step,
            **{name: round(mean, 5) for name, mean in position.close_epoch().items()},
            "images_per_s": round(order.steps_per_epoch * settings.batch_size / seconds, 1),
            **self._state(seconds),
        }
        self.kept.eval()
        numbers = self.images.class_to_idx
        notes = {"classes": sorted(numbers, key=numbers.__getitem__)}
        if self.hooks.evaluate and (epoch % settings.evaluation.every == 0 or epoch == settings.epochs):
            measures = self.hooks.evaluate(self.kept)
            line |= measures
            mean = sum(measures.values()) / max(1, len(measures))
            if mean > (-math.inf if position.best is None else position.best):
                position.best = mean
                checkpoint.save(self.kept, self.run.path / BEST, **notes)
        checkpoint.save(self.kept, self.run.path / CHECKPOINT, **notes)
        self._log(line, position)
        self._save(position)


def _peak_memory_bytes(device: torch.device) -> int:
    """The most memory that was in use so far: the GPU's, or else this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak
