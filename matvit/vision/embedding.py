"""Models for retrieval: what computes an embedding, and nothing else."""

from torch import nn

from matvit.vision.pooled_token import read_pooled_token_alone
from matvit.vision.projection import put_aside_classifier


def embed_only(model: nn.Module) -> None:
    """Take from a model, in place, what its embedding needs not: a classifier, and answers nobody reads."""
    put_aside_classifier(model)
    read_pooled_token_alone(model)
