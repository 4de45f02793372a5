"""A timm encoder cut to the first hidden units of its FFNs, as views of the full encoder's tensors.

A cut encoder is an object of timm's own classes that shares every tensor with the full one, so whatever timm
can do with an encoder works on a submodel too, and nothing is copied. Cutting takes microseconds a layer and
is done anew for every call: there is no state that threads, compiled graphs or recomputed activations could
find changed.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import GluMlp, Mlp, SwiGLU
from timm.models.eva import EvaBlock, EvaBlockPostNorm
from timm.models.vision_transformer import (
    Block,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    ResPostBlock,
)
from torch import Tensor, nn

from matvit.errors import UnknownModelError


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
_BLOCKS_WITH_AN_FFN = (Block, ResPostBlock, EvaBlock, EvaBlockPostNorm)


def ffns(block: Any) -> list[Any]:
    """The FFNs of a block; one that fuses its FFN with its attention is its own.

    Raises:
        UnknownModelError: The block, or an FFN in it, is of a kind that does not nest.
    """
    if type(block) in _BLOCKS_WITH_AN_FFN:
        found = [block.mlp]
    elif type(block) is ParallelThingsBlock:
        found = [branch.mlp for branch in block.ffns]
    elif type(block) in _LAYOUTS:
        found = [block]
    else:
        raise UnknownModelError(f"blocks of the kind {type(block).__name__} do not nest")
    for ffn in found:
        if type(ffn) not in _LAYOUTS:
            raise UnknownModelError(f"FFNs of the kind {type(ffn).__name__} do not nest")
        for layer in (*_inputs(ffn), _output(ffn)[1]):
            if type(layer) is not nn.Linear:
                raise UnknownModelError(f"an FFN made of {type(layer).__name__} layers does not nest")
        norm = getattr(ffn, "norm", None)
        if not (norm is None or isinstance(norm, nn.Identity) or hasattr(norm, "normalized_shape")):
            raise UnknownModelError(f"an FFN with a norm of the kind {type(norm).__name__} does not nest")
    return found


def hidden_units(block: Any) -> int:
    """Hidden units of each FFN of a block."""
    return _hidden(ffns(block)[0])


def unit_size(block: Any) -> tuple[int, int]:
    """What one hidden unit in every FFN of a block holds: weights in matrix products, and all parameters."""
    weights = params = 0
    for ffn in ffns(block):
        matrices = vectors = 0
        for layer, rows in zip(_inputs(ffn), _LAYOUTS[type(ffn)].inputs.values(), strict=True):
            matrices += rows * layer.in_features
            vectors += rows * (layer.bias is not None)
        matrices += _output(ffn)[1].out_features
        vectors += sum(tensor is not None for tensor in _unit_vectors(ffn))
        weights, params = weights + matrices, params + matrices + vectors
    return weights, params


def cut(encoder: Any, kind: type, widths: Sequence[int]) -> Any:
    """An encoder that keeps the first hidden units of its FFNs and shares all tensors with the one given.

    Args:
        encoder: A timm Vision Transformer that nests; it is left as it is.
        kind: Class of the result: timm's own.
        widths: Hidden units kept, one number a layer, none larger than the layer's own.
    """
    blocks = {}
    for (name, block), width in zip(encoder.blocks.named_children(), widths, strict=True):
        if width < hidden_units(block):
            blocks[name] = _cut_block(block, width)
    return replaced(encoder, kind, blocks=replaced(encoder.blocks, **blocks))


def own_tensors(encoder: nn.Module) -> dict[int, nn.Parameter]:
    """What `copy.deepcopy` takes as its memo to give a cut encoder compact parameters in place of its views.

    Layers in several runs become plain linear layers, in place.
    """
    for parent in list(encoder.modules()):
        parent._modules.update(
            {name: child.joined() for name, child in parent.named_children() if isinstance(child, _Runs)}
        )
    return {
        id(view): nn.Parameter(view.detach().clone(memory_format=torch.contiguous_format), view.requires_grad)
        for view in encoder.parameters()
        if not isinstance(view, nn.Parameter)
    }


def replaced(module: Any, kind: type | None = None, /, **attributes: Any) -> Any:
    """A module that shares all with the given one but these attributes, and its class where one is given."""
    new: Any = object.__new__(kind or type(module))
    new.__dict__.update(module.__dict__)
    modules = new.__dict__["_modules"] = dict(module._modules)
    parameters = new.__dict__["_parameters"] = dict(module._parameters)
    for name, value in attributes.items():
        # Past nn.Module's own setter, which takes no views for parameters.
        home = next((home for home in (modules, parameters) if name in home), new.__dict__)
        home[name] = value
    return new


def _cut_block(block: Any, width: int) -> Any:
    if type(block) in _BLOCKS_WITH_AN_FFN:
        return replaced(block, mlp=_cut_ffn(block.mlp, width))
    if type(block) is ParallelThingsBlock:
        branches = {
            name: replaced(branch, mlp=_cut_ffn(branch.mlp, width))
            for name, branch in block.ffns.named_children()
        }
        return replaced(block, ffns=replaced(block.ffns, **branches))
    return _cut_ffn(block, width)


def _cut_ffn(ffn: Any, width: int) -> Any:
    hidden = _hidden(ffn)
    attributes: dict[str, Any] = {}
    for name, rows in _LAYOUTS[type(ffn)].inputs.items():
        layer = getattr(ffn, name)
        runs = [slice(i * hidden, i * hidden + width) for i in range(rows)]
        if layer.out_features > rows * hidden:
            runs.append(slice(rows * hidden, layer.out_features))
        attributes[name] = _keep_rows(layer, runs)
    name, layer = _output(ffn)
    columns = layer.in_features - hidden + width
    attributes[name] = replaced(layer, weight=layer.weight[:, :columns], in_features=columns)
    # A norm over the hidden units normalises those that are kept.
    if (norm := getattr(ffn, "norm", None)) is not None and hasattr(norm, "normalized_shape"):
        vectors = {name: tensor[:width] for name, tensor in norm.named_parameters()}
        attributes["norm"] = replaced(norm, normalized_shape=(width,), **vectors)
    if getattr(ffn, "mlp_bias", None) is not None:
        attributes["mlp_bias"] = ffn.mlp_bias[:width]
    if hasattr(ffn, "in_split"):
        attributes["in_split"] = [width, *ffn.in_split[1:]]
    return replaced(ffn, **attributes)


def _keep_rows(layer: Any, runs: Sequence[slice]) -> Any:
    count = sum(run.stop - run.start for run in runs)
    if len(runs) > 1:
        return replaced(layer, _Runs, runs=tuple(runs), out_features=count)
    bias = None if layer.bias is None else layer.bias[runs[0]]
    return replaced(layer, weight=layer.weight[runs[0]], bias=bias, out_features=count)


class _Runs(nn.Linear):
    """A linear layer of which some runs of rows are used: a product each, and no copy of the weights."""

    runs: tuple[slice, ...]

    def forward(self, x: Tensor) -> Tensor:
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


def _hidden(ffn: Any) -> int:
    units: int = ffn.in_split[0] if hasattr(ffn, "in_split") else _output(ffn)[1].in_features
    return units


def _inputs(ffn: Any) -> list[Any]:
    return [getattr(ffn, name) for name in _LAYOUTS[type(ffn)].inputs]


def _output(ffn: Any) -> tuple[str, Any]:
    return next(
        (name, layer) for name in _LAYOUTS[type(ffn)].outputs if (layer := getattr(ffn, name)) is not None
    )


def _unit_vectors(ffn: Any) -> list[Tensor | None]:
    """Vectors with an entry for each hidden unit, but for the biases of the linear layers."""
    norm = getattr(ffn, "norm", None)
    return [*(() if norm is None else norm.parameters()), getattr(ffn, "mlp_bias", None)]
