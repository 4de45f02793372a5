"""A second refit of the granularities, layer by layer, each along the path that it takes itself.

`matvit.refitting.first_pass` fits each FFN to the inputs it has in the full encoder, whatever the layers
before it leave out. Here a granularity's own layers come before: with x the stream that its refitted layers
have made of an image, and x' that of the full encoder, layer i refits its output V so that

    g (V h(x) + c)   comes closest to   block'(x') - (block(x) - g (V h(x) + c))

where g is what the block scales its FFN's output by before it adds it to the stream. What went wrong in the
layers before is put right as far as layer i can. The problem is that of `matvit.refitting.closed_form`, with
the refit that is there in place of the slice. Blocks that do more to an FFN's output than scale and add it
keep theirs.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from matvit.errors import RefitError
from matvit.progress import Progress, silent
from matvit.refitting.closed_form import Moments, refit
from matvit.refitting.first_pass import HELD_OUT
from matvit.submodels.submodel import Submodel
from matvit.vision.elastic_vit import Elastic, refitted
from matvit.vision.ffn import ffns, hidden_units, output_of


@dataclass
class _Batch:
    """Some images on their way through the blocks.

    Attributes:
        held_out: Which of them choose the ridge.
        arguments: What each block is called with beside the stream.
        start: The stream before the first block, (B, N, D).
        full: The stream of the full encoder.
        cut: That of the granularity.
    """

    held_out: Tensor
    arguments: list[tuple[tuple[Any, ...], dict[str, Any]]]
    start: Tensor
    full: Tensor
    cut: Tensor


@torch.no_grad()
def refit_along_paths(
    model: Elastic,
    batches: Sequence[Tensor],
    *,
    progress: Progress = silent,
) -> Elastic:
    """A refitted encoder whose granularities are fitted once more; it shares all else with the one given.

    Submodels that mix granularities use the same tensors.

    Args:
        model: A refitted encoder; it is left alone.
        batches: Preprocessed images (B, C, H, W), which all stay in memory as streams of tokens, three times.
        progress: Told of the layers that are refitted.

    Raises:
        RefitError: The model is not refitted, or activations are not finite.
    """
    if model.refits is None:
        raise RefitError("only a refitted encoder can be refitted along its granularities' paths")
    tensors = dict(model.refits.tensors)
    granularities, done = model.space.uniforms()[:-1], 0
    images = sum(map(len, batches))
    streams = []
    for batch in batches:
        numbers = torch.arange(done, done + len(batch))
        streams.append(_begin(model, batch, numbers % images % HELD_OUT == 1))
        done += len(batch)
    for number, submodel in enumerate(granularities):
        for stream in streams:
            stream.full = stream.cut = stream.start
        for layer in range(model.space.depth):
            _refit_layer(model, tensors, submodel, layer, streams)
            progress(
                "layers refitted",
                number * model.space.depth + layer + 1,
                len(granularities) * model.space.depth,
            )
    return refitted(model, tensors)


def _begin(model: Elastic, batch: Tensor, held_out: Tensor) -> _Batch:
    """The stream before the first block, and what else blocks are called with."""
    seen: list[tuple[Tensor, tuple[Any, ...], dict[str, Any]]] = []

    def see(_: Any, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((given[0], given[1:], named))

    with ExitStack() as hooks:
        for block in model.blocks:
            hooks.enter_context(block.register_forward_pre_hook(see, with_kwargs=True))
        model.forward_features(batch.to(next(model.parameters())))
    start = seen[0][0]
    return _Batch(held_out, [(given, named) for _, given, named in seen], start, start, start)


def _refit_layer(
    model: Elastic, tensors: dict[str, Tensor], submodel: Submodel, layer: int, streams: Sequence[_Batch]
) -> None:
    """Refit the FFNs of one block and send all streams through it."""
    (number, block), width = list(model.blocks.named_children())[layer], submodel.widths[layer]
    following = [_run(block, stream.full, stream.arguments[layer]) for stream in streams]
    if width < hidden_units(block):
        for within, ffn in ffns(block).items():
            output = output_of(ffn)[0]
            name = ".".join(filter(None, ("blocks", number, within, output, str(width))))
            part = _part(model, tensors, submodel, layer)
            place = ".".join(filter(None, (within, output)))
            found = _refit(part, part.get_submodule(place), layer, width, streams, following)
            tensors |= {f"{name}.{key}": tensor for key, tensor in found.items()}
    part = _part(model, tensors, submodel, layer)
    for stream, full in zip(streams, following, strict=True):
        stream.cut = _run(part, stream.cut, stream.arguments[layer])
        stream.full = full


def _refit(
    part: Any, output: Any, layer: int, width: int, streams: Sequence[_Batch], following: Sequence[Tensor]
) -> dict[str, Tensor]:
    """New tensors of an output layer, by name; none where they would not reach the stream as they are."""
    scale_D = _scale(part, output, streams[0].cut, streams[0].arguments[layer])
    if scale_D is None:
        return {}
    now_DW = output.weight[:, -width:]
    place = "cpu" if now_DW.device.type == "mps" else now_DW.device
    moments = [Moments(width + len(now_DW), place) for _ in range(2)]
    for stream, full in zip(streams, following, strict=True):
        read: list[Tensor] = []
        with output.register_forward_hook(lambda _, given, made, read=read: read.append(given[0])):
            missing_BND = (full - _run(part, stream.cut, stream.arguments[layer])) / scale_D
        units_BNW = read[0][..., -width:]
        both = torch.cat([units_BNW, missing_BND + units_BNW @ now_DW.T], dim=-1)
        for each, chosen in zip(moments, (~stream.held_out, stream.held_out), strict=True):
            each.add(both[chosen.to(both.device)].flatten(0, -2))
    found = refit(moments[0], moments[1], now_DW, bias=output.bias is not None)
    tensors = {"weight": torch.cat([output.weight[:, :-width], found.weight.to(now_DW)], dim=1)}
    if output.bias is not None:
        tensors["bias"] = output.bias + found.shift.to(output.bias)
    return tensors


def _scale(
    part: Any, output: Any, x_BND: Tensor, arguments: tuple[tuple[Any, ...], dict[str, Any]]
) -> Tensor | None:
    """What a block multiplies an output by before adding it to the stream (D,), or None if it does more.

    Found by trying: an output that is larger by one number everywhere must move all tokens alike.
    """
    sizes: list[Tensor] = []

    def add(_: Any, given: Any, made: Tensor) -> Tensor:
        sizes.append(made.square().mean().sqrt())
        return made + sizes[0]

    before = _run(part, x_BND, arguments)
    with output.register_forward_hook(add):
        moved_BND = _run(part, x_BND, arguments) - before
    scale_D = moved_BND.flatten(0, -2).mean(0)
    alike = (moved_BND - scale_D).abs().max() <= 0.01 * scale_D.abs().min()
    return scale_D / sizes[0] if alike and sizes[0] > 0 else None


def _part(model: Elastic, tensors: Mapping[str, Tensor], submodel: Submodel, layer: int) -> Any:
    """One block of a granularity as its tensors are now."""
    return refitted(model, tensors).cut(submodel).blocks[layer]


def _run(block: Any, x_BND: Tensor, arguments: tuple[tuple[Any, ...], dict[str, Any]]) -> Tensor:
    given, named = arguments
    made: Tensor = block(x_BND, *given, **named)
    return made
