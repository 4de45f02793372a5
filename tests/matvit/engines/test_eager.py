"""Eager submodels: the encoder's own values, cut once, in the encoder's own memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor

from matvit import Submodel
from matvit.engines.eager import Eager, EagerSubmodels
from matvit.errors import SubmodelError


@pytest.fixture
def encoder(make_tiny: Callable) -> Any:
    return make_tiny(depth=2)


@torch.no_grad()
def test_values_are_the_encoders(encoder: Any, images: Tensor) -> None:
    runner = Eager().runner(encoder)
    assert torch.equal(runner(images), encoder(images))
    for submodel in (*encoder.space.uniforms(), Submodel((24, 100))):
        torch.testing.assert_close(runner(images, submodel), encoder(images, submodel))
        torch.testing.assert_close(
            Eager().build(encoder, submodel, images)(images), encoder(images, submodel)
        )


@torch.no_grad()
def test_a_submodel_is_cut_once_and_costs_no_memory(
    encoder: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[Submodel] = []
    original = encoder.cut

    def watch(submodel: Submodel) -> Any:
        cut.append(submodel)
        return original(submodel)

    monkeypatch.setattr(encoder, "cut", watch)
    runner = EagerSubmodels(encoder)
    small, full = encoder.space.smallest, encoder.space.full
    for batch in (images, images[:1], images):
        for submodel in (None, small, full):
            runner(batch, submodel)
    assert cut == [small, full]
    own = {tensor.untyped_storage().data_ptr() for tensor in encoder.parameters()}
    held = {p.untyped_storage().data_ptr() for part in runner._cuts.values() for p in part.parameters()}
    assert held == own


def test_threads_get_what_they_ask_for(encoder: Any, images: Tensor) -> None:
    runner = EagerSubmodels(encoder)
    submodels = encoder.space.uniforms() * 4

    def run(submodel: Submodel) -> Tensor:
        with torch.no_grad():
            return runner(images, submodel)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(run, submodels))
    with torch.no_grad():
        for answer, submodel in zip(answers, submodels, strict=True):
            torch.testing.assert_close(answer, encoder(images, submodel))


def test_a_submodel_that_does_not_fit_is_refused(encoder: Any, images: Tensor) -> None:
    with pytest.raises(SubmodelError, match="keeps 999 units"):
        EagerSubmodels(encoder)(images, Submodel((999, 999)))
