"""What a recipe makes before any training: the model, the weights it starts from, the objective."""

from pathlib import Path

import timm
import torch
from timm.layers import to_2tuple
from timm.models.vision_transformer import checkpoint_filter_fn

from matvit import choice, hub
from matvit.augment import seed_everything
from matvit.elastic import MatViT
from matvit.errors import NONSENSE, SubmodelError, TrainingError
from matvit.objectives import Distillation, NestedTask, criterion_for
from matvit.recipe import Recipe
from matvit.submodel import SubmodelSpace
from matvit.vit import check_arguments, default_cfgs


def build(settings: Recipe, *, num_classes: int) -> MatViT:
    """The untrained model of a recipe.

    Raises:
        TrainingError: The architecture is no MatViT, or timm does not take the recipe's arguments.
    """
    if settings.architecture not in default_cfgs:
        raise TrainingError(f"{settings.architecture!r} is none of {', '.join(default_cfgs)}")
    seed_everything(settings.seed)
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
    except NONSENSE as error:
        reason = str(error) or repr(error)
        raise TrainingError(f"cannot build {settings.architecture} from the recipe: {reason}") from error


def initialise(model: MatViT, source: str | Path) -> None:
    """Give a model the weights of another one, its position embeddings resized to fit.

    A classifier for another number of classes stays as it is.

    Args:
        model: Any MatViT.
        source: What `matvit.load` takes.

    Raises:
        TrainingError: The other model has another shape.
    """
    own, given = model.state_dict(), hub.load(source).state_dict()
    if others := sorted({name for name in own.keys() ^ given.keys() if not name.startswith("head.")}):
        raise TrainingError(
            f"{source} is another kind of encoder than the recipe's: they differ in {others[0]}"
        )
    try:
        state = {
            name: tensor
            for name, tensor in checkpoint_filter_fn(given, model).items()
            if not (name.startswith("head.") and (name not in own or own[name].shape != tensor.shape))
        }
        model.load_state_dict(state, strict=False)
    except NONSENSE as error:
        lines = str(error).strip().splitlines() or [repr(error)]
        raise TrainingError(f"{source} has another shape than the recipe's: {lines[-1].strip()}") from error


def objective(settings: Recipe, model: MatViT, *, device: torch.device, mixes: bool) -> NestedTask:
    """The objective of a recipe."""
    goal, space = settings.objective, model.space
    sigmoid = goal.loss == "sigmoid"
    criterion = criterion_for(goal.loss, label_smoothing=goal.label_smoothing, soft_targets=mixes)
    distill = None
    if goal.distill:
        distill = Distillation(
            goal.distill, goal.distill_weight, temperature=goal.distill_temperature, sigmoid=sigmoid
        )
    try:
        choose = _choice(settings, space)
    except (SubmodelError, ValueError) as error:
        raise TrainingError(str(error)) from error
    return NestedTask(model, criterion, choose, distill=distill, reduction=goal.reduction, device=device)


def _choice(settings: Recipe, space: SubmodelSpace) -> choice.Choose:
    goal, seed = settings.objective, settings.seed
    if goal.kind == "joint":
        return choice.joint(space, goal.granularities)
    if goal.kind == "mixnmatch":
        return choice.mixnmatch(space, seed=seed, with_full=goal.with_full)
    return choice.sampled(
        space, goal.granularities, goal.probabilities or None, seed=seed, with_full=goal.with_full
    )
