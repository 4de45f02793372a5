"""Where latency profiles are kept: a JSON file each, named by a hash of what its times depend on.

The key itself is in the file too and is compared, so that neither a collision nor a copied file can pass
for another's times. A damaged file counts as none.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matvit.files.atomic import write_text
from matvit.files.cache import cache_dir
from matvit.submodels.profile import Timing
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Layer, Submodel


def structure(model: ElasticEncoder) -> dict[str, Any]:
    """What a model's times depend on, in plain JSON values: everything but its weights."""
    space = model.space
    full = model.cost(space.full)
    layers = list(model.modules())
    return {
        "model": type(model).__name__,
        "architecture": getattr(model, "pretrained_cfg", {}).get("architecture", ""),
        "hidden": list(space.hidden),
        "granularities": dict(space.granularities),
        "image_size": list(model.patch_embed.img_size),
        "channels": model.in_chans,
        "patch_size": list(model.patch_embed.patch_size),
        "embed_dim": model.embed_dim,
        "heads": sorted({layer.num_heads for layer in layers if hasattr(layer, "num_heads")}),
        "pooling": model.global_pool,
        "classes": model.num_classes,
        # Arguments of timm's that nobody listed here show in these.
        "macs": full.macs,
        "params": full.params,
        "layers": sorted({type(layer).__name__ for layer in layers}),
    }


def kept(key: dict[str, Any]) -> dict[Submodel, Timing]:
    """What was ever measured under this key; nothing if the file is missing, damaged or another's."""
    try:
        stored = json.loads(_file(key).read_text(encoding="utf-8"))
        if stored["key"] != key:
            return {}
        measured = {_submodel(point): _timing(point) for point in stored["points"]}
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return {}
    return measured if all(0 < t.ms < math.inf and t.iqr_ms >= 0 for t in measured.values()) else {}


def keep(key: dict[str, Any], measured: Mapping[Submodel, Timing]) -> None:
    """Write times under their key, whole or not at all; another process that does the same is waited for."""
    points = [{**_fields(submodel), **asdict(timing)} for submodel, timing in measured.items()]
    path = _file(key)
    write_text(path, json.dumps({"key": key, "points": points}))
    for left in path.parent.glob("tmp????????.tmp"):  # By a process of an earlier version that was killed.
        left.unlink(missing_ok=True)


def _fields(submodel: Submodel) -> dict[str, Any]:
    return {"widths": submodel.widths, "merges": submodel.merges, "image_size": submodel.image_size}


def _submodel(fields: Mapping[str, Any]) -> Submodel:
    # Earlier versions wrote neither merges nor sizes.
    merges = fields.get("merges") or [0] * len(fields["widths"])
    layers = map(Layer, fields["widths"], merges)
    return Submodel(layers, image_size=fields.get("image_size"))


def _timing(fields: Mapping[str, Any]) -> Timing:
    # Earlier versions wrote the median alone, at a time that nobody knows: it is as old as can be.
    values = {"iqr_ms": 0, "other_work": 0, "at": 0, **fields}
    return Timing(**{each.name: float(values[each.name]) for each in dataclasses.fields(Timing)})


def _file(key: dict[str, Any]) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    return cache_dir() / "latency" / f"{digest[:32]}.json"
