"""Checkpoints: a directory in timm's hub layout that plain timm loads as the full encoder.

`config.json` names timm's own architecture, with the arguments to build it; what is ours sits under
its top-level key ``matvit``, which timm ignores. Weights are safetensors; pickles are never read. What
only the submodels of a refitted encoder use is in a file of its own, ``elastic.safetensors``.
"""

import hashlib
import json
import math
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models import get_model_args, save_for_hf
from torch import Tensor, nn

from matvit.errors import CheckpointError, NonsenseError, SubmodelError, UnknownModelError
from matvit.files.atomic import reads_whole, restore, whole_directory
from matvit.submodels.submodel import GRANULARITIES, Submodel
from matvit.vision.architectures import check_arguments
from matvit.vision.elastic_vit import Elastic, elastic, plain_architecture, refitted, tuned, with_alignments
from matvit.vision.ffn import TimmEncoder, hidden_units
from matvit.vision.plain_timm import asked, plain_model
from matvit.vision.projection import projection_of

WEIGHTS, CONFIG, EXTRAS = "model.safetensors", "config.json", "elastic.safetensors"
_TUNED, _ALIGNMENTS = "tuned.", "alignments."
_OWN_NOTES = {
    "architecture",
    "granularities",
    "nested",
    "refitted",
    "widths",
    "curve",
    "poor",
    "stretches",
    "aligned",
}
_SOURCES = {"url", "file", "state_dict", "hf_hub_id", "hf_hub_filename", "source", "custom_load"}
_TRANSFORMERS = {"model_type", "architectures", "transformers_version"}
"""What the configs of Hugging Face transformers have, and timm's have not."""
REPORT = "report"
"""Folder in a checkpoint for what was measured of it; a new checkpoint in its place takes it away."""
SHIPPED = Path(__file__).parents[1] / "checkpoints"
"""Checkpoints that come with the package, one directory each."""


def save(model: TimmEncoder, directory: str | Path, **notes: Any) -> None:
    """Write an elastic encoder, or a plain one extracted from it, so that a reader sees all of it or nothing.

    Args:
        model: What to save; made by `timm.create_model`, so that it knows its own arguments.
        directory: Where to; an earlier checkpoint there is replaced, and stays until the new one stands.
        **notes: JSON values kept under the config's ``matvit`` key.

    Raises:
        CheckpointError: `directory` holds something else, or cannot be written.
        BusyError: Another process is writing it.
    """
    with saved(model, directory, **notes):
        pass


@contextmanager
def saved(model: TimmEncoder, directory: str | Path, **notes: Any) -> Iterator[Path]:
    """Write a checkpoint as `save` does, and with it what the block adds to the directory that it is given.

    Arguments and errors are those of `save`.
    """
    directory = check_place(directory)
    if not hasattr(model, "pretrained_cfg"):
        raise CheckpointError("only a model made by timm.create_model knows the arguments to save")
    extras: dict[str, Tensor] = {}
    if isinstance(model, Elastic):
        extras = model.extras
        notes |= {
            "architecture": model.pretrained_cfg["architecture"],
            "granularities": dict(model.granularities),
            "nested": model.nested,
        }
        if model.refits is not None:
            notes["refitted"] = True
        if model.tuned is not None:
            notes["stretches"] = {str(submodel): n for submodel, n in model.tuned.numbers.items()}
        if model.alignments is not None:
            notes["aligned"] = {str(submodel): n for submodel, n in model.alignments.numbers.items()}
        if model.measured:
            notes["curve"] = {str(submodel): cosine for submodel, cosine in model.measured.items()}
        if model.poor:
            notes["poor"] = {str(submodel): why for submodel, why in model.poor.items()}
        plain, model_args = model.extract(model.space.full, copy=False), {}
    else:
        notes |= {"widths": [hidden_units(block) for block in model.blocks]}
        plain, model_args = model, _width_arguments(model)
    config = {"architecture": plain_architecture(model), "model_args": model_args, "matvit": notes}
    try:
        with whole_directory(directory) as staging:
            check_place(directory)  # Once more: until the lock was held, others could write to it.
            save_for_hf(plain, str(staging), model_config=config, safe_serialization=True)
            if extras:
                save_file(extras, staging / EXTRAS)
            yield staging
    except SafetensorError as error:  # Its words for a full disk, for example.
        raise CheckpointError(f"cannot write {directory}: {error}") from error


def check_place(directory: str | Path) -> Path:
    """The directory as an absolute path, if a checkpoint may be written there.

    Raises:
        CheckpointError: It holds something else.
    """
    restore(Path(directory))
    directory = Path(directory).resolve()
    if not _is_utf8(directory):
        raise CheckpointError(
            f"{str(directory)!r} is not UTF-8, which safetensors needs: choose another name"
        )
    if directory == Path.cwd():
        raise CheckpointError(f"{directory} is where you are: a checkpoint needs a directory of its own")
    if directory.exists() and not directory.is_dir():
        raise CheckpointError(f"{directory} is a file: a checkpoint needs a directory of its own")
    there = {file.name for file in directory.iterdir()} if directory.exists() else set()
    if there and not {WEIGHTS, CONFIG} <= there <= {WEIGHTS, CONFIG, EXTRAS, REPORT}:
        raise CheckpointError(f"{directory} holds something else than a checkpoint: choose another directory")
    return directory


def notes_of(directory: str | Path) -> dict[str, Any]:
    """What was noted when a checkpoint was saved, such as the classes; nothing where there is none."""
    return _notes(Path(directory))


@reads_whole
def _notes(directory: Path) -> dict[str, Any]:
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    ours = config.get("matvit") if isinstance(config, dict) else None
    if not isinstance(ours, dict):
        return {}
    return {name: value for name, value in ours.items() if name not in _OWN_NOTES}


@reads_whole
def load(directory: Path, *, weights: bool = True) -> Elastic:
    """The elastic encoder in a checkpoint directory: one of ours, or a plain encoder that timm saved.

    Args:
        directory: Its ``config.json`` and ``model.safetensors``.
        weights: False leaves the weights unread and gives a model on torch's meta device.

    Returns:
        The model in evaluation mode, on the CPU.

    Raises:
        UnknownModelError: It holds another kind of model.
        CheckpointError: It is incomplete or damaged.
    """
    config = _read_config(directory)
    ours = config.get("matvit", {})
    architecture = ours.get("architecture", config.get("architecture"))
    granularities = ours.get("granularities", GRANULARITIES)
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise UnknownModelError(
            f"{directory} holds {architecture!r}, which is not an architecture known here"
        )
    widths = ours.get("widths")
    if isinstance(widths, list) and any(width != widths[0] for width in widths):
        raise UnknownModelError(
            f"{directory} holds an extracted submodel whose widths differ: give the model that it came from"
        )
    try:
        arguments = check_arguments({"num_classes": config["num_classes"], **config.get("model_args", {})})
        with torch.device("cpu" if weights else "meta"):
            net = plain_model(
                architecture,
                # Without the keys that tell timm where to find other weights: these are the ones beside it.
                pretrained_cfg={
                    **{key: v for key, v in config["pretrained_cfg"].items() if key not in _SOURCES},
                    "architecture": architecture,
                },
                **arguments,
            )
        if weights:
            state = _in_keys_of(net, load_file(directory / WEIGHTS))
            with asked():
                net.load_state_dict(state)
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no {WEIGHTS}; pickled weights are never read") from None
    except SafetensorError as error:
        raise CheckpointError(f"{directory / WEIGHTS} is damaged: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {directory / WEIGHTS}: {error}") from error
    except NonsenseError as error:
        raise CheckpointError(f"{directory}: weights and {CONFIG} do not agree: {error}") from error
    try:
        model = elastic(net, granularities=granularities).eval()
        model.nested = ours.get("nested", model.nested) is True  # Before, none said so.
        if any(ours.get(extra) for extra in ("refitted", "stretches", "aligned")):
            model = _with_extras(model, directory, ours)
        if "curve" in ours:
            model.measured = read_curve(model, ours["curve"])
        model.poor = {each: str(why) for each, why in _submodels(model, ours.get("poor", {})).items()}
        return model
    except (SubmodelError, UnknownModelError) as error:
        raise UnknownModelError(f"{directory} holds {architecture}: {error}") from error


def read_curve(model: Elastic, cosines: Any) -> dict[Submodel, float]:
    """The measured curve of an encoder, of spellings and cosines as they were written down, in any order.

    Raises:
        SubmodelError: One of them is no submodel of this encoder, or no cosine, or the full one is missing.
    """
    cost, curve = model.cost, _submodels(model, cosines)
    for submodel, cosine in curve.items():
        is_number = isinstance(cosine, int | float) and not isinstance(cosine, bool)
        if not is_number or not -1 <= cosine <= 1:  # a NaN is not
            raise SubmodelError(f"{submodel}: {cosine!r} is no cosine")
    if curve and model.space.full not in curve:
        raise SubmodelError(f"a curve ends with the full encoder, {model.space.full}")
    return {s: float(curve[s]) for s in sorted(curve, key=lambda s: cost(s).macs)}


def _submodels(model: Elastic, values: Any) -> dict[Submodel, Any]:
    """Values by submodels of a model, which were written by their spellings.

    Raises:
        SubmodelError: One is no submodel of this encoder, or costs more than the full one, as nothing that is
            measured or taught does.
    """
    if not isinstance(values, dict):
        raise SubmodelError(f"submodels are mapped to what they have, got {values!r}")
    space, cost = model.space, model.cost
    found: dict[Submodel, Any] = {}
    for spelled, value in values.items():
        submodel = space.parse(spelled)
        if submodel is None or cost(submodel).macs > cost(space.full).macs:
            raise SubmodelError(f"{spelled!r} is no submodel of this encoder")
        found[submodel] = value
    return found


def _read_config(directory: Path) -> dict[str, Any]:
    """What `config.json` says, with the parts that a model is made of.

    Raises:
        UnknownModelError: It is of another kind of model, or of another library.
        CheckpointError: It cannot be read, or something is missing.
    """
    file = directory / CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UnknownModelError(f"{directory} is no checkpoint: it has no {CONFIG}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
    if not isinstance(config, dict) or not isinstance(ours := config.get("matvit", {}), dict):
        raise UnknownModelError(f"{directory}: {CONFIG} names no elastic model")
    if "architecture" not in config | ours:
        if _TRANSFORMERS & config.keys():
            raise UnknownModelError(
                f"{directory} is a model of Hugging Face transformers, whose layout is another: take "
                "timm's of the same weights, by its name or from hf-hub:timm/..."
            )
        raise UnknownModelError(f"{directory}: {CONFIG} names no elastic model")
    for name, kind in (("pretrained_cfg", dict), ("num_classes", object), ("model_args", dict)):
        if name not in config and name != "model_args":
            raise CheckpointError(
                f"{directory}: {CONFIG} has no {name}: save the model with timm.models.save_for_hf, which "
                "writes it"
            )
        if not isinstance(config.get(name, {}), kind):
            raise CheckpointError(f"{directory}: weights and {CONFIG} do not agree: {name} is no object")
    if not isinstance(config["pretrained_cfg"].get("tag") or "", str):
        raise CheckpointError(f"{directory}: weights and {CONFIG} do not agree: tag is no text")
    return config


def _with_extras(model: Elastic, directory: Path, ours: Mapping[str, Any]) -> Elastic:
    """The model with the tensors that only its submodels use, or with their shapes on the meta device."""
    file, like = directory / EXTRAS, next(model.parameters())
    try:
        tensors = {name: tensor.to(like) for name, tensor in load_file(file).items()}
        small, alignments = (
            {name.removeprefix(kind): tensors.pop(name) for name in [*tensors] if name.startswith(kind)}
            for kind in (_TUNED, _ALIGNMENTS)
        )
        if ours.get("refitted"):
            model = refitted(model, tensors)
        if "stretches" in ours:
            model = tuned(model, small, _submodels(model, ours["stretches"]))
        if "aligned" in ours:
            model = with_alignments(model, alignments, _submodels(model, ours["aligned"]))
        return model
    except FileNotFoundError:
        raise CheckpointError(f"{directory} has no {EXTRAS}, which its submodels need") from None
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged: {error}") from error
    except OSError as error:
        raise CheckpointError(f"cannot read {file}: {error}") from error
    except SubmodelError as error:
        raise CheckpointError(f"{file} does not fit {WEIGHTS}: {error}") from error


def _is_utf8(path: Path) -> bool:
    try:
        str(path).encode()
    except UnicodeEncodeError:
        return False
    return True


def _in_keys_of(net: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights as `net` names them, whatever their authors' own code called them."""
    if state.keys() != net.state_dict().keys():
        timm_class = getattr(net, "timm_class", type(net))
        with asked():
            state = sys.modules[timm_class.__module__].checkpoint_filter_fn(state, net)
    return state


def weights_sha256(model: nn.Module) -> str:
    """What identifies an encoder: SHA-256 over the sorted (name, dtype, shape, bytes) of its tensors.

    Classifiers are left out: they take no part in an embedding, as a projection does.
    """
    classifiers = ("head.", "head_dist.") if projection_of(model) is None else ()
    state = model.state_dict().items()
    return tensors_sha256({name: tensor for name, tensor in state if not name.startswith(classifiers)})


def tensors_sha256(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the sorted (name, dtype, shape, bytes) of tensors, in hexadecimal."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        raw = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        header = f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode()
        digest.update(struct.pack("<QQ", len(header), len(raw)) + header + raw)
    return digest.hexdigest()


def _width_arguments(model: TimmEncoder) -> dict[str, Any]:
    """How timm builds an encoder of the widths of this one, as far as its `mlp_ratio` can say it.

    What the ratio means differs from FFN to FFN, and timm truncates the product: it is tried out.
    """
    widths = {hidden_units(block) for block in model.blocks}
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if len(widths) == 1:
        ratio = widths.pop() / model.embed_dim
        for candidate in (
            ratio,
            math.nextafter(ratio, math.inf),
            2 * ratio,
            math.nextafter(2 * ratio, math.inf),
        ):
            arguments = get_model_args(model, {"mlp_ratio": candidate})
            try:
                with torch.device("meta"):
                    built = plain_model(plain_architecture(model), **arguments)
            except NonsenseError:
                continue
            if {name: tensor.shape for name, tensor in built.state_dict().items()} == shapes:
                return {"mlp_ratio": candidate}
    return {}
