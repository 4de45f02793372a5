"""Any timm Vision Transformer made elastic: it runs every submodel nested in it, at that submodel's cost.

Source: MatFormer (arXiv 2310.07707). Weights, state-dict keys and the full encoder's arithmetic stay timm's;
what is added is one argument, the submodel to run.
"""

from collections.abc import Mapping
from copy import deepcopy
from itertools import chain
from typing import Any, ClassVar

import timm
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from matvit.errors import SubmodelError, UnknownModelError
from matvit.submodels.budget import resolve
from matvit.submodels.cost import CostModel
from matvit.submodels.profile import Profile
from matvit.submodels.submodel import GRANULARITIES, Submodel, SubmodelSpace
from matvit.vision.alignment import Alignments
from matvit.vision.count_macs import cost_model
from matvit.vision.cut import cut, own_tensors
from matvit.vision.ffn import TimmEncoder, cut_ffn, hidden_units
from matvit.vision.plain_timm import plain_name
from matvit.vision.pooled_token import answering_for_all
from matvit.vision.refits import Refits
from matvit.vision.tokens import tokens_of
from matvit.vision.tuned import Tuned

# Always one of timm's classes, which are untyped.
_Encoder: Any = nn.Module


class Elastic(_Encoder):
    """What makes a timm encoder run its submodels, mixed into the three classes below.

    Attributes:
        granularities: Name -> share of each layer's hidden units that it keeps, smallest first.
        refits: What the submodels of a refitted encoder use in place of its first hidden units, or None.
        tuned: What stretches of the measured curve use in place of its small tensors, or None.
        alignments: What moves embeddings of submodels to the full encoder's, or None.
        measured: See `matvit.submodels.submodel.SubmodelSpace`; empty where nothing was measured.
        nested: Whether narrower layers are trained, as those of the `matvit_*` names are to be. Set it where
            you train another encoder so.
        poor: See `SubmodelSpace`.

    Args:
        granularities: Any increasing shares up to 1.
        **arguments: Those of timm's class.

    Raises:
        UnknownModelError: The arguments ask for blocks or FFNs that do not nest.
        SubmodelError: The granularities do not increase up to 1.

    Example:
        >>> model = timm.create_model("matvit_base_patch16_224", num_classes=1000)
        >>> logits = model(images, model.submodel("60%"))  # (B, 3, 224, 224) -> (B, 1000)
    """

    timm_class: ClassVar[type]
    granularities: Mapping[str, float]
    refits: Refits | None
    tuned: Tuned | None
    alignments: Alignments | None
    measured: Mapping[Submodel, float]
    nested: bool
    poor: Mapping[Submodel, str]

    def __init__(self, *, granularities: Mapping[str, float] = GRANULARITIES, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.nested = True
        self._nest(granularities)

    def _nest(self, granularities: Mapping[str, float]) -> None:
        # Made here once, so that what does not nest and wrong granularities show where they are given.
        self.granularities, self.refits = granularities, getattr(self, "refits", None)
        self.tuned, self.alignments = getattr(self, "tuned", None), getattr(self, "alignments", None)
        self.measured, self.poor = getattr(self, "measured", {}), getattr(self, "poor", {})
        self.granularities = dict(self.space.granularities)
        for beside in (self.refits, self.tuned, self.alignments):
            if beside is not None:
                beside.check(self)

    @property
    def space(self) -> SubmodelSpace:
        """Every submodel of this encoder."""
        hidden = tuple(map(hidden_units, self.blocks))
        named_only = self.refits is not None
        return SubmodelSpace(
            hidden,
            self.granularities,
            named_only=named_only,
            tokens=tokens_of(self),
            measured=self.measured,
            nested=self.nested or self.refits is not None,
            poor=self.poor,
        )

    @property
    def cost(self) -> CostModel:
        """What a submodel costs: ``model.cost(submodel).gmacs``."""
        return cost_model(self, tokens_of(self))

    @property
    def extras(self) -> dict[str, Tensor]:
        """What only submodels use, by name: refitted FFNs, small tensors of stretches, and alignments."""
        extras = dict(self.refits.tensors) if self.refits else {}
        for kind, own in (("tuned", self.tuned), ("alignments", self.alignments)):
            extras |= {f"{kind}.{name}": tensor for name, tensor in own.tensors.items()} if own else {}
        return extras

    def submodel(self, budget: str | Submodel | None, profile: Profile | None = None) -> Submodel:
        """The submodel for a budget: see `matvit.submodels.budget.resolve`.

        Args:
            budget: ``60%``, ``S*5+M*7``...
            profile: What a budget in milliseconds is looked up in: see `matvit.runtime.latency.measure`.

        Raises:
            BudgetError: No submodel meets it, or it is in milliseconds and there is no profile.
            SubmodelError: It spells out what does not fit this encoder, or the profile is of another one.
        """
        return resolve(budget, self.space, self.cost, None if profile is None else lambda: profile)

    def forward(
        self,
        x: Tensor,
        submodel: Submodel | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Any:
        """Images x (B, C, H, W) to logits (B, classes), or to embeddings (B, D) without a classifier.

        Args:
            x: Normalised images.
            submodel: Which nested encoder runs; None is the full one, XL.
            attn_mask: As in timm.
            is_causal: As in timm.

        Raises:
            TypeError: `submodel` is not a `Submodel`.
            SubmodelError: It does not fit this encoder.
        """
        # Not `or super()`, which torch.compile cannot trace from Python 3.12 on.
        if (encoder := self._cut(submodel)) is None:
            return super().forward(x, attn_mask=attn_mask, is_causal=is_causal)
        return encoder.forward(x, attn_mask=attn_mask, is_causal=is_causal)

    def forward_features(
        self,
        x: Tensor,
        submodel: Submodel | None = None,
        *,
        attn_mask: Tensor | None = None,
        is_causal: bool = False,
    ) -> Tensor:
        """Images x (B, C, H, W) to tokens (B, N, D) after the final norm; arguments as in `forward`."""
        if (encoder := self._cut(submodel)) is None:
            return super().forward_features(x, attn_mask=attn_mask, is_causal=is_causal)
        return encoder.forward_features(x, attn_mask=attn_mask, is_causal=is_causal)

    def forward_embedding(self, x: Tensor, submodel: Submodel | None = None) -> Tensor:
        """Images x (B, C, H, W) to pooled embeddings (B, D), before the classifier, if there is one."""
        encoder: Any = self._cut(submodel) or self
        if any(submodel.merges if submodel else ()):
            embedding: Tensor = encoder.forward_embedding(x)
        else:
            embedding = encoder.forward_head(encoder.forward_features(x), pre_logits=True)
        return embedding

    def forward_intermediates(
        self, x: Tensor, *arguments: Any, submodel: Submodel | None = None, **options: Any
    ) -> Any:
        """Tokens of several layers of a submodel; all other arguments and the answer are timm's."""
        if (encoder := self._cut(submodel)) is None:
            return super().forward_intermediates(x, *arguments, **options)
        return encoder.forward_intermediates(x, *arguments, **options)

    # Views made without gradients would not tell which weights are frozen, and copies could never be trained.
    @torch.inference_mode(False)
    @torch.enable_grad()
    def extract(self, submodel: Submodel, *, copy: bool = True) -> TimmEncoder:
        """A submodel as a plain timm encoder, free of this library.

        Args:
            submodel: Which one. If uniform, ``timm.create_model(..., mlp_ratio=r)`` can build it again
                wherever timm can express its width.
            copy: With tensors of its own, of just the size it needs. False shares those of this model, as
                every call with a submodel does: hundreds fit in the memory of one, to be run, not saved
                or changed (``train()``, ``eval()`` and ``to()`` reach the layers that the two share).

        Raises:
            SubmodelError: It does not fit this encoder.
        """
        submodel = self.space.check(submodel)
        if any(submodel.merges):
            raise SubmodelError(
                f"{submodel} merges tokens, which none of timm's classes does: run it with this library"
            )
        return answering_for_all(self.cut(submodel, copy=copy))

    @torch.inference_mode(False)
    @torch.enable_grad()
    def cut(self, submodel: Submodel, *, copy: bool = False) -> Any:
        """A submodel as a module to be run, whether timm has a class for it or not.

        Args:
            submodel: Which one.
            copy: See `extract`.

        Raises:
            SubmodelError: It does not fit this encoder.
        """
        plain = self._cut_to(self.space.check(submodel))
        del plain.granularities, plain.refits, plain.tuned, plain.alignments
        del plain.measured, plain.nested, plain.poor
        for attribute in ("pretrained_cfg", "default_cfg"):
            if "architecture" in (config := getattr(plain, attribute, {})):
                setattr(plain, attribute, {**config, "architecture": plain_architecture(self)})
        if arguments := getattr(plain, "_model_args", {}):
            plain._model_args = {key: value for key, value in arguments.items() if key != "granularities"}
        if copy:
            plain = deepcopy(plain, own_tensors(plain))
            # Refits are nobody's parameters, and those they become are trained or frozen as the full ones.
            for name, parameter in self.named_parameters():
                plain.get_parameter(name).requires_grad_(parameter.requires_grad)
        return plain

    def _cut(self, submodel: Submodel | None) -> Any | None:
        """The submodel as an encoder, or None for the full one, which is timm's own code bit for bit."""
        # torch.fx traces with proxies in place of arguments left out: its graphs are of the full encoder.
        if submodel is None or isinstance(submodel, torch.fx.Proxy):
            return None
        if not isinstance(submodel, Submodel):
            raise TypeError(f"submodel must be a matvit.Submodel or None, not {type(submodel).__name__}")
        hidden, widths = tuple(map(hidden_units, self.blocks)), submodel.widths
        if widths == hidden and submodel.all_tokens:
            return None
        wrong = len(widths) != len(hidden) or any(w > h for w, h in zip(widths, hidden, strict=True))
        if wrong or not submodel.all_tokens or self.refits is not None:
            submodel = self.space.check(submodel)
        return self._cut_to(submodel)

    def _cut_to(self, submodel: Submodel) -> Any:
        return cut(
            self,
            self.timm_class,
            submodel,
            self.refits.cut_ffn if self.refits else cut_ffn,
            self.tuned.of(submodel) if self.tuned else {},
            self.alignments.of(submodel) if self.alignments else {},
        )


class MatViT(Elastic, VisionTransformer):
    """timm's `VisionTransformer`, elastic: the class of the `matvit_*` names."""

    timm_class = VisionTransformer


class MatViTDistilled(Elastic, VisionTransformerDistilled):
    """timm's `VisionTransformerDistilled` (DeiT with a distillation token), elastic."""

    timm_class = VisionTransformerDistilled


class MatEva(Elastic, Eva):
    """timm's `Eva` (EVA, EVA-02, DINOv3, Perception Encoders), elastic."""

    timm_class = Eva


_ELASTIC: Mapping[type, type[Elastic]] = {
    kind.timm_class: kind for kind in (MatViT, MatViTDistilled, MatEva)
} | {kind: kind for kind in (MatViT, MatViTDistilled, MatEva)}


def elastic(
    model: str | nn.Module,
    *,
    granularities: Mapping[str, float] | None = None,
    pretrained: bool = False,
    **arguments: Any,
) -> Elastic:
    """Make a timm Vision Transformer elastic.

    Args:
        model: A model of timm, or the name of one. A model in hand is left alone: the elastic one is a new
            object, which shares its parameters and buffers.
        granularities: Name -> share of the hidden units kept; None is S, M, L and XL, or what an elastic
            model has already.
        pretrained: With a name: load timm's pretrained weights.
        **arguments: With a name: others of `timm.create_model`.

    Raises:
        UnknownModelError: The model does not nest; the message says why.
        SubmodelError: The granularities do not increase up to 1.

    Example:
        >>> model = matvit.elastic("vit_base_patch14_reg4_dinov2.lvd142m", pretrained=True)
        >>> tokens = model.forward_features(images, model.submodel("50%"))
    """
    if isinstance(model, str):
        plain: Any = timm.create_model(model, pretrained=pretrained, **arguments)
    elif pretrained or arguments:
        raise TypeError("a model in hand takes no further arguments but granularities")
    else:
        plain = model
    kind = _ELASTIC.get(type(plain))
    if kind is None:
        raise UnknownModelError(
            f"a {type(plain).__name__} does not nest: only timm's VisionTransformer, "
            "VisionTransformerDistilled and Eva do"
        )
    if granularities is None:
        granularities = getattr(plain, "granularities", GRANULARITIES)
    shared = {id(tensor): tensor for tensor in chain(plain.parameters(), plain.buffers())}
    new: Elastic = deepcopy(plain, shared)
    new.__class__ = kind
    named = getattr(plain, "pretrained_cfg", {}).get("architecture", "")
    new.nested = getattr(plain, "nested", plain_name(named) != named)
    new._nest(granularities)
    return new


def refitted(model: Elastic, tensors: Mapping[str, Tensor]) -> Elastic:
    """An elastic encoder whose submodels use refitted FFNs; it shares all else with the one given.

    Args:
        model: It is left alone.
        tensors: See `matvit.vision.refits`.

    Raises:
        SubmodelError: The tensors are not those that the model's submodels need.
    """
    new = elastic(model)
    new.refits = Refits(tensors)
    new.refits.check(new)
    return new


def tuned(model: Elastic, tensors: Mapping[str, Tensor], stretches: Mapping[Submodel, int]) -> Elastic:
    """An elastic encoder, stretches of whose curve have small tensors of their own; it shares all else.

    Args:
        model: It is left alone.
        tensors: See `matvit.vision.tuned`.
        stretches: The number of each submodel's stretch.

    Raises:
        SubmodelError: The tensors are not those that the stretches need.
    """
    new = elastic(model)
    new.tuned = Tuned(tensors, stretches)
    new.tuned.check(new)
    return new


def with_alignments(
    model: Elastic, tensors: Mapping[str, Tensor], numbers: Mapping[Submodel, int]
) -> Elastic:
    """An elastic encoder, the embeddings of some of whose submodels are aligned; it shares all else.

    Args:
        model: It is left alone.
        tensors: See `matvit.vision.alignment`; without any, no submodel is aligned.
        numbers: Of the submodels.

    Raises:
        SubmodelError: The tensors are not those that the submodels need.
    """
    new = elastic(model)
    new.alignments = Alignments(tensors, numbers) if tensors else None
    if new.alignments is not None:
        new.alignments.check(new)
    return new


def plain_architecture(model: TimmEncoder) -> str:
    """The timm name of the plain encoder: ``vit_*`` for ``matvit_*``, and its own for any other."""
    return plain_name(model.pretrained_cfg["architecture"])
