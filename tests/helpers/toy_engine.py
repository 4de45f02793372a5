"""An engine that is not ours, as somebody would add one: this file, and a line in `ENGINES`."""

from typing import Any

import pytest
import torch
from torch import Tensor

from matvit import Submodel
from matvit.engines import all_engines
from matvit.engines.engine import QueryEngine, SubmodelRunner


class Toy(QueryEngine):
    """Runs submodels as they are, and remembers which, and in which number format."""

    name = "toy"
    title = "toy"

    def __init__(self, *needs: str) -> None:
        self.needs = needs
        self.ran: list[tuple[Submodel | None, torch.dtype]] = []

    def runner(self, encoder: Any) -> SubmodelRunner:
        def run(images: Tensor, submodel: Submodel | None = None) -> Tensor:
            self.ran.append((submodel, images.dtype))
            return encoder(images, submodel)

        return run


def register(monkeypatch: pytest.MonkeyPatch, *needs: str) -> Toy:
    toy = Toy(*needs)
    monkeypatch.setattr(all_engines, "ENGINES", (*all_engines.ENGINES, toy))
    return toy


def without_runtimes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if no module were installed that an engine needs."""
    monkeypatch.setattr("matvit.engines.engine.find_spec", lambda name: None)
