"""MatViT: one Vision Transformer with hundreds of smaller encoders nested inside it.

Importing this package registers the ``matvit_*`` architectures with timm.
"""

from matvit.checkpoint import save
from matvit.cost import Cost
from matvit.elastic_vit import Elastic, MatViT, elastic
from matvit.errors import BudgetError, CheckpointError, SubmodelError, UnknownModelError
from matvit.hub import load
from matvit.submodel import GRANULARITIES, Submodel, SubmodelSpace

__all__ = [
    "GRANULARITIES",
    "BudgetError",
    "CheckpointError",
    "Cost",
    "Elastic",
    "MatViT",
    "Submodel",
    "SubmodelError",
    "SubmodelSpace",
    "UnknownModelError",
    "elastic",
    "load",
    "save",
]
