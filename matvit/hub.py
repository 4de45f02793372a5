"""What a model may be called wherever one is asked for: a directory, or a name that timm knows."""

from pathlib import Path

import timm
import torch

from matvit import checkpoint, published
from matvit.elastic import Elastic, elastic
from matvit.errors import CheckpointError, UnknownModelError
from matvit.vit import default_cfgs


def load(model: str | Path, *, weights: bool = True) -> Elastic:
    """An elastic encoder from a checkpoint directory, or from a name.

    Args:
        model: A directory in timm's hub layout; a timm name, whose pretrained weights are downloaded; an
            ``hf-hub:`` id; one of `matvit.published.PUBLISHED`; or the bare name of an architecture such as
            ``matvit_base_patch16_224``.
        weights: Refuse names without weights. False gives a model on torch's meta device, enough for costs.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        UnknownModelError: There is no such directory or name, or its model does not nest.
        CheckpointError: The directory is incomplete or damaged, or a download failed.
    """
    if Path(model).is_dir():
        return checkpoint.load(Path(model), weights=weights)
    name = str(model)
    if name in published.PUBLISHED:
        return checkpoint.load(published.checkpoint_of(name), weights=weights)
    if name in default_cfgs and weights:
        raise UnknownModelError(f"{name} has no published weights: give the directory of a trained model")
    if not name.startswith("hf-hub:") and not timm.is_model(name):
        names = ", ".join(published.PUBLISHED)
        raise UnknownModelError(f"no directory {name!r}, nor a model of timm, nor one of {names}")
    try:
        with torch.device("meta"):
            shape = elastic(name)  # What does not nest shows before anything is downloaded for it.
        return (elastic(name, pretrained=True) if weights else shape).eval()
    except UnknownModelError as error:
        raise UnknownModelError(f"{name}: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot download {name}: {error}") from error
    except (RuntimeError, ValueError) as error:
        raise UnknownModelError(f"{name}: {error}") from error
