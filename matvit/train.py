"""The training loop: a recipe and labelled images in, a run directory with a checkpoint out."""

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import timm
import torch
from timm.data import create_loader, resolve_model_data_config
from timm.layers import to_2tuple
from timm.loss import LabelSmoothingCrossEntropy
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import random_seed
from torchvision import transforms

from matvit import checkpoint, recipe
from matvit.device import autocast
from matvit.elastic import MatViT
from matvit.errors import TrainingError
from matvit.objectives import JointTask
from matvit.recipe import Augment, Recipe
from matvit.vit import check_arguments, default_cfgs


class LabelledImages(Protocol):
    """Images and class numbers, in a fixed order.

    Attributes:
        class_to_idx: Class name -> number.
        transform: What an image goes through; the trainer sets it.
    """

    class_to_idx: Mapping[str, int]
    transform: Any

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> tuple[Any, int]: ...


Evaluate = Callable[[MatViT], Mapping[str, float]]
Report = Callable[[Mapping[str, Any]], None]


def _nothing(*_: object) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """What a caller may hang into a run.

    Args:
        evaluate: Measures of the model after each epoch, kept in ``metrics.jsonl``.
        on_step: Called after each step with the number of images in it.
        on_epoch: Called with each line of ``metrics.jsonl``.
    """

    evaluate: Evaluate | None = None
    on_step: Callable[[int], None] = _nothing
    on_epoch: Report = _nothing


def build(settings: Recipe, *, num_classes: int) -> MatViT:
    """The untrained model of a recipe.

    Raises:
        TrainingError: The architecture is no MatViT, or timm does not take the recipe's arguments.
    """
    if settings.architecture not in default_cfgs:
        raise TrainingError(f"{settings.architecture!r} is none of {', '.join(default_cfgs)}")
    random_seed(settings.seed)
    img_size = settings.model.get("img_size", 224)
    chans = settings.model.get("in_chans", 3)
    overlay = {"input_size": (chans, *to_2tuple(img_size)), "mean": (0.5,) * chans, "std": (0.5,) * chans}
    try:
        return timm.create_model(
            settings.architecture,
            num_classes=num_classes,
            pretrained_cfg_overlay={**overlay, **settings.preprocess},
            **check_arguments(settings.model),
        )
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        raise TrainingError(f"cannot build {settings.architecture} from the recipe: {error}") from error


def train(
    recipe_file: Path,
    images: LabelledImages,
    out: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    workers: int = 0,
    hooks: Hooks = Hooks(),
) -> MatViT:
    """Train a MatViT and keep it, with its measures, in a run directory.

    Args:
        recipe_file: See `matvit.recipe`.
        images: Labelled, of at least two classes.
        out: Run directory: ``config.toml``, ``metrics.jsonl`` and, after every epoch, ``checkpoint/``.
        device: Where to compute.
        dtype: Of matrix products; weights stay float32.
        workers: Processes that read and augment images.
        hooks: Evaluation and reports.

    Returns:
        The model that was saved: the averaged weights where the recipe keeps an average.

    Raises:
        TrainingError: `out` is in use, there are fewer images than a batch, or the loss is not finite.
        RecipeError: The recipe is wrong.
    """
    settings = recipe.read(recipe_file)
    class_to_idx = images.class_to_idx
    model = build(settings, num_classes=len(class_to_idx)).to(device)
    goal, optim = settings.objective, settings.optim
    try:
        loader = _loader(images, model, settings, workers)
        optimizer = create_optimizer_v2(
            model, opt=optim.optimizer, lr=optim.lr, weight_decay=optim.weight_decay
        )
    except (AssertionError, KeyError, ValueError) as error:
        raise TrainingError(f"timm cannot do what the recipe asks for: {error}") from error
    _start(out, recipe_file)

    criterion = LabelSmoothingCrossEntropy(goal.label_smoothing)
    task = JointTask(model, criterion, granularities=goal.granularities, device=device)
    scheduler, _ = create_scheduler_v2(
        optimizer,
        num_epochs=settings.epochs,
        warmup_epochs=optim.warmup_epochs,
        warmup_lr=optim.lr / 100,
        min_lr=optim.min_lr,
        step_on_epochs=False,
        updates_per_epoch=len(loader),
    )
    if optim.ema_decay:
        task.setup_ema(decay=optim.ema_decay, use_warmup=True)
    kept: MatViT = task.get_trainable_module(ema=True).module if task.has_ema() else model

    update = 0
    for epoch in range(1, settings.epochs + 1):
        started = time.perf_counter()
        sums: dict[str, torch.Tensor] = {}
        model.train()
        # Embeddings of an untrained teacher say nothing yet, and early alignment to them stalls learning.
        task.align = goal.align * (epoch - 1) / settings.epochs
        for batch, target in loader:
            with autocast(device, dtype):
                result = task(batch.to(device), target.to(device))
            if not torch.isfinite(result["loss"]):
                raise TrainingError(
                    f"the loss is not finite in epoch {epoch}; a lower learning rate may help"
                )
            optimizer.zero_grad()
            result["loss"].backward()
            if optim.clip_grad:
                torch.nn.utils.clip_grad_norm_(task.get_clip_parameters(), optim.clip_grad)
            optimizer.step()
            update += 1
            task.update_ema(step=update)
            scheduler.step_update(num_updates=update)
            for name in result.keys() - {"output"}:
                sums[name] = sums.get(name, 0) + result[name].detach()
            hooks.on_step(len(batch))
        seconds = time.perf_counter() - started
        kept.eval()
        line: dict[str, Any] = {
            "epoch": epoch,
            **{name: round(float(total) / len(loader), 5) for name, total in sorted(sums.items())},
            "lr": optimizer.param_groups[0]["lr"],
            "images_per_s": round(len(loader) * settings.batch_size / seconds, 1),
            "seconds": round(seconds, 2),
            **(hooks.evaluate(kept) if hooks.evaluate else {}),
        }
        checkpoint.save(kept, out / "checkpoint", classes=sorted(class_to_idx, key=class_to_idx.__getitem__))
        with (out / "metrics.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        hooks.on_epoch(line)
    return kept


def _loader(images: LabelledImages, model: MatViT, settings: Recipe, workers: int) -> Any:
    """timm's loader over shuffled, augmented batches of equal size."""
    if len(images.class_to_idx) < 2:
        raise TrainingError("training needs images of two classes at least, each in a subfolder of its own")
    if len(images) < settings.batch_size:
        raise TrainingError(f"{len(images)} images are fewer than one batch of {settings.batch_size}")
    augment = settings.augment
    data = resolve_model_data_config(model)
    loader = create_loader(
        images,
        input_size=data["input_size"],
        batch_size=settings.batch_size,
        is_training=True,
        train_crop_mode="rrc" if augment.crop < 1 else "rkrc",
        scale=(augment.crop, 1.0),
        # None is timm's 3/4 to 4/3 for crops.
        ratio=None if augment.crop < 1 else (1 - augment.stretch, 1 / (1 - augment.stretch)),
        hflip=augment.hflip,
        color_jitter=augment.color_jitter,
        auto_augment=augment.auto_augment or None,
        re_prob=augment.erase,
        interpolation=data["interpolation"],
        mean=data["mean"],
        std=data["std"],
        num_workers=workers,
        use_prefetcher=False,
        persistent_workers=workers > 0,
    )
    images.transform.transforms.insert(0, _affine(augment))
    return loader


def _affine(augment: Augment) -> transforms.RandomAffine:
    return transforms.RandomAffine(
        degrees=augment.degrees,
        translate=(augment.translate, augment.translate),
        scale=(1 - augment.zoom, 1 + augment.zoom),
        shear=augment.shear,
        interpolation=transforms.InterpolationMode.BILINEAR,
    )


def _start(out: Path, recipe_file: Path) -> None:
    """Make the run directory; a run never writes into another one's."""
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise TrainingError(f"{out} is not empty: choose a new run directory")
    shutil.copyfile(recipe_file, out / "config.toml")
