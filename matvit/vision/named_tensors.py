"""Tensors by name that go where a model goes, and are none of its own."""

from collections.abc import Mapping

from torch import Tensor, nn


class NamedTensors(nn.Module):
    """Tensors by name, none of them in the `state_dict` of the model that has them.

    Args:
        tensors: By name, with dots.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        super().__init__()
        for name, tensor in tensors.items():
            # torch keeps dots in names for modules.
            self.register_buffer(name.replace(".", "/"), tensor, persistent=False)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name.replace("/", "."): tensor for name, tensor in self.named_buffers()}
