"""Granularities refitted along their own paths."""

import pytest
import torch
from themes import pictures

import matvit
from matvit.errors import RefitError
from matvit.refitting.along_paths import refit_along_paths
from matvit.refitting.first_pass import elasticize

KINDS = [
    "augreg",
    "dinov2 giant",
    "packed SwiGLU, norm",
    "parallel 18x2",
    "parallel scaling, fused",
    "eva02 base",
]


def streams(model, images, submodel=None):
    with torch.no_grad():
        return model.forward_features(images, submodel) if submodel else model.forward_features(images)


@pytest.mark.parametrize("kind", KINDS)
def test_granularities_come_closer_and_the_full_encoder_stays(make_architecture, kind):
    plain = make_architecture(kind)
    batches = [*pictures(60, 0).split(20)]
    model = elasticize(plain, batches).model
    before = {name: tensor.clone() for name, tensor in model.refits.tensors.items()}
    steps = []
    again = refit_along_paths(model, batches, progress=lambda *step: steps.append(step))
    images = torch.cat(batches)
    with torch.no_grad():
        assert torch.equal(again(images), plain(images))
    wanted = streams(model, images)
    closer = []
    for submodel in model.space.uniforms()[:-1]:
        old, new = (float((streams(m, images, submodel) - wanted).norm()) for m in (model, again))
        assert new < 1.02 * old
        closer.append(new < 0.995 * old)
    assert closer[0], "S has most to put right"
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.refits.tensors.items())
    layers = 3 * model.space.depth
    assert steps == [("layers refitted", done, layers) for done in range(1, layers + 1)]


def test_outputs_that_a_norm_follows_stay_as_they_were_fitted(make_architecture):
    batches = [*pictures(20, 0).split(10)]
    model = elasticize(make_architecture("post-norm"), batches).model
    again = refit_along_paths(model, batches).refits.tensors
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.refits.tensors.items())


def test_the_first_layer_has_nothing_to_put_right(make_architecture):
    batches = [*pictures(60, 0).split(20)]
    model = elasticize(make_architecture("augreg"), batches).model
    again = refit_along_paths(model, batches)
    for name, tensor in again.refits.tensors.items():
        if name.startswith("blocks.0."):
            torch.testing.assert_close(tensor, model.refits.tensors[name], rtol=1e-2, atol=1e-2)
        elif ".fc2." in name and "blocks.1." in name:
            assert not torch.equal(tensor, model.refits.tensors[name])


def test_only_refitted_encoders(make_architecture):
    with pytest.raises(RefitError, match="only a refitted encoder"):
        refit_along_paths(matvit.elastic(make_architecture("augreg")), [pictures(4, 0)])
