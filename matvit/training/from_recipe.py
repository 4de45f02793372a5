"""What a recipe makes before any training: model, weights, augmentation, objective."""

from pathlib import Path

import torch
from timm.data import resolve_model_data_config
from timm.layers import to_2tuple
from timm.models.vision_transformer import checkpoint_filter_fn

from matvit.errors import NonsenseError, SubmodelError, TrainingError
from matvit.submodels.submodel import SubmodelSpace
from matvit.training import submodel_sampling
from matvit.training.augment import Transform, seed_everything, training_transform
from matvit.training.objectives import Distillation, NestedTask, criterion_for
from matvit.training.recipe import Recipe
from matvit.vision.architectures import check_arguments, default_cfgs
from matvit.vision.elastic_vit import MatViT, elastic
from matvit.vision.plain_timm import asked, plain_model
from matvit.weights import model_names


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
    config = default_cfgs[settings.architecture].default.to_dict()
    try:
        plain = plain_model(
            settings.architecture,
            num_classes=num_classes,
            pretrained_cfg={**config, "architecture": settings.architecture},
            pretrained_cfg_overlay={**overlay, **settings.preprocess},
            **check_arguments(settings.model),
        )
    except NonsenseError as error:
        raise TrainingError(f"cannot build {settings.architecture} from the recipe: {error}") from error
    if not plain.global_pool:
        raise TrainingError(f"the recipe's {settings.architecture} has no pooling: drop model.global_pool")
    model = elastic(plain)
    model.nested = settings.objective.nested
    return model


def initialise(model: MatViT, source: str | Path) -> None:
    """Give a model the weights of another one, its position embeddings resized to fit.

    A classifier for another number of classes stays as it is.

    Args:
        model: Any MatViT.
        source: What `matvit.load` takes.

    Raises:
        TrainingError: The other model has another shape.
    """
    own, given = model.state_dict(), model_names.load(source).state_dict()
    if others := sorted({name for name in own.keys() ^ given.keys() if not name.startswith("head.")}):
        raise TrainingError(
            f"{source} is another kind of encoder than the recipe's: they differ in {others[0]}"
        )
    try:
        with asked():
            fitted = checkpoint_filter_fn(given, model)
        state = {
            name: tensor
            for name, tensor in fitted.items()
            if not (name.startswith("head.") and (name not in own or own[name].shape != tensor.shape))
        }
        with asked():
            model.load_state_dict(state, strict=False)
    except NonsenseError as error:
        raise TrainingError(f"{source} has another shape than the recipe's: {error}") from error


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
        choose = _sampling(settings, space)
        if goal.sizes or goal.merge:
            choose = submodel_sampling.seeing_less(choose, space, goal.sizes, goal.merge, seed=settings.seed)
    except SubmodelError as error:
        raise TrainingError(str(error)) from error
    return NestedTask(
        model,
        criterion,
        choose,
        distill=distill,
        reduction=goal.reduction,
        ways_of_seeing=max(1, len(goal.sizes)) * max(1, len(goal.merge)),
        device=device,
    )


def transform(settings: Recipe, model: MatViT) -> Transform:
    """What an image goes through before the model trains on it.

    Raises:
        TrainingError: timm does not take the recipe's arguments.
    """
    try:
        with asked():
            data = resolve_model_data_config(model)
        return training_transform(settings.augment, data)
    except NonsenseError as error:
        raise TrainingError(f"timm cannot do what the recipe asks for: {error}") from error


def _sampling(settings: Recipe, space: SubmodelSpace) -> submodel_sampling.Choose:
    goal, seed = settings.objective, settings.seed
    if goal.kind == "joint":
        return submodel_sampling.joint(space, goal.granularities)
    if goal.kind == "mixnmatch":
        return submodel_sampling.mixnmatch(space, seed=seed, with_full=goal.with_full)
    return submodel_sampling.sampled(
        space, goal.granularities, goal.probabilities or None, seed=seed, with_full=goal.with_full
    )
