"""MatViT: one Vision Transformer with hundreds of smaller encoders nested inside it.

Importing this package lets timm create the ``matvit_*`` architectures. Names are resolved on first use:
values such as `Submodel` load neither torch nor timm.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from matvit.registration import register_with_timm

if TYPE_CHECKING:
    from matvit.errors import BudgetError, CheckpointError, SubmodelError, UnknownModelError
    from matvit.submodels.cost import Cost
    from matvit.submodels.profile import Profile
    from matvit.submodels.protocol import ElasticEncoder
    from matvit.submodels.submodel import GRANULARITIES, Layer, Submodel, SubmodelSpace
    from matvit.vision.elastic_vit import Elastic, MatViT, elastic
    from matvit.weights.checkpoint import save
    from matvit.weights.model_names import load

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
    "GRANULARITIES": "submodels.submodel",
    "BudgetError": "errors",
    "CheckpointError": "errors",
    "Cost": "submodels.cost",
    "Elastic": "vision.elastic_vit",
    "ElasticEncoder": "submodels.protocol",
    "Layer": "submodels.submodel",
    "MatViT": "vision.elastic_vit",
    "Profile": "submodels.profile",
    "Submodel": "submodels.submodel",
    "SubmodelError": "errors",
    "SubmodelSpace": "submodels.submodel",
    "UnknownModelError": "errors",
    "elastic": "vision.elastic_vit",
    "load": "weights.model_names",
    "save": "weights.checkpoint",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return version("matvit")
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"matvit.{_HOME[name]}"), name)


register_with_timm()
