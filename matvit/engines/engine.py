"""What an engine is: something that runs submodels."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel

Run = Callable[[Tensor], Tensor]
"""Images (B, C, H, W) in float32, on the encoder's device, to embeddings (B, D)."""


class SubmodelRunner(Protocol):
    """Every submodel of one encoder, each made ready when it is first asked for."""

    def __call__(self, images: Tensor, submodel: Submodel | None = None, /) -> Tensor:
        """Images (B, C, H, W), where and in the number format that the encoder is, to what it answers.

        Without a submodel, that is the full encoder.
        """


class Engine(ABC):
    """One way of running submodels.

    A further one is a file like those beside this one, and a line in `matvit.engines.all_engines`. That
    module imports every engine, so an engine imports its runtime where it builds.

    Attributes:
        name: What it is called as an option.
        title: What it is called in a table.
        needs: Modules that must be installed.
        extra: The extra of this package that brings them.
        weights: The number format of the encoders that it is given; None is the one that it computes in.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    weights: ClassVar[torch.dtype | None] = None

    @property
    def missing(self) -> str:
        """What to install, or nothing."""
        if all(map(find_spec, self.needs)):
            return ""
        if self.extra:
            return f"not installed: in the clone of matvit, pip install -e '.[{self.extra}]'"
        return f"not installed: pip install {' '.join(self.needs)}"

    def formats(self, device: torch.device) -> tuple[torch.dtype, ...]:
        """The number formats to compare it in on a device, the first one first; none where it cannot run."""
        return (torch.float32,)

    @abstractmethod
    def build(self, encoder: ElasticEncoder, submodel: Submodel, images: Tensor) -> Run:
        """Make a submodel ready.

        Args:
            encoder: In evaluation mode, where it is to run.
            submodel: One that fits it.
            images: As they will come (B, C, H, W): float32, of this shape, on this device.
        """


class QueryEngine(Engine):
    """An engine that can serve queries: of any submodel, for as long as a process lives, from any thread."""

    @abstractmethod
    def runner(self, encoder: ElasticEncoder) -> SubmodelRunner:
        """What runs the submodels of an encoder, whose weights will not change."""

    def build(self, encoder: ElasticEncoder, submodel: Submodel, images: Tensor) -> Run:
        """One submodel of a runner of its own."""
        runner, dtype = self.runner(encoder), next(encoder.parameters()).dtype
        return lambda images: runner(images.to(dtype), submodel)
