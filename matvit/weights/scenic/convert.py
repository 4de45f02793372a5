"""Scenic's MatViT checkpoints: Google's Flax parameters as a checkpoint directory of ours.

Source of the form: google-research/scenic, `scenic/projects/matvit` and `scenic/train_lib/train_utils.py`.
"""

import json
from pathlib import Path
from typing import Any

import timm
import torch

from matvit.errors import CheckpointError, UnknownModelError
from matvit.progress import Progress, silent
from matvit.vision.elastic_vit import MatViT
from matvit.weights.checkpoint import CONFIG, save
from matvit.weights.scenic.layout import Layout
from matvit.weights.scenic.msgpack_file import FlaxFile, Leaves, Span

NOTE = "scenic"
"""Under this name `convert` keeps what it knows of the file, beneath the config's ``matvit`` key."""

_BASE = "matvit_base_patch16_224"
_NAMES = {192: "matvit_tiny_patch16_224", 384: "matvit_small_patch16_224", 1024: "matvit_large_patch16_224"}


def convert(
    file: Path,
    out: Path,
    *,
    source: str = "",
    classifier: str | None = None,
    progress: Progress = silent,
) -> MatViT:
    """Read a Scenic checkpoint, as `read` does, and save the MatViT in it.

    Args:
        file: See `read`.
        out: The new checkpoint directory; an earlier checkpoint there is replaced.
        source: See `read`.
        classifier: See `read`.
        progress: See `read`.

    Returns:
        The model that was saved, in evaluation mode.

    Raises:
        UnknownModelError: The file is sound and holds another kind of model.
        CheckpointError: The file is damaged, or `out` holds something else than a checkpoint.
        OSError: The file cannot be read.
    """
    model, note = read(file, source=source, classifier=classifier, progress=progress)
    save(model, out, **{NOTE: note})
    return model


def read(
    file: Path,
    *,
    source: str = "",
    classifier: str | None = None,
    progress: Progress = silent,
) -> tuple[MatViT, dict[str, Any]]:
    """The MatViT in a Scenic checkpoint, and what is to be remembered of the file.

    Holds the parameters once, and beside them no more than the largest arrays of the file: the optimizer's
    state is passed over.

    Args:
        file: A `TrainState` as Scenic's trainer writes it, with the parameters under ``params`` or, in older
            files, ``optimizer/target``; or the bare tree of parameters.
        source: Where the file came from.
        classifier: Scenic's name of the pooling that the model was trained with. Left out, it is ``token``
            where there is a class token, else ``gap``. ``gmp`` and ``gsp`` have the same parameters as
            ``gap``: only who trained the model can tell them apart.
        progress: Told of the bytes that are read.

    Returns:
        The model in evaluation mode, and JSON values.

    Raises:
        UnknownModelError: The file is sound and holds another kind of model.
        CheckpointError: The file is damaged.
        OSError: The file cannot be read.
    """
    if classifier not in (None, "token", "gap"):
        raise UnknownModelError(f"classifier {classifier!r} is not known here: only 'token' and 'gap' are")
    checkpoint = FlaxFile(file, progress=progress)
    span, step = _parameters_and_step(checkpoint)
    leaves = _unwrapped(checkpoint.leaves(span))
    try:
        layout = Layout.of(leaves)
        if classifier not in (None, layout.classifier):
            raise UnknownModelError(f"its parameters are those of classifier {layout.classifier!r}")
        state = layout.state_dict(leaves)
    except (CheckpointError, UnknownModelError) as error:
        raise type(error)(f"{file}: {error}") from error
    with torch.device("meta"):  # The parameters are those of the file: no others are made first.
        model: MatViT = timm.create_model(
            _NAMES.get(layout.width, _BASE),
            pretrained_cfg_overlay=layout.preprocessing(),
            **layout.model_args(),
        ).eval()
    model.load_state_dict(state, assign=True)
    return model, {
        "source": source or file.name,
        "sha256": checkpoint.sha256,
        "bytes": checkpoint.bytes,
        "bytes_left_out": checkpoint.bytes - span.bytes,
        "global_step": step,
        "classifier": layout.classifier,
    }


def facts(directory: Path) -> dict[str, Any]:
    """What `convert` read, told by the checkpoint directory that it wrote."""
    config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    arguments, note = config["model_args"], config["matvit"][NOTE]
    return {
        "layers": arguments["depth"],
        "width": arguments["embed_dim"],
        "heads": arguments["num_heads"],
        "hidden_units": int(arguments["mlp_ratio"] * arguments["embed_dim"]),
        "patch_size": arguments["patch_size"],
        "image_size": config["pretrained_cfg"]["input_size"][-1],
        "classes": config["num_classes"],
        **note,
    }


def _parameters_and_step(file: FlaxFile) -> tuple[Span, int | None]:
    """Where the parameters lie, chosen by their place: the optimizer's state repeats all of their names."""
    parts = file.parts
    if "params" in parts:
        span = parts["params"]
    elif "optimizer" in parts:
        optimizer = file.inside(parts["optimizer"])
        if "target" not in optimizer:
            raise UnknownModelError(f"{file.path} holds an optimizer without the parameters that it is for")
        span = optimizer["target"]
    elif {"embedding", "Transformer"} <= parts.keys():
        return file.whole, None
    else:
        top = ", ".join(sorted(parts)[:5]) or "nothing"
        raise UnknownModelError(f"{file.path} holds no Vision Transformer of Scenic's: at its top is {top}")
    return span, file.integer(parts["global_step"]) if "global_step" in parts else None


def _unwrapped(leaves: Leaves) -> Leaves:
    """The parameters without ``params``, the collection's name that Flax's variables put before them."""
    for _ in range(2):
        if all(name.startswith("params/") for name in leaves):
            leaves = {name.removeprefix("params/"): leaf for name, leaf in leaves.items()}
    return leaves
