"""FFNs: which nest, and how they are cut to their first hidden units, as views of the full ones' tensors."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, SwiGLU
from timm.models.eva import Eva, EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import (
    Block,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
    VisionTransformer,
)
from torch import Tensor, nn

from matvit.errors import UnknownModelError
from matvit.submodels.submodel import Layer
from matvit.vision.pooled_token import PooledTokenBlock, PooledTokenEvaBlock
from matvit.vision.views import replaced

TimmEncoder: TypeAlias = VisionTransformer | Eva
"""An encoder of timm's that nests, or one that was made elastic."""


class _Layout(NamedTuple):
    """Where the hidden units of a kind of FFN are.

    Args:
        inputs: Linear layers whose first rows make the hidden units: name -> rows that one unit takes, as
            many runs of all units one after the other. Rows that follow make something else.
        outputs: The linear layer whose last columns read the hidden units, under one of these names.
    """

    inputs: Mapping[str, int]
    outputs: Sequence[str]


_LAYOUTS: Mapping[type, _Layout] = {
    Mlp: _Layout({"fc1": 1}, ["fc2"]),
    GluMlp: _Layout({"fc1": 2}, ["fc2"]),
    SwiGLU: _Layout({"fc1_g": 1, "fc1_x": 1}, ["fc2"]),
    # These two are FFN and attention in one, with a fused input and perhaps a fused output.
    ParallelScalingBlock: _Layout({"in_proj": 1}, ["mlp_out_proj", "out_proj"]),
    DiffParallelScalingBlock: _Layout({"in_proj": 1}, ["out_proj"]),
}
_BLOCKS_WITH_AN_FFN = (
    Block,
    PooledTokenBlock,
    ResPostBlock,
    EvaBlock,
    PooledTokenEvaBlock,
    EvaBlockPostNorm,
)


def ffns(block: Any) -> dict[str, Any]:
    """The FFNs of a block by their names in it; one that fuses its FFN with its attention is its own: "".

    Raises:
        UnknownModelError: The block, or an FFN in it, is of a kind that does not nest.
    """
    if type(block) in _BLOCKS_WITH_AN_FFN:
        found = {"mlp": block.mlp}
    elif type(block) is ParallelThingsBlock:
        found = {f"ffns.{name}.mlp": branch.mlp for name, branch in block.ffns.named_children()}
    elif type(block) in _LAYOUTS:
        found = {"": block}
    else:
        raise UnknownModelError(f"blocks of the kind {type(block).__name__} do not nest")
    for ffn in found.values():
        if type(ffn) not in _LAYOUTS:
            raise UnknownModelError(f"FFNs of the kind {type(ffn).__name__} do not nest")
        for layer in (*_inputs(ffn), output_of(ffn)[1]):
            if type(layer) is not nn.Linear:
                raise UnknownModelError(f"an FFN made of {type(layer).__name__} layers does not nest")
        norm = getattr(ffn, "norm", None)
        if not (norm is None or isinstance(norm, nn.Identity) or hasattr(norm, "normalized_shape")):
            raise UnknownModelError(f"an FFN with a norm of the kind {type(norm).__name__} does not nest")
    return found


def hidden_units(block: Any) -> int:
    """Hidden units of each FFN of a block."""
    return hidden_of(next(iter(ffns(block).values())))


def unit_size(block: Any) -> tuple[int, int]:
    """What one hidden unit in every FFN of a block holds: weights in matrix products, and all parameters."""
    weights = params = 0
    for ffn in ffns(block).values():
        tensors = [(tensor, rows) for _, tensor, rows in _unit_tensors(ffn)]
        matrices = sum(rows * tensor.shape[1] for tensor, rows in tensors if tensor.dim() == 2)
        matrices += output_of(ffn)[1].out_features
        weights += matrices
        params += matrices + sum(rows for tensor, rows in tensors if tensor.dim() == 1)
    return weights, params


def cut_ffn(name: str, ffn: Any, kept: Layer) -> Any:
    """An FFN that keeps the first hidden units and shares all tensors with the one given.

    Args:
        name: Of the FFN in its encoder; of no importance here.
        ffn: One that nests; it is left as it is.
        kept: What a submodel keeps of the layer that the FFN is in.
    """
    hidden, width = hidden_of(ffn), kept.ffn
    attributes: dict[str, Any] = {}
    for layer_name, rows in _LAYOUTS[type(ffn)].inputs.items():
        layer = getattr(ffn, layer_name)
        runs = [slice(i * hidden, i * hidden + width) for i in range(rows)]
        if layer.out_features > rows * hidden:
            runs.append(slice(rows * hidden, layer.out_features))
        attributes[layer_name] = _keep_rows(layer, runs)
    layer_name, layer = output_of(ffn)
    columns = layer.in_features - hidden + width
    attributes[layer_name] = replaced(layer, weight=layer.weight[:, :columns], in_features=columns)
    # A norm over the hidden units normalises those that are kept.
    if (norm := norm_of(ffn)) is not None:
        vectors = {name: tensor[:width] for name, tensor in norm.named_parameters()}
        attributes["norm"] = replaced(norm, normalized_shape=(width,), **vectors)
    if getattr(ffn, "mlp_bias", None) is not None:
        attributes["mlp_bias"] = ffn.mlp_bias[:width]
    return _resized(ffn, width, attributes)


CutFFN = Callable[[str, Any, Layer], Any]
"""An FFN's name, the full one and what is kept of its layer, to the FFN of a submodel: see `cut_ffn`."""


def take_units(ffn: Any, units: Tensor) -> dict[str, Tensor]:
    """Copies of some hidden units in the order given: an FFN's tensors but its output layer's, by name.

    What shares a tensor with hidden units without being one, as in fused layers, follows them.
    """
    hidden, taken = hidden_of(ffn), {}
    for name, tensor, rows in _unit_tensors(ffn):
        others = torch.arange(rows * hidden, len(tensor), device=units.device)
        taken[name] = tensor.detach()[torch.cat([*(units + i * hidden for i in range(rows)), others])]
    return taken


def unit_shapes(ffn: Any, count: int) -> dict[str, tuple[int, ...]]:
    """Shapes of what `take_units` gives for so many units."""
    dropped = hidden_of(ffn) - count
    return {name: (len(t) - rows * dropped, *t.shape[1:]) for name, t, rows in _unit_tensors(ffn)}


def with_tensors(ffn: Any, width: int, tensors: Mapping[str, Tensor]) -> Any:
    """An FFN of so many hidden units with the tensors of these names in it in place of its own."""
    attributes: dict[str, Any] = {}
    for name in {name.partition(".")[0] for name in tensors}:
        if name in tensors:
            attributes[name] = tensors[name]
            continue
        own = {key.partition(".")[2]: tensors[key] for key in tensors if key.startswith(f"{name}.")}
        layer = getattr(ffn, name)
        if isinstance(layer, nn.Linear):
            size: dict[str, Any] = dict(
                zip(("out_features", "in_features"), own["weight"].shape, strict=True)
            )
        else:
            size = {"normalized_shape": (width,)}
        attributes[name] = replaced(layer, **own, **size)
    return _resized(ffn, width, attributes)


def _resized(ffn: Any, width: int, attributes: dict[str, Any]) -> Any:
    if hasattr(ffn, "in_split"):
        attributes = {**attributes, "in_split": [width, *ffn.in_split[1:]]}
    return replaced(ffn, **attributes)


def cut_block(name: str, block: Any, kept: Layer, cut_ffn: CutFFN) -> Any:
    """A block whose FFNs keep the first hidden units; it shares all tensors with the one given."""
    if type(block) in _BLOCKS_WITH_AN_FFN:
        return replaced(block, mlp=cut_ffn(f"{name}.mlp", block.mlp, kept))
    if type(block) is ParallelThingsBlock:
        branches = {
            number: replaced(branch, mlp=cut_ffn(f"{name}.ffns.{number}.mlp", branch.mlp, kept))
            for number, branch in block.ffns.named_children()
        }
        return replaced(block, ffns=replaced(block.ffns, **branches))
    return cut_ffn(name, block, kept)


def _keep_rows(layer: Any, runs: Sequence[slice]) -> Any:
    count = sum(run.stop - run.start for run in runs)
    if count == layer.out_features:
        return layer
    if len(runs) > 1:
        return replaced(layer, Runs, runs=tuple(runs), out_features=count)
    bias = None if layer.bias is None else layer.bias[runs[0]]
    return replaced(layer, weight=layer.weight[runs[0]], bias=bias, out_features=count)


class Runs(nn.Linear):
    """A linear layer of which some runs of rows are used: a product each, and no copy of the weights."""

    runs: tuple[slice, ...]

    def forward(self, x: Tensor) -> Tensor:
        """Vectors (..., inputs) to (..., rows of all runs)."""
        bias = self.bias
        products = [F.linear(x, self.weight[run], None if bias is None else bias[run]) for run in self.runs]
        return torch.cat(products, dim=-1)

    def joined(self) -> nn.Linear:
        """The same as one plain layer with tensors of its own."""
        tensors = {
            name: nn.Parameter(torch.cat([tensor.detach()[run] for run in self.runs]), tensor.requires_grad)
            for name, tensor in self.named_parameters()
        }
        plain: nn.Linear = replaced(self, nn.Linear, **tensors)
        del plain.runs
        return plain


def hidden_of(ffn: Any) -> int:
    """Hidden units of an FFN."""
    units: int = ffn.in_split[0] if hasattr(ffn, "in_split") else output_of(ffn)[1].in_features
    return units


def _inputs(ffn: Any) -> list[Any]:
    return [getattr(ffn, name) for name in _LAYOUTS[type(ffn)].inputs]


def output_of(ffn: Any) -> tuple[str, Any]:
    """The linear layer whose last columns read the hidden units, and its name in the FFN."""
    return next(
        (name, layer) for name in _LAYOUTS[type(ffn)].outputs if (layer := getattr(ffn, name)) is not None
    )


def norm_of(ffn: Any) -> Any:
    """The norm over the hidden units of an FFN, or None."""
    norm = getattr(ffn, "norm", None)
    return norm if hasattr(norm, "normalized_shape") else None


def _unit_tensors(ffn: Any) -> Iterator[tuple[str, Tensor, int]]:
    """Tensors with entries for each hidden unit but the output's: name, tensor, and how many runs of all."""
    for name, rows in _LAYOUTS[type(ffn)].inputs.items():
        for key, tensor in getattr(ffn, name).named_parameters():
            yield f"{name}.{key}", tensor, rows
    if (norm := norm_of(ffn)) is not None:
        for key, tensor in norm.named_parameters():
            yield f"norm.{key}", tensor, 1
    if getattr(ffn, "mlp_bias", None) is not None:
        yield "mlp_bias", ffn.mlp_bias, 1
