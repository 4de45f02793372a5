"""A pretrained encoder made elastic from a few images: its FFNs ordered and refitted, in closed form.

The images go through the full encoder, and the moments of each FFN's hidden units are all that is kept of
them; layers whose moments do not fit in memory together wait for another pass. Then each FFN gets its order
and, for every granularity below the full one, its output projection: see `matvit.refitting.closed_form`. It
is fitted to the inputs it has in the full encoder, so that each layer can have any of these widths whatever
the others have, as Mix'n'Match asks.

Where an FFN has a norm over its hidden units, those kept are normed without the others: further passes take
their moments as each granularity's norm leaves them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from matvit.errors import RefitError
from matvit.progress import Progress, silent
from matvit.refitting.closed_form import Moments, Refit, order, refit
from matvit.vision.elastic_vit import Elastic, elastic, refitted
from matvit.vision.ffn import hidden_of, norm_of, output_of, take_units
from matvit.vision.refits import named_ffns
from matvit.vision.views import replaced

HELD_OUT = 5
"""One image of so many is held out, to choose ridges by."""
MEMORY_BYTES = 2 * 2**30
"""What moments may fill at a time; those of one FFN are taken together, whatever they need."""


@dataclass(frozen=True)
class Elasticized:
    """A refitted encoder, and how it came about.

    Attributes:
        model: Elastic; its full encoder is the one given.
        fits: Of each output layer, by name of the FFN and width.
        images: That it was fitted to, those held out included.
        tokens: Of these images, in each layer.
    """

    model: Elastic
    fits: Mapping[tuple[str, int], Refit]
    images: int
    tokens: int

    @property
    def widest(self) -> int:
        """Hidden units of the widest FFN that was refitted; with fewer tokens, its ridge did the rest."""
        return max((width for _, width in self.fits), default=0)


def elasticize(
    model: str | nn.Module,
    batches: Sequence[Tensor],
    *,
    granularities: Mapping[str, float] | None = None,
    memory_bytes: int = MEMORY_BYTES,
    progress: Progress = silent,
) -> Elasticized:
    """Order and refit every FFN of an encoder; no labels and no gradients are needed.

    Args:
        model: What `matvit.elastic` takes; it is left alone.
        batches: Preprocessed images (B, C, H, W); a few hundred images are enough.
        granularities: As in `matvit.elastic`.
        memory_bytes: What moments may fill at a time.
        progress: Told of every step.

    Raises:
        UnknownModelError: The model does not nest.
        RefitError: It is refitted already, or has nothing to refit; the images are too few or all alike; or
            activations are not finite.
    """
    full = ready(model, granularities=granularities)
    ffns = [_FFN(name, ffn, widths) for name, ffn, widths in named_ffns(full) if widths]
    _check(batches)

    collect = partial(_collected, full, batches, memory_bytes=memory_bytes, progress=progress)
    tokens = 0
    for number, (ffn, (fit, held_out)) in enumerate(
        zip(ffns, collect([ffn.units() for ffn in ffns]), strict=True), 1
    ):
        tokens = fit.count + held_out.count
        ffn.choose(fit + held_out)
        if not ffn.normed:
            ffn.refit_all(fit, held_out)
        progress("FFNs fitted", number, len(ffns))
    each = [(ffn, width) for ffn in ffns if ffn.normed for width in ffn.widths]
    taps = [ffn.normed_units(width) for ffn, width in each]
    for (ffn, width), (fit, held_out) in zip(each, collect(taps), strict=True):
        ffn.refit(width, fit, held_out)
    tensors = {name: tensor for ffn in ffns for name, tensor in ffn.tensors.items()}
    fits = {(ffn.name, width): fit for ffn in ffns for width, fit in ffn.fits.items()}
    return Elasticized(refitted(full, tensors), fits, sum(map(len, batches)), tokens)


def ready(model: str | nn.Module, *, granularities: Mapping[str, float] | None = None) -> Elastic:
    """The elastic encoder in evaluation mode, if it is one that can be refitted.

    Raises:
        UnknownModelError: The model does not nest.
        RefitError: It is refitted already, or has nothing to refit.
    """
    full = elastic(model, granularities=granularities).eval()
    if full.refits is not None:
        raise RefitError("this model is refitted already: give the one that it came from")
    if len(full.granularities) == 1:
        raise RefitError("this model has no granularity below the full one, so nothing is to be refitted")
    return full


def _check(batches: Sequence[Tensor]) -> None:
    images = sum(map(len, batches))
    if images < 2:
        raise RefitError(
            f"{images} images are too few: one is to fit to, another to check; give a few hundred"
        )
    first = next(batch[0] for batch in batches if len(batch))
    if all(torch.equal(batch, first.expand_as(batch)) for batch in batches):
        raise RefitError(f"the {images} images are all alike, which tells nothing about hidden units")


@dataclass(frozen=True)
class _Tap:
    """Vectors to take the moments of: what `vectors` makes of a module's input and output."""

    ffn: str
    module: nn.Module
    vectors: Callable[[Tensor, Tensor], Tensor]
    size: int


class _FFN:
    """One FFN on its way to the tensors that `matvit.vision.refits` describes."""

    def __init__(self, name: str, module: Any, widths: Sequence[int]) -> None:
        self.name, self.widths = name, widths
        self.tensors: dict[str, Tensor] = {}
        self.fits: dict[int, Refit] = {}
        self._module, self._norm, self._hidden = module, norm_of(module), hidden_of(module)
        self._layer_name, self._layer = output_of(module)
        self._weight_DH = self._layer.weight.detach()[:, -self._hidden :]

    @property
    def normed(self) -> bool:
        """Whether there is a norm over the hidden units."""
        return self._norm is not None

    def units(self) -> _Tap:
        """The hidden units, as the output layer reads them."""
        return _Tap(self.name, self._layer, lambda x, _: x[..., -self._hidden :], self._hidden)

    def normed_units(self, width: int) -> _Tap:
        """The units kept, normed without the others, and behind them what the full layer makes of all."""
        kept = self._order[:width].to(self._weight_DH.device)
        own = {key: tensor.detach()[kept] for key, tensor in self._norm.named_parameters()}
        # A copy, or it would share the hook that is about to call it.
        norm = replaced(deepcopy(self._norm), normalized_shape=(width,), **own)

        def vectors(x: Tensor, normed: Tensor) -> Tensor:
            return torch.cat([norm(x[..., kept]), normed @ self._weight_DH.T], dim=-1)

        return _Tap(self.name, self._norm, vectors, width + len(self._weight_DH))

    def choose(self, moments: Moments) -> None:
        """Order the units."""
        centre = moments.mean if self._layer.bias is not None else torch.zeros_like(moments.mean)
        self._order = order(moments.about(centre), self._weight_DH, self.widths[-1])
        units = self._order.to(self._weight_DH.device)
        self.tensors |= {f"{self.name}.{key}": t for key, t in take_units(self._module, units).items()}

    def refit_all(self, fit: Moments, held_out: Moments) -> None:
        """Refit every width, by the moments of all units."""
        both = [moments.with_image(self._weight_DH) for moments in (fit, held_out)]
        outputs = self._hidden + torch.arange(len(self._weight_DH), device=self._order.device)
        for width in self.widths:
            entries = torch.cat([self._order[:width], outputs])
            self.refit(width, *(moments.of(entries) for moments in both))

    def refit(self, width: int, fit: Moments, held_out: Moments) -> None:
        """Refit one width, by the moments of the units kept followed by the outputs of all."""
        weight, bias = self._layer.weight.detach(), self._layer.bias
        sliced_DW = self._weight_DH[:, self._order[:width].to(weight.device)]
        found = self.fits[width] = refit(fit, held_out, sliced_DW, bias=bias is not None)
        # In a fused layer, other columns than the hidden units' come first.
        columns = [weight[:, : -self._hidden], found.weight.to(weight)]
        name = f"{self.name}.{self._layer_name}.{width}"
        self.tensors[f"{name}.weight"] = torch.cat(columns, dim=1)
        if bias is not None:
            self.tensors[f"{name}.bias"] = bias.detach() + found.shift.to(bias)


def _collected(
    full: Elastic,
    batches: Sequence[Tensor],
    taps: Sequence[_Tap],
    *,
    memory_bytes: int,
    progress: Progress,
) -> Iterator[tuple[Moments, Moments]]:
    """Moments on images to fit to and on images held out, tap by tap, in as few passes as fit in memory."""
    groups: list[list[_Tap]] = [[]]
    for tap in taps:
        if groups[-1] and 2 * 8 * sum(each.size**2 for each in [*groups[-1], tap]) > memory_bytes:
            groups.append([])
        groups[-1].append(tap)
    images, done = sum(map(len, batches)), 0
    for group in filter(None, groups):
        with ExitStack() as hooks, torch.inference_mode():
            sums = [_Sums(tap, hooks) for tap in group]
            for batch in batches:
                held_out = torch.arange(done, done + len(batch)) % images % HELD_OUT == 1
                for each in sums:
                    each.held_out = held_out
                full.forward_features(batch.to(next(full.parameters())))
                done += len(batch)
                progress("images seen", done, images * len(groups))
        for each in sums:
            yield each.moments
        del sums


class _Sums:
    """The moments that grow while images go through a module.

    Attributes:
        held_out: Which images of the batch now under way are held out.
        moments: Of those that are not, and of those that are.
    """

    held_out: Tensor

    def __init__(self, tap: _Tap, hooks: ExitStack) -> None:
        # Apple's GPUs have no float64.
        model_device = next(tap.module.parameters()).device
        device = "cpu" if model_device.type == "mps" else model_device
        self.moments = Moments(tap.size, device), Moments(tap.size, device)
        self._tap = tap
        hooks.callback(tap.module.register_forward_hook(self._take).remove)

    def _take(self, _: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        x_BNP = self._tap.vectors(inputs[0], output)
        for moments, chosen in zip(self.moments, (~self.held_out, self.held_out), strict=True):
            try:
                moments.add(x_BNP[chosen.to(x_BNP.device)].flatten(0, -2))
            except RefitError as error:
                raise RefitError(f"{self._tap.ffn}: {error}") from error
