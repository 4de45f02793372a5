"""MatViT: one Vision Transformer with hundreds of smaller encoders nested inside it.

Importing this package registers the ``matvit_*`` architectures with timm.
"""

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
