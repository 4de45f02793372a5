"""Submodels as values: FFN widths, one a layer, and the family of them that nests in one encoder.

Granularities and Mix'n'Match follow MatFormer (arXiv 2310.07707, sections 3.1 and 3.3).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby, pairwise

from matvit.errors import SubmodelError

GRANULARITIES: Mapping[str, float] = {"S": 1 / 8, "M": 1 / 4, "L": 1 / 2, "XL": 1.0}
"""Share of each layer's hidden units that a granularity keeps, smallest first."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")  # Never a number, an amount such as 60%, or widths.
_NOT_NAMES = ("all", "auto")  # Budgets that mean something else.


@dataclass(frozen=True)
class Submodel:
    """One nested encoder: how many hidden units each layer's FFN keeps, counted from the first.

    Two submodels with equal widths are equal, whatever their labels; ``str`` is a spelling that
    every budget option reads back, such as ``S*5+M*7`` or ``384*5+768*7``.

    Args:
        widths: Hidden units kept, one number a layer.
        labels: Granularity of each layer where it has one; `SubmodelSpace` fills it in.
    """

    widths: tuple[int, ...]
    labels: tuple[str, ...] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        if not self.widths or not all(isinstance(w, int) and w > 0 for w in self.widths):
            raise SubmodelError(f"widths must be positive whole numbers, one a layer; got {self.widths!r}")

    def __str__(self) -> str:
        runs = [(name, len(list(run))) for name, run in groupby(self.labels or map(str, self.widths))]
        if len(runs) == 1 and self.labels:
            return runs[0][0]
        return "+".join(f"{name}*{count}" for name, count in runs)


@dataclass(frozen=True)
class SubmodelSpace:
    """Every submodel of one encoder.

    Args:
        hidden: FFN hidden units of the full encoder, one number a layer.
        granularities: Name -> share of the hidden units kept, smallest first, the last one 1.
        named_only: Layers may have the widths of granularities alone, as those of a refitted encoder.

    Raises:
        SubmodelError: The granularities do not increase up to 1, or a name would not read back.
    """

    hidden: tuple[int, ...]
    granularities: Mapping[str, float] = field(default_factory=lambda: GRANULARITIES)
    named_only: bool = False

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

    def uniform(self, granularity: str) -> Submodel:
        """The submodel with the same granularity in every layer."""
        return self.labelled((granularity,) * self.depth)

    def uniforms(self) -> tuple[Submodel, ...]:
        """One submodel a granularity, smallest first."""
        return tuple(self.uniform(name) for name in self.granularities)

    def labelled(self, labels: tuple[str, ...]) -> Submodel:
        """The submodel with the given granularity in each layer."""
        return Submodel(
            tuple(self._width(name, hidden) for name, hidden in zip(labels, self.hidden, strict=True)), labels
        )

    @cached_property
    def curve(self) -> tuple[Submodel, ...]:
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

        Returns:
            The submodel, or None when the text is not a spelling of widths at all.

        Raises:
            SubmodelError: It is one, but does not fit this encoder.
        """
        if text.strip() in self.granularities:
            return self.uniform(text.strip())
        names = "|".join(sorted(map(re.escape, self.granularities), key=len, reverse=True))
        terms = [
            re.fullmatch(rf"\s*({names}|\d{{1,18}})(?:\s*\*\s*(\d{{1,18}}))?\s*", t)
            for t in re.split(r"[+,]", text)
        ]
        if not all(terms) or text.strip().isdigit():
            return None
        runs = [(m[1], int(m[2] or 1)) for m in terms if m]
        if (layers := sum(count for _, count in runs)) != self.depth:
            raise SubmodelError(f"{text!r} gives {layers} widths; this encoder has {self.depth} layers")
        parts = [part for part, count in runs for _ in range(count)]
        widths = (
            self._width(p, h) if p in self.granularities else int(p)
            for p, h in zip(parts, self.hidden, strict=True)
        )
        return self.check(Submodel(tuple(widths)))

    def check(self, submodel: Submodel) -> Submodel:
        """Return the submodel, labelled where every layer's width has a name, if it fits this encoder.

        Raises:
            SubmodelError: The depth differs, or a layer cannot keep so many units.
        """
        if len(submodel.widths) != self.depth:
            raise SubmodelError(
                f"{submodel} has {len(submodel.widths)} layers; this encoder has {self.depth}"
            )
        for layer, (width, hidden) in enumerate(zip(submodel.widths, self.hidden, strict=True)):
            if width > hidden:
                raise SubmodelError(f"{submodel} keeps {width} units in layer {layer}, which has {hidden}")
        labels = [self._label(w, h) for w, h in zip(submodel.widths, self.hidden, strict=True)]
        named = tuple(label for label in labels if label is not None)
        if self.named_only and None in labels:
            layer = labels.index(None)
            widths = [f"{name} ({self._width(name, self.hidden[layer])})" for name in self.granularities]
            raise SubmodelError(
                f"{submodel} keeps {submodel.widths[layer]} units in layer {layer}; this encoder was "
                f"refitted for {', '.join(widths)} alone"
            )
        return Submodel(submodel.widths, named if len(named) == self.depth else None)

    def _width(self, granularity: str, hidden: int) -> int:
        return max(1, round(self.granularities[granularity] * hidden))

    def _label(self, width: int, hidden: int) -> str | None:
        return next((name for name in self.granularities if self._width(name, hidden) == width), None)
