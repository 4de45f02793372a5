"""What of a model's head makes its embedding: the projection of an image tower, and no classifier."""

from typing import Any

from timm.data import infer_imagenet_subset
from timm.models import get_pretrained_cfg
from torch import nn

_WIDEST = 4096
"""Numbers of an embedding; heads with more outputs are classifiers."""


def projection_of(model: nn.Module) -> nn.Linear | None:
    """The projection of an image tower into the space that it shares with texts, or None of other models.

    CLIP's embedding of an image, which its texts are near, is what comes out of this matrix, and not what
    goes in. timm keeps it where other models have their classifier, as `head`, and adds a bias of zeros: the
    modules are the same. What tells them apart is timm's list of weights. It says how many outputs the head
    of these very weights has, and for a tower that is no number of classes. Somebody's own classifier on top
    of a tower has another number of outputs; if it happens to have the same, training gave it a bias.
    """
    head: Any = getattr(model, "head", None)
    config = getattr(model, "pretrained_cfg", None) or {}
    if not isinstance(head, nn.Linear) or config.get("classifier") != "head" or config.get("label_names"):
        return None
    name = ".".join(filter(None, (config.get("architecture"), config.get("tag"))))
    try:
        listed = get_pretrained_cfg(name)
    except RuntimeError:  # Weights that timm does not know.
        return None
    if listed is None or listed.num_classes != head.out_features:
        return None
    if infer_imagenet_subset(model) or head.out_features > _WIDEST:
        return None
    is_biased = head.bias is not None and not head.bias.is_meta and bool(head.bias.any())
    return None if is_biased else head


def embedding_width(model: nn.Module) -> int:
    """How many numbers a model's embedding has: its projection's, if there is one."""
    projection = projection_of(model)
    encoder: Any = model
    return int(encoder.num_features) if projection is None else projection.out_features


def put_aside_classifier(model: nn.Module) -> None:
    """Take from a model, in place, what is no part of its embedding: a classifier, but no projection."""
    if projection_of(model) is None:
        encoder: Any = model
        encoder.reset_classifier(0)
