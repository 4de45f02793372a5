"""The joint loss against the same sum written out with extracted submodels."""

import pytest
import torch
import torch.nn.functional as F

from matvit import GRANULARITIES, SubmodelError
from matvit.objectives import JointTask

TARGET = torch.tensor([0, 3, 1])
ALIGN = 0.7


def add(total, model, extracted):
    """Add an extract's gradients to those of the tensors that it was cut from."""
    for name, parameter in extracted.named_parameters():
        total[name][tuple(slice(n) for n in parameter.shape)] += parameter.grad
    return total


def by_hand(model, images, granularities, align=0.0):
    """Losses and gradients of the joint objective, one extracted submodel at a time."""
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    with torch.no_grad():
        largest = model.extract(model.space.uniform(granularities[-1]))
        teacher = embed(largest, images)
    losses, loss = {}, 0.0
    for name in granularities:
        extracted = model.extract(model.space.uniform(name))
        embedding = embed(extracted, images)
        losses[name] = F.cross_entropy(extracted.head(embedding), TARGET)
        term = losses[name]
        if name != granularities[-1]:
            term = term + align * (1 - F.cosine_similarity(embedding, teacher)).mean()
        term.backward()
        loss += term.item()
        add(total, model, extracted)
    return loss, losses, total


def embed(extracted, images):
    return extracted.forward_head(extracted.forward_features(images), pre_logits=True)


@pytest.mark.parametrize("align", [0.0, ALIGN])
@pytest.mark.parametrize(
    "granularities", [("S", "M", "L", "XL"), ("S", "XL"), ("M", "L"), ("XL",)], ids="+".join
)
def test_loss_and_gradients_are_those_of_the_extracts(make_tiny, images, granularities, align):
    model = make_tiny()
    task = JointTask(model, F.cross_entropy, granularities=granularities, align=align)
    loss, losses, grads = by_hand(model, images, granularities, align)
    result = task(images, TARGET)
    result["loss"].backward()

    assert result["loss"].item() == pytest.approx(loss, rel=1e-5)
    assert set(result) == {"loss", "output", *(f"loss/{name}" for name in granularities)}
    for name in granularities:
        assert result[f"loss/{name}"].item() == pytest.approx(losses[name].item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(
            parameter.grad, grads[name], rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_output_is_the_largest_granularitys(tiny, images):
    for granularities in (("S", "M", "L", "XL"), ("M", "S")):
        output = JointTask(tiny, F.cross_entropy, granularities=granularities)(images, TARGET)["output"]
        largest = max(granularities, key=GRANULARITIES.__getitem__)
        torch.testing.assert_close(output, tiny(images, tiny.submodel(largest)), rtol=1e-5, atol=1e-5)


def test_the_full_encoder_alone_has_nothing_to_align(tiny, images):
    plain, aligned = (
        JointTask(tiny, F.cross_entropy, granularities=["XL"], align=align)(images, TARGET)
        for align in (0.0, 5.0)
    )
    assert torch.equal(plain["loss"], aligned["loss"])
    assert torch.equal(plain["loss"], F.cross_entropy(tiny(images), TARGET))


def test_alignment_adds_to_the_total_and_not_to_the_losses(tiny, images):
    results = [
        JointTask(tiny, F.cross_entropy, granularities=GRANULARITIES, align=align)(images, TARGET)
        for align in (0.0, 1.0, 2.0)
    ]
    for name in GRANULARITIES:
        assert len({result[f"loss/{name}"].item() for result in results}) == 1
    zero, one, two = (result["loss"].item() for result in results)
    assert one > zero
    assert two - one == pytest.approx(one - zero, rel=1e-3)


def test_units_that_only_the_full_encoder_has_learn_from_its_loss_alone(make_tiny, images):
    """Alignment pulls no gradient through the teacher."""
    grads = []
    for align in (0.0, 5.0):
        model = make_tiny()
        JointTask(model, F.cross_entropy, granularities=GRANULARITIES, align=align)(images, TARGET)[
            "loss"
        ].backward()
        grads.append(model.blocks[0].mlp.fc1.weight.grad)
    assert torch.equal(grads[0][64:], grads[1][64:])
    assert not torch.allclose(grads[0][:16], grads[1][:16])


def test_a_step_of_training_lowers_the_loss(make_tiny, images):
    model = make_tiny()
    task = JointTask(model, F.cross_entropy, granularities=GRANULARITIES, align=1.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        result = task(images, TARGET)
        optimizer.zero_grad()
        result["loss"].backward()
        optimizer.step()
        losses.append(result["loss"].item())
    assert losses == sorted(losses, reverse=True)


def test_an_unknown_granularity_is_refused(tiny):
    with pytest.raises(SubmodelError, match="'XXL' is none of S, M, L, XL"):
        JointTask(tiny, F.cross_entropy, granularities=("S", "XXL"))
