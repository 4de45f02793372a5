"""MatViT: one Vision Transformer with hundreds of smaller encoders nested inside it.

Importing this package lets timm create the ``matvit_*`` architectures. Names are resolved on first use:
values such as `Submodel` load neither torch nor timm.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from matvit.registration import register_with_timm

if TYPE_CHECKING:
    from matvit.checkpoint import save
    from matvit.cost import Cost
    from matvit.elastic_vit import Elastic, MatViT, elastic
    from matvit.errors import BudgetError, CheckpointError, SubmodelError, UnknownModelError
    from matvit.hub import load
    from matvit.profile import Profile
    from matvit.protocol import ElasticEncoder
    from matvit.submodel import GRANULARITIES, Layer, Submodel, SubmodelSpace

__all__ = [
    "GRANULARITIES",
    "BudgetError",
    "CheckpointError",
    "Cost",
    "Elastic",
    "ElasticEncoder",
    "Layer",
    "MatViT",
    "Profile",
    "Submodel",
    "SubmodelError",
    "SubmodelSpace",
    "UnknownModelError",
    "elastic",
    "load",
    "save",
]

_HOME = {
    "GRANULARITIES": "submodel",
    "BudgetError": "errors",
    "CheckpointError": "errors",
    "Cost": "cost",
    "Elastic": "elastic_vit",
    "ElasticEncoder": "protocol",
    "Layer": "submodel",
    "MatViT": "elastic_vit",
    "Profile": "profile",
    "Submodel": "submodel",
    "SubmodelError": "errors",
    "SubmodelSpace": "submodel",
    "UnknownModelError": "errors",
    "elastic": "elastic_vit",
    "load": "hub",
    "save": "checkpoint",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("matvit")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"matvit.{_HOME[name]}"), name)


register_with_timm()
