"""How a recipe's model is optimised: optimizer and learning rates, both timm's."""

from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch.optim import Optimizer

from matvit.errors import NonsenseError, TrainingError
from matvit.training.recipe import Recipe
from matvit.vision.elastic_vit import MatViT
from matvit.vision.plain_timm import asked


def optimizer(settings: Recipe, model: MatViT) -> Optimizer:
    """The optimizer of a recipe, from timm.

    Raises:
        TrainingError: timm does not take the recipe's arguments.
    """
    optim = settings.optim
    try:
        with asked():
            return create_optimizer_v2(
                model,
                opt=optim.optimizer,
                lr=optim.lr,
                weight_decay=optim.weight_decay,
                layer_decay=optim.layer_decay if optim.layer_decay < 1 else None,
                **({"betas": optim.betas} if optim.betas else {}),
            )
    except NonsenseError as error:
        raise _impossible(error) from error


def scheduler(settings: Recipe, optimizer: Optimizer, *, steps_per_epoch: int) -> Scheduler:
    """The learning rate of every step of a recipe, from timm.

    Raises:
        TrainingError: timm does not take the recipe's arguments.
    """
    optim = settings.optim
    warmup = optim.warmup_steps / steps_per_epoch if optim.warmup_steps else optim.warmup_epochs
    try:
        with asked():
            found, _ = create_scheduler_v2(
                optimizer,
                sched=optim.schedule,
                num_epochs=settings.epochs,
                warmup_epochs=warmup,
                warmup_lr=optim.lr / 100,
                min_lr=optim.min_lr,
                step_on_epochs=False,
                updates_per_epoch=steps_per_epoch,
            )
        if found is None:
            raise NonsenseError(f"optim.schedule {optim.schedule!r} is none")
    except NonsenseError as error:
        raise _impossible(error) from error
    return found


def _impossible(error: NonsenseError) -> TrainingError:
    return TrainingError(f"timm cannot do what the recipe asks for: {error}")
