"""torch.compile: whole graphs, one for each submodel that is asked for, with eager's values and gradients."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import matvit
from matvit import Submodel

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def forget_earlier_graphs():
    torch._dynamo.reset()


def mixed(model):
    return Submodel(tuple(hidden // (2 + layer) - 1 for layer, hidden in enumerate(model.space.hidden)))


def run(model, parameters, *submodel):
    logits = model(IMAGES, *submodel)
    return logits, *torch.autograd.grad(logits.square().sum(), parameters, allow_unused=True)


@pytest.mark.parametrize("kind", ["augreg", "parallel scaling", "eva02 tiny"])
def test_compiled_values_and_gradients_are_eagers(make_architecture, kind):
    model = matvit.elastic(make_architecture(kind, depth=2))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for submodel in (None, model.space.smallest, mixed(model)):
        found, wanted = (
            run(compiled, [*model.parameters()], submodel),
            run(model, [*model.parameters()], submodel),
        )
        for ours, theirs in zip(found, wanted, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_submodel_is_compiled_once(make_tiny, images):
    model, counter = make_tiny(depth=2), CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(model, backend=counter, fullgraph=True, dynamic=False)
    graphs = []
    with torch.no_grad():
        for budget in ("S", "L", "S", "L", "XL", "S*1+L*1", "S"):
            submodel = model.submodel(budget)
            assert torch.equal(compiled(images, submodel), model(images, submodel))
            graphs.append(counter.frame_count)
    assert graphs == [1, 2, 2, 2, 3, 4, 4]


# Dynamo looks for the gradient of every tensor that a module holds; views have none of their own.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
@pytest.mark.parametrize("copied", [True, False])
@pytest.mark.parametrize("kind", ["augreg", "dinov2 giant"])
def test_an_extract_compiles(make_architecture, kind, copied):
    model = matvit.elastic(make_architecture(kind, depth=2))
    small = model.extract(mixed(model), copy=copied)
    with torch.no_grad():
        compiled = torch.compile(small, backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(IMAGES), small(IMAGES), rtol=1e-5, atol=1e-5)


def test_training_with_gradient_checkpointing_compiles(make_architecture):
    model = matvit.elastic(make_architecture("augreg", depth=2)).train()
    model.set_grad_checkpointing()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    submodel = mixed(model)
    found, wanted = (
        run(compiled, [*model.parameters()], submodel),
        run(model, [*model.parameters()], submodel),
    )
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
