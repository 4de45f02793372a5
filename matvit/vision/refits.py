"""What the submodels of a refitted encoder use in place of the first hidden units of its own FFNs.

The encoder's own tensors stay as they are, in their own order, so that the full encoder stays itself bit for
bit. Beside them, each FFN has a *narrow* one: the hidden units worth keeping, best first, as many as the
largest granularity below the full one keeps. A submodel's FFN is the first of these units, as views, and the
output layer that was refitted for just so many. That is no more work than a plain slice, and each layer can
have any of these widths whatever the others have.

Tensors are named as in the encoder, with the number of hidden units where there is one for each granularity:
``blocks.0.mlp.fc1.weight`` is the input of the narrow FFN, ``blocks.0.mlp.fc2.384.weight`` an output layer.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from matvit.errors import SubmodelError
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Layer
from matvit.vision.ffn import cut_ffn, ffns, hidden_of, output_of, unit_shapes, with_tensors
from matvit.vision.named_tensors import NamedTensors

_OUTPUT = re.compile(r"(?P<ffn>.+)\.(?P<layer>\w+)\.(?P<width>\d+)\.(?P<key>\w+)")


class Refits(NamedTensors):
    """Tensors of narrow FFNs, none of them in the encoder's `state_dict`.

    Args:
        tensors: By name: see above.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__(tensors)
        outputs = [found for name in tensors if (found := _OUTPUT.fullmatch(name))]
        self._largest: dict[str, int] = {}
        for found in outputs:
            self._largest[found["ffn"]] = max(int(found["width"]), self._largest.get(found["ffn"], 0))
        inputs = tensors.keys() - {found[0] for found in outputs}
        self._inputs = {
            ffn: [name.removeprefix(f"{ffn}.") for name in inputs if name.startswith(f"{ffn}.")]
            for ffn in self._largest
        }

    def cut_ffn(self, name: str, ffn: Any, kept: Layer) -> Any:
        """The FFN of a submodel: see `matvit.vision.ffn.cut_ffn`."""
        largest, layer = self._largest[name], output_of(ffn)
        inputs = {key: self._tensor(f"{name}.{key}") for key in self._inputs[name]}
        narrow = with_tensors(ffn, largest, inputs | self._output(name, *layer, largest))
        refitted = self._output(name, *layer, kept.ffn)
        return with_tensors(cut_ffn(name, narrow, kept), kept.ffn, refitted)

    def _output(self, name: str, layer_name: str, layer: Any, width: int) -> dict[str, Tensor]:
        keys = [key for key, _ in layer.named_parameters()]
        return {f"{layer_name}.{key}": self._tensor(f"{name}.{layer_name}.{width}.{key}") for key in keys}

    def check(self, encoder: ElasticEncoder) -> None:
        """Raise unless these are the tensors that an encoder needs for its granularities.

        Raises:
            SubmodelError: One is missing, superfluous or of another shape.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        wanted = dict(_shapes(encoder))
        if wrong := {name for name in shapes.keys() | wanted if shapes.get(name) != wanted.get(name)}:
            name = min(wrong)
            raise SubmodelError(
                f"the refitted FFNs are not those of this encoder's granularities: {name} is "
                f"{shapes.get(name, 'missing')} and should be {wanted.get(name, 'absent')}"
            )


def named_ffns(encoder: ElasticEncoder) -> Iterator[tuple[str, Any, list[int]]]:
    """Every FFN of an encoder: name, FFN, and the widths below the full one that its granularities have."""
    space = encoder.space
    widths_of = zip(*(submodel.widths for submodel in space.uniforms()), strict=True)
    for (number, block), hidden, widths in zip(
        encoder.blocks.named_children(), space.hidden, widths_of, strict=True
    ):
        for within, ffn in ffns(block).items():
            below = sorted({width for width in widths if width < hidden})
            yield f"blocks.{number}.{within}".rstrip("."), ffn, below


def _shapes(encoder: ElasticEncoder) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, ffn, widths in named_ffns(encoder):
        if not widths:
            continue
        for key, shape in unit_shapes(ffn, widths[-1]).items():
            yield f"{name}.{key}", shape
        layer_name, layer = output_of(ffn)
        for width in widths:
            for key, tensor in layer.named_parameters():
                columns = [size - hidden_of(ffn) + width for size in tensor.shape[1:]]
                yield f"{name}.{layer_name}.{width}.{key}", (len(tensor), *columns)
