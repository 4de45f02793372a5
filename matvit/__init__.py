"""MatViT: one Vision Transformer with hundreds of smaller encoders nested inside it.

Importing this package registers the ``matvit_*`` architectures with timm.
"""

from matvit.checkpoint import load, save
from matvit.cost import Cost
from matvit.errors import BudgetError, CheckpointError, SubmodelError, UnknownModelError
from matvit.submodel import GRANULARITIES, Submodel, SubmodelSpace
from matvit.vit import MatViT

__all__ = [
    "GRANULARITIES",
    "BudgetError",
    "CheckpointError",
    "Cost",
    "MatViT",
    "Submodel",
    "SubmodelError",
    "SubmodelSpace",
    "UnknownModelError",
    "load",
    "save",
]
