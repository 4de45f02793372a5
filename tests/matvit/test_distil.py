"""Submodels taught by the full encoder, which stays itself."""

import pytest
import torch

import matvit
from matvit.distil import distil
from matvit.elasticize import elasticize
from matvit.errors import RefitError


def pictures(count, seed):
    generator = torch.Generator().manual_seed(seed)
    themes = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(9))
    return torch.einsum("bt,tchw->bchw", torch.randn(count, 6, generator=generator), themes) / 2


@pytest.fixture(scope="module", params=["augreg", "eva02 base"])
def refitted(request, make_architecture):
    plain = make_architecture(request.param)
    return plain, elasticize(plain, [pictures(24, 0)]).model


def cosine(model, submodel, images):
    with torch.no_grad():
        whole, part = (
            model.forward_head(model.forward_features(images, each), pre_logits=True)
            for each in (None, submodel)
        )
    return float(torch.nn.functional.cosine_similarity(whole, part).mean())


def test_submodels_come_closer_and_the_full_encoder_stays(refitted):
    plain, model = refitted
    images, before = pictures(16, 1), {name: t.clone() for name, t in model.refits.tensors.items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    steps, epochs = [], []
    taught = distil(
        model,
        [*pictures(96, 2).split(32)],
        epochs=4,
        batch_size=16,
        held_out=[images],
        on_step=lambda *step: steps.append(step),
        on_epoch=lambda epoch, cosines: epochs.append((epoch, cosines)),
    )
    with torch.no_grad():
        assert torch.equal(taught(images), plain(images))
    for submodel in (*taught.space.uniforms()[:-1], taught.space.curve[1]):
        assert cosine(taught, submodel, images) > cosine(model, submodel, images)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.refits.tensors.items())
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in taught.refits.tensors.values())
    assert steps[-1] == ("steps of distillation", 24, 24)
    assert [epoch for epoch, _ in epochs] == [1, 2, 3, 4]
    assert list(epochs[0][1]) == ["S", "M", "L"]
    assert epochs[-1][1]["S"] > epochs[0][1]["S"]
    assert model.get_classifier().out_features == taught.get_classifier().out_features == 5


def test_the_same_seed_teaches_the_same(refitted):
    _, model = refitted
    one, same, other = (
        distil(model, [pictures(20, 2)], epochs=1, batch_size=8, seed=seed).refits.tensors
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensor, same[name]) for name, tensor in one.items())
    assert not all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_what_cannot_be_taught(refitted):
    plain, model = refitted
    with pytest.raises(RefitError, match="only a refitted encoder"):
        distil(matvit.elastic(plain), [pictures(4, 0)], epochs=1)
    with pytest.raises(RefitError, match="not finite: try a lower learning rate"):
        distil(model, [pictures(4, 0)], epochs=9, learning_rate=1e38)
