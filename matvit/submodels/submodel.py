"""Submodels as values: what each layer keeps, and the family of them that nests in one encoder.

Granularities and Mix'n'Match follow MatFormer (arXiv 2310.07707, sections 3.1 and 3.3), merges of tokens
ToMe (arXiv 2210.09461).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import groupby, pairwise

from matvit.errors import SubmodelError
from matvit.submodels.tokens import UNKNOWN, Tokens

GRANULARITIES: Mapping[str, float] = {"S": 1 / 8, "M": 1 / 4, "L": 1 / 2, "XL": 1.0}
"""Share of each layer's hidden units that a granularity keeps, smallest first."""
SIDES = tuple(sixteenths / 16 for sixteenths in range(8, 16))
"""Sides of smaller images, as shares of the encoder's own."""
MERGED = (1, 0.75, 0.5, 0.25)
"""Shares of all patches that merge, as many in each layer, where smaller images are no way."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # Never a number, an amount such as 60%, or widths.
_NOT_NAMES = ("all", "auto", "mixnmatch")  # Budgets that mean something else.


_IMAGE_SIZE = re.compile(r"\s*(\d{1,18})\s*px\s*", re.IGNORECASE)
_NUMBER = r"\d{1,18}"


@dataclass(frozen=True)
class Layer:
    """What a submodel keeps of one layer.

    Args:
        ffn: Hidden units of its FFN, counted from the first.
        merge: Tokens that merge into others between its attention and its FFN, up to half of the patches.

    Raises:
        SubmodelError: The units are no positive whole number, or the tokens no whole number.
    """

    ffn: int
    merge: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.ffn, int) or self.ffn < 1:
            raise SubmodelError(f"widths must be positive whole numbers, one a layer; got {self.ffn!r}")
        if not isinstance(self.merge, int) or self.merge < 0:
            raise SubmodelError(f"tokens to merge must be a whole number, one a layer; got {self.merge!r}")


@dataclass(frozen=True, init=False)
class Submodel:
    """One nested encoder: what it keeps of each layer, and how it reads images.

    Two submodels that keep the same are equal, whatever their labels; ``str`` is a spelling that every
    budget option reads back, such as ``S*5+M*7``, ``384*5+768*7``, ``L@168px``, ``XL~8`` (so many tokens
    merge in each layer) or ``L~0*6+24*6@196px``.

    Args:
        layers: One a layer of the encoder; a number is a layer that keeps so many hidden units.
        image_size: Side in pixels of the images that it is given; None is the encoder's own.
        labels: Granularity of each layer where it has one; `SubmodelSpace` fills it in.

    Raises:
        SubmodelError: There is no layer, or a number is not positive and whole.

    Example:
        >>> Submodel((384,) * 5 + (768,) * 7) == Submodel([Layer(384)] * 5 + [Layer(768)] * 7)
        True
    """

    layers: tuple[Layer, ...]
    image_size: int | None
    labels: tuple[str, ...] | None = field(compare=False, repr=False)

    def __init__(
        self,
        layers: Iterable[Layer | int],
        *,
        image_size: int | None = None,
        labels: tuple[str, ...] | None = None,
    ) -> None:
        each = tuple(layer if isinstance(layer, Layer) else Layer(layer) for layer in layers)
        if not each:
            raise SubmodelError("widths must be positive whole numbers, one a layer; got none")
        if image_size is not None and not (isinstance(image_size, int) and image_size > 0):
            raise SubmodelError(f"an image size must be a positive whole number, got {image_size!r}")
        object.__setattr__(self, "layers", each)
        object.__setattr__(self, "image_size", image_size)
        object.__setattr__(self, "labels", labels)

    @property
    def widths(self) -> tuple[int, ...]:
        """Hidden units that the FFNs keep, one number a layer."""
        return tuple(layer.ffn for layer in self.layers)

    @property
    def merges(self) -> tuple[int, ...]:
        """Tokens that merge, one number a layer."""
        return tuple(layer.merge for layer in self.layers)

    @property
    def all_tokens(self) -> bool:
        """Whether it sees what the full encoder sees: widths alone make it."""
        return self.image_size is None and not any(self.merges)

    def __str__(self) -> str:
        spelled = _runs(self.labels or map(str, self.widths), alone=self.labels is not None)
        if any(self.merges):
            spelled += f"~{_runs(map(str, self.merges), alone=True).replace('*1+', '+').removesuffix('*1')}"
        return spelled if self.image_size is None else f"{spelled}@{self.image_size}px"


def _runs(names: Iterable[str], *, alone: bool) -> str:
    """Names of layers, equal neighbours as one: ``S*5+M*7``; with `alone`, one that all have stands alone."""
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    return runs[0][0] if alone and len(runs) == 1 else "+".join(f"{name}*{count}" for name, count in runs)


@dataclass(frozen=True)
class SubmodelSpace:
    """Every submodel of one encoder.

    Args:
        hidden: FFN hidden units of the full encoder, one number a layer.
        granularities: Name -> share of the hidden units kept, smallest first, the last one 1.
        named_only: Layers may have the widths of granularities alone, as those of a refitted encoder.
        tokens: What the encoder makes of an image.
        measured: Submodels that were found to keep most of the full encoder's answers at their costs,
            cheapest first, and the mean cosine of their embeddings to its own.
        nested: Whether narrower layers were trained or refitted. Slices of others are worth nothing.
        poor: Submodels that were found not to be worth using, and why.

    Raises:
        SubmodelError: The granularities do not increase up to 1, or a name would not read back.
    """

    hidden: tuple[int, ...]
    granularities: Mapping[str, float] = field(default_factory=lambda: GRANULARITIES)
    named_only: bool = False
    tokens: Tokens = UNKNOWN
    measured: Mapping[Submodel, float] = field(default_factory=dict)
    nested: bool = True
    poor: Mapping[Submodel, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.granularities, Mapping):
            raise SubmodelError(f"granularities must map names to shares, got {self.granularities!r}")
        for name, share in self.granularities.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _NOT_NAMES:
                raise SubmodelError(
                    "a granularity is named by a letter, then letters, digits or _, "
                    f"but not {' or '.join(_NOT_NAMES)}; got {name!r}"
                )
            if isinstance(share, bool) or not isinstance(share, int | float):
                raise SubmodelError(f"granularity {name} must be a number, got {share!r}")
        shares = list(self.granularities.values())
        increasing = all(small < large for small, large in pairwise(shares))
        if not shares or shares[0] <= 0 or shares[-1] != 1 or not increasing:
            raise SubmodelError(f"granularities must increase up to 1, got {dict(self.granularities)}")

    @property
    def depth(self) -> int:
        """Number of layers."""
        return len(self.hidden)

    @property
    def full(self) -> Submodel:
        """The full encoder, XL."""
        return self.uniform(list(self.granularities)[-1])

    @property
    def smallest(self) -> Submodel:
        """The submodel that keeps the least everywhere, S."""
        return self.uniform(next(iter(self.granularities)))

    def uncharted(self, submodels: Iterable[Submodel]) -> list[Submodel]:
        """Those whose times do not lie between those of the curve's, which are of other kinds."""
        charted = set(self.curve)
        return [s for s in submodels if s not in charted and not (self.is_mixnmatch and s.all_tokens)]

    def uniform(self, granularity: str) -> Submodel:
        """The submodel with the same granularity in every layer."""
        return self.labelled((granularity,) * self.depth)

    def uniforms(self) -> tuple[Submodel, ...]:
        """One submodel a granularity, smallest first."""
        return tuple(self.uniform(name) for name in self.granularities)

    def labelled(self, labels: tuple[str, ...]) -> Submodel:
        """The submodel with the given granularity in each layer."""
        widths = (self._width(name, hidden) for name, hidden in zip(labels, self.hidden, strict=True))
        return Submodel(widths, labels=labels)

    @property
    def curve(self) -> tuple[Submodel, ...]:
        """The submodels that budgets choose from, cheapest first.

        Those that were measured, or else Mix'n'Match, or where nothing is nested, those of fewer tokens.
        """
        if self.is_mixnmatch:
            return self.mixnmatch
        return tuple(self.measured) or (*self.fewer_tokens, self.full)

    @property
    def is_mixnmatch(self) -> bool:
        """Whether the curve is Mix'n'Match."""
        return self.nested and not self.measured

    @property
    def smaller_images(self) -> tuple[Submodel, ...]:
        """The full encoder at smaller image sizes, smallest first: `SIDES`, in whole patches, rounded."""
        if self.tokens.one_size:
            return ()
        side, patch = self.tokens.image_size[0], max(self.tokens.patch_size)
        sizes = dict.fromkeys(patch * round(share * side / patch) for share in SIDES)
        return tuple(replace(self.full, image_size=size) for size in sizes if 0 < size < side)

    @property
    def fewer_tokens(self) -> tuple[Submodel, ...]:
        """What costs less and needs no training, cheapest first: smaller images, or else merging tokens."""
        if self.smaller_images or self.tokens.no_merging:
            return self.smaller_images
        patches = self.tokens.patches(None)
        counts = dict.fromkeys(round(share * patches / self.depth) for share in MERGED)
        return tuple(
            self.check(Submodel(Layer(width, count) for width in self.hidden)) for count in counts if count
        )

    def doubt(self, submodel: Submodel) -> str:
        """Why nothing is to be expected of a submodel; empty where there is no such reason."""
        if self.nested or submodel.widths == self.hidden or submodel in self.measured:
            return ""
        return f"{submodel} has narrower layers that were never trained, refitted or measured"

    @cached_property
    def mixnmatch(self) -> tuple[Submodel, ...]:
        """The Mix'n'Match curve, cheapest first: between neighbouring granularities, one layer at a time.

        The larger granularity is always in the last layers, so widths never shrink with depth.
        A depth of 12 with four granularities gives 37 submodels.
        """
        steps = [
            self.labelled((small,) * (self.depth - k) + (large,) * k)
            for small, large in pairwise(self.granularities)
            for k in range(self.depth)
        ]
        return (*steps, self.full)

    def parse(self, text: str) -> Submodel | None:
        """Read a submodel that is spelled out: ``M``, ``S*5+M*7``, ``384*5+768*7`` or ``384,384,768``.

        The tokens that merge in each layer may follow, and an image size: ``M~8``, ``M~0*6+24*6@168px``.

        Returns:
            The submodel, or None when the text is not a spelling of one at all.

        Raises:
            SubmodelError: It is one, but does not fit this encoder.
        """
        spelled, at, size = text.partition("@")
        spelled, tilde, merging = spelled.partition("~")
        pixels = _IMAGE_SIZE.fullmatch(size)
        widths = self._spelled(spelled, self.granularities, text, "widths")
        merges = self._spelled(merging, None, text, "numbers of tokens") if tilde else ["0"] * self.depth
        if widths is None or merges is None or bool(at) != bool(pixels):
            return None
        layers = [
            Layer(self._width(width, hidden) if width in self.granularities else int(width), int(merged))
            for width, hidden, merged in zip(widths, self.hidden, merges, strict=True)
        ]
        return self.check(Submodel(layers, image_size=int(pixels[1]) if pixels else None))

    def _spelled(self, runs: str, names: Iterable[str] | None, text: str, what: str) -> list[str] | None:
        """One name or number a layer, as in ``S*5+M*7`` and ``384,384,768``; None where it is none of these.

        What stands alone is every layer's: a name where there are `names`, and a number where there are not.
        """
        alone = "|".join(sorted(map(re.escape, names), key=len, reverse=True)) if names else _NUMBER
        one = f"{alone}|{_NUMBER}"
        if re.fullmatch(rf"\s*({alone})\s*", runs):
            return [runs.strip()] * self.depth
        terms = [
            re.fullmatch(rf"\s*({one})(?:\s*\*\s*({_NUMBER}))?\s*", term) for term in re.split("[+,]", runs)
        ]
        if not all(terms) or runs.strip().isdigit():
            return None
        counted = [(term[1], int(term[2] or 1)) for term in terms if term]
        if (layers := sum(count for _, count in counted)) != self.depth:
            raise SubmodelError(f"{text!r} gives {layers} {what}; this encoder has {self.depth} layers")
        return [name for name, count in counted for _ in range(count)]

    def check(self, submodel: Submodel) -> Submodel:
        """Return the submodel, labelled where every layer's width has a name, if it fits this encoder.

        Raises:
            SubmodelError: The depth differs, a layer cannot keep so many units, tokens cannot merge, or the
                encoder does not read images of that size.
        """
        layers = submodel.layers
        if len(layers) != self.depth:
            raise SubmodelError(f"{submodel} has {len(layers)} layers; this encoder has {self.depth}")
        for number, (layer, hidden) in enumerate(zip(layers, self.hidden, strict=True)):
            if layer.ffn > hidden:
                raise SubmodelError(
                    f"{submodel} keeps {layer.ffn} units in layer {number}, which has {hidden}"
                )
        labels = [self._label(layer, hidden) for layer, hidden in zip(layers, self.hidden, strict=True)]
        named = tuple(label for label in labels if label is not None)
        if self.named_only and None in labels:
            number = labels.index(None)
            widths = [f"{name} ({self._width(name, self.hidden[number])})" for name in self.granularities]
            raise SubmodelError(
                f"{submodel} keeps {layers[number].ffn} units in layer {number}; this encoder was "
                f"refitted for {', '.join(widths)} alone"
            )
        labelled = replace(submodel, labels=named if len(named) == self.depth else None)
        return replace(labelled, image_size=self.tokens.check(labelled))

    def _width(self, granularity: str, hidden: int) -> int:
        return max(1, round(self.granularities[granularity] * hidden))

    def _label(self, layer: Layer, hidden: int) -> str | None:
        return next((name for name in self.granularities if self._width(name, hidden) == layer.ffn), None)
