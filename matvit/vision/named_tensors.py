"""Tensors by name that go where a model goes, and are none of its own."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor, nn

from matvit.errors import SubmodelError
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel


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

    def _tensor(self, name: str) -> Tensor:
        return self.get_buffer(name.replace(".", "/"))

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The tensors by name."""
        return {name.replace("/", "."): tensor for name, tensor in self.named_buffers()}


class NumberedTensors(NamedTensors, ABC):
    """Tensors that some submodels have of their own.

    Args:
        tensors: By name, behind the number of the submodels that have them: ``0.norm.weight``.
        numbers: Of submodels; those of one number share all.
    """

    def __init__(self, tensors: Mapping[str, Tensor], numbers: Mapping[Submodel, int]) -> None:
        super().__init__(tensors)
        self.numbers = dict(numbers)
        self._names: dict[str, list[str]] = {}  # A query asks for few of hundreds.
        for name in tensors:
            number, _, rest = name.partition(".")
            self._names.setdefault(number, []).append(rest)

    @abstractmethod
    def shapes(self, encoder: ElasticEncoder) -> Mapping[str, tuple[int, ...]]:
        """Of the tensors of one number, by name."""

    def of(self, submodel: Submodel) -> dict[str, Tensor]:
        """The tensors of a submodel, without their number; none of a submodel that has none."""
        number = self.numbers.get(submodel)
        if number is None:
            return {}
        return {name: self._tensor(f"{number}.{name}") for name in self._names.get(str(number), ())}

    def check(self, encoder: ElasticEncoder) -> None:
        """Raise unless these are tensors for submodels of an encoder.

        Raises:
            SubmodelError: One is missing, superfluous or of another shape.
        """
        found = {name: tuple(tensor.shape) for name, tensor in self.tensors.items()}
        shapes, numbers = self.shapes(encoder), set(self.numbers.values())
        wanted = {f"{number}.{name}": shape for number in numbers for name, shape in shapes.items()}
        if wrong := {name for name in found.keys() | wanted if found.get(name) != wanted.get(name)}:
            name = min(wrong)
            raise SubmodelError(
                f"tensors that submodels have of their own are not those of this encoder: {name} is "
                f"{found.get(name, 'missing')} and should be {wanted.get(name, 'absent')}"
            )
