"""Checkpoints: a directory in timm's hub layout that plain timm loads as the full encoder.

`config.json` names timm's own architecture, with the arguments to build it; what is ours sits under
its top-level key ``matvit``, which timm ignores. Weights are safetensors; pickles are never read.
"""

import hashlib
import json
import math
import os
import shutil
import struct
import tempfile
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer

from matvit.errors import CheckpointError, UnknownModelError
from matvit.submodel import GRANULARITIES
from matvit.vit import MatViT, check_arguments, default_cfgs, plain_architecture

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
SHIPPED = Path(__file__).with_name("checkpoints")
"""Checkpoints that come with the package, one directory each."""


def save(model: VisionTransformer, directory: str | Path, **notes: Any) -> None:
    """Write a MatViT, or a plain encoder extracted from one, so that a reader sees all of it or nothing.

    Args:
        model: What to save; made by `timm.create_model`, so that it knows its own arguments.
        directory: Where to; an earlier checkpoint there is replaced.
        **notes: JSON values kept under the config's ``matvit`` key.

    Raises:
        CheckpointError: `directory` holds something else.
    """
    directory = Path(directory)
    if directory.exists() and {file.name for file in directory.iterdir()} - {WEIGHTS, CONFIG}:
        raise CheckpointError(f"{directory} holds something else than a checkpoint: choose another directory")
    directory.parent.mkdir(parents=True, exist_ok=True)
    if not hasattr(model, "pretrained_cfg"):
        raise CheckpointError("only a model made by timm.create_model knows the arguments to save")
    model_args: dict[str, Any] = {}
    if isinstance(model, MatViT):
        notes |= {
            "architecture": model.pretrained_cfg["architecture"],
            "granularities": dict(model.space.granularities),
        }
    else:
        widths = [block.mlp.fc1.out_features for block in model.blocks]
        notes |= {"widths": widths}
        if len(set(widths)) == 1 and model.attn_pool is None:
            # What extracting changed; timm can only say it of uniform widths, and says it of an attention
            # pool too. It truncates the product.
            ratio = widths[0] / model.embed_dim
            exact = int(ratio * model.embed_dim) == widths[0]
            model_args = {"mlp_ratio": ratio if exact else math.nextafter(ratio, math.inf)}
    staging = Path(tempfile.mkdtemp(prefix=f".{directory.name}-", dir=directory.parent))
    try:
        config = {"architecture": plain_architecture(model), "model_args": model_args, "matvit": notes}
        save_for_hf(model, str(staging), model_config=config, safe_serialization=True)
        for file in staging.iterdir():
            file.chmod(0o644)  # As other files are: safetensors and mkdtemp write for the owner alone.
            with file.open("rb") as written:
                os.fsync(written.fileno())
        staging.chmod(0o755)
        _sync(staging)
        _replace(staging, directory)
        _sync(directory.parent)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def load(model: str | Path, *, weights: bool = True) -> MatViT:
    """A MatViT from a checkpoint directory, or one without weights from the name of an architecture.

    Args:
        model: A directory, or a name such as ``matvit_base_patch16_224``.
        weights: Refuse a bare name. False gives its model on torch's meta device, enough for costs.

    Returns:
        The model in evaluation mode, float32, on the CPU.

    Raises:
        UnknownModelError: There is no such directory or name, or it holds another kind of model.
        CheckpointError: The directory is incomplete or damaged.
    """
    if Path(model).is_dir():
        return _load_directory(Path(model))
    if str(model) in default_cfgs:
        if weights:
            raise UnknownModelError(
                f"{model} has no published weights: give the directory of a trained model"
            )
        with torch.device("meta"):
            return timm.create_model(str(model)).eval()
    raise UnknownModelError(
        f"no directory {str(model)!r}, nor an architecture among {', '.join(default_cfgs)}"
    )


def _load_directory(directory: Path) -> MatViT:
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        architecture = config["matvit"]["architecture"]
    except FileNotFoundError:
        raise UnknownModelError(f"{directory} is no checkpoint: it has no {CONFIG}") from None
    except (KeyError, TypeError):
        raise UnknownModelError(
            f"{directory} holds no MatViT: its {CONFIG} names none under 'matvit'"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"cannot read {directory / CONFIG}: {error}") from error
    if config["matvit"].get("granularities") != GRANULARITIES:
        raise UnknownModelError(f"{directory} has granularities other than {GRANULARITIES}, not known here")
    if not isinstance(architecture, str) or architecture not in default_cfgs:
        raise UnknownModelError(
            f"{directory} holds {architecture!r}, which is not an architecture known here"
        )
    try:
        net: MatViT = timm.create_model(
            architecture,
            # Without the keys that tell timm where to find other weights: these are the ones beside it.
            pretrained_cfg={
                **{key: v for key, v in config["pretrained_cfg"].items() if key not in _SOURCES},
                "architecture": architecture,
            },
            **check_arguments({"num_classes": config["num_classes"], **config.get("model_args", {})}),
        )
        net.load_state_dict(load_file(directory / WEIGHTS))
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no {WEIGHTS}; pickled weights are never read") from None
    except SafetensorError as error:
        raise CheckpointError(f"{directory / WEIGHTS} is damaged: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {directory / WEIGHTS}: {error}") from error
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        # torch's first line only announces the mismatches; each has a line of its own below.
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = lines[min(1, len(lines) - 1)].strip()
        raise CheckpointError(f"{directory}: weights and {CONFIG} do not agree: {reason}") from error
    return net.eval()


def weights_sha256(model: VisionTransformer) -> str:
    """What identifies an encoder: SHA-256 over the sorted (name, dtype, shape, bytes) of its tensors.

    The classifier is left out: it takes no part in an embedding.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name.startswith("head."):
            continue
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
        digest.update(struct.pack("<QQ", len(header), len(raw)) + header + raw)
    return digest.hexdigest()


def _replace(new: Path, old: Path) -> None:
    """Put a finished directory in another's place.

    A directory cannot be renamed over one that is not empty, so the old one steps aside first: a crash in
    the instant between leaves it whole under the name ``.NAME-replaced``.
    """
    aside = old.with_name(f".{old.name}-replaced")
    if old.exists():
        shutil.rmtree(aside, ignore_errors=True)
        old.rename(aside)
    try:
        new.rename(old)
    except OSError:
        aside.rename(old)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(directory: Path) -> None:
    """Make the names in a directory survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
