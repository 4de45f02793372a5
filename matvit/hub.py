"""What a model may be called wherever one is asked for: a directory, or a name that timm knows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from timm.models import load_model_config_from_hf

from matvit import checkpoint, published
from matvit.atomic import restore
from matvit.elastic_vit import Elastic, elastic
from matvit.errors import NONSENSE, CheckpointError, UnknownModelError
from matvit.vit import check_arguments, default_cfgs


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
        CheckpointError: The directory is incomplete or damaged, or a download from the hub failed.
        DownloadError: A published checkpoint could not be downloaded.
    """
    restore(Path(model))
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
        if name.startswith("hf-hub:"):
            check_arguments(load_model_config_from_hf(name.removeprefix("hf-hub:"))[2] or {})
        with torch.device("meta"):
            model = elastic(name)  # What does not nest shows before anything is downloaded for it.
        if weights:
            source = _safetensors(model.pretrained_cfg)
            model = elastic(name, pretrained=True, pretrained_cfg_overlay=source)
        return model.eval()
    except OSError as error:
        absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        reason = "no safetensors are there, and pickles are never read" if absent else error
        raise CheckpointError(f"cannot download {name}: {reason}") from error
    except SafetensorError as error:
        raise CheckpointError(f"the weights of {name} are damaged: {error}") from error
    except NONSENSE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnknownModelError(f"{name}: {reason}") from error


def _safetensors(pretrained_cfg: Mapping[str, Any]) -> dict[str, str]:
    """What turns timm from pickled weights to the safetensors beside them.

    Raises:
        UnknownModelError: They are published as a pickle alone.
    """
    if pretrained_cfg.get("hf_hub_id"):
        named = pretrained_cfg.get("hf_hub_filename") or "pytorch_model.bin"
        file = Path(named.replace("pytorch_model", "model")).with_suffix(".safetensors")
        return {"hf_hub_filename": str(file)}
    if (url := pretrained_cfg.get("url") or "") and not url.endswith((".npz", ".safetensors")):
        raise UnknownModelError(f"its weights are at {url} alone, and pickles are never read")
    return {}
