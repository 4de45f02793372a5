"""What a model may be called wherever one is asked for: a directory, or a name that timm knows."""

import json
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import timm
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors import SafetensorError
from timm.models import load_model_config_from_hf

from matvit.errors import CheckpointError, NonsenseError, SubmodelError, UnknownModelError
from matvit.files.atomic import restore
from matvit.progress import Progress, silent
from matvit.vision.architectures import check_arguments, default_cfgs
from matvit.vision.elastic_vit import Elastic, elastic
from matvit.vision.plain_timm import asked, plain_model
from matvit.weights import checkpoint, hub, published, timm_names
from matvit.weights.known_models import no_such_model, sized

_LOCAL = "local-dir:"


def load(model: str | Path, *, weights: bool = True, progress: Progress = silent) -> Elastic:
    """An elastic encoder from a checkpoint directory, or from a name.

    Args:
        model: A directory in timm's hub layout, with or without timm's ``local-dir:`` before it; a timm
            name, whose pretrained weights are downloaded; an ``hf-hub:`` id; one of
            `matvit.weights.published.PUBLISHED`; or the bare name of an architecture such as
            ``matvit_base_patch16_224``. A name of timm or of the hub may end in the size of the images that
            the full encoder is to read, as ``NAME@224px``: its positions are resampled once.
        weights: Refuse names without weights. False gives a model on torch's meta device, enough for costs.
        progress: Told of the bytes of a published checkpoint that are downloaded and read.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        UnknownModelError: There is no such directory or name, or its model does not nest.
        CheckpointError: The directory is incomplete or damaged, or a download from the hub failed.
        DownloadError: A published checkpoint could not be downloaded.
    """
    if directory := directory_of(model):
        return checkpoint.load(directory, weights=weights)
    name = str(model)
    if name in published.PUBLISHED:
        return checkpoint.load(published.checkpoint_of(name, progress=progress), weights=weights)
    if name in default_cfgs and weights:
        raise UnknownModelError(f"{name} has no published weights: give the directory of a trained model")
    timm_names.remember()
    if not name.startswith("hf-hub:") and not timm.is_model(sized(name)[0]):
        raise no_such_model(name)
    here = is_here(name)
    with hub.from_cache() if here else nullcontext():
        return _by_name(name, weights=weights, here=here)


def _by_name(called: str, *, weights: bool, here: bool) -> Elastic:
    """An encoder of timm's, or of the hub, which is asked for what is not here: see `load`."""
    name, image_size = sized(called)
    size: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
    overlay: dict[str, Any] = {} if image_size is None else {"input_size": (3, image_size, image_size)}
    try:
        if name.startswith("hf-hub:"):
            if _config_of(name) is None:
                hub.check_reached(name)
            with asked():
                arguments = load_model_config_from_hf(name.removeprefix("hf-hub:"))[2]
            check_arguments(arguments or {})
        with torch.device("meta"):
            encoder = elastic(plain_model(name))  # What does not nest shows before anything is downloaded.
            if image_size is not None:
                _check_size(image_size, encoder)
        if weights:
            source = _safetensors(encoder.pretrained_cfg)
            if source and not here:
                hub.check_reached(name)
            arguments = {"pretrained": True, "pretrained_cfg_overlay": overlay | source, **size}
            encoder = elastic(plain_model(name, **arguments))
        elif image_size is not None:
            with torch.device("meta"):
                encoder = elastic(plain_model(name, pretrained_cfg_overlay=overlay, **size))
        encoder.nested = _says_nested(name)
        return encoder.eval()
    except OSError as error:
        absent = isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError)
        reason = "no safetensors are there, and pickles are never read" if absent else error
        raise CheckpointError(f"cannot download {name}: {reason}") from error
    except SafetensorError as error:
        raise CheckpointError(f"the weights of {name} are damaged: {error}") from error
    except (NonsenseError, UnknownModelError, SubmodelError) as error:
        raise UnknownModelError(f"{called}: {error}") from error


def _check_size(pixels: int, encoder: Elastic) -> None:
    patch, _ = encoder.patch_embed.patch_size
    if pixels % patch:
        raise UnknownModelError(f"{pixels} px is no multiple of its patch of {patch} px")


def _says_nested(name: str) -> bool:
    """Whether the layers of a model that has a name are nested: one of ours on the hub says so itself."""
    if not name.startswith("hf-hub:"):
        return name in default_cfgs
    config = _config_of(name)
    ours = json.loads(config.read_text(encoding="utf-8")).get("matvit") if config else None
    return isinstance(ours, dict) and ours.get("nested", ours.get("architecture") in default_cfgs) is True


def _config_of(name: str) -> Path | None:
    """The config of a repository on the hub, if it is in the cache."""
    return hub.cached(name.removeprefix("hf-hub:"), "config.json")


def directory_of(model: str | Path) -> Path | None:
    """The checkpoint directory that a model is called by; None if it is called by a name.

    Raises:
        UnknownModelError: It is called by a directory that is not there.
    """
    folder = Path(str(model).removeprefix(_LOCAL))
    for each in (Path(model), folder):
        restore(each)
    if Path(model).is_dir():
        return Path(model)
    if not str(model).startswith(_LOCAL):
        return None
    if not folder.is_dir():
        raise UnknownModelError(f"{model}: no such directory")
    return folder


def is_here(name: str) -> bool:
    """Whether `load` downloads nothing: a directory, what is in a cache, or a name that leads nowhere."""
    if Path(name).is_dir():
        return True
    if name in published.PUBLISHED:
        return published.is_cached(name)
    name = sized(name)[0]
    if name.startswith("hf-hub:"):
        config = _config_of(name)
        return config is not None and any(config.parent.rglob("*.safetensors"))
    try:
        found = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    except RuntimeError:  # a tag that there is not, which `load` refuses
        return True
    if found is None or not (found.hf_hub_id or found.url):
        return True
    try:
        file = _safetensors(found.to_dict()).get("hf_hub_filename")
    except UnknownModelError:
        return True  # since `load` refuses it
    if file is None:
        return (
            Path(torch.hub.get_dir()) / "checkpoints" / PurePosixPath(urlsplit(found.url).path).name
        ).exists()
    return hub.cached(found.hf_hub_id, file) is not None


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
