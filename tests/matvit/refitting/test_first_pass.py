"""Pretrained encoders made elastic: the full one untouched, its submodels refitted, kept beside it."""

import copy
import json
import pickle
import re

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from themes import pictures

import matvit
from matvit import CheckpointError, Submodel, SubmodelError
from matvit.errors import RefitError
from matvit.refitting.first_pass import elasticize
from matvit.weights.checkpoint import weights_sha256

A_FEW = [
    "augreg",
    "dinov2 giant",
    "packed SwiGLU, norm",
    "parallel 18x2",
    "parallel scaling, fused",
    "eva02 base",
]


@pytest.fixture(scope="module")
def make_refitted(make_architecture):
    """Makes a plain model of a kind and its refitted self; the same for the same kind."""
    made = {}

    def make(kind="augreg"):
        if kind not in made:
            plain = make_architecture(kind)
            made[kind] = plain, elasticize(plain, [*pictures().split(10)])
        return made[kind][0], made[kind][1].model

    return make


def mixed(model):
    """Another granularity in every layer."""
    return model.space.labelled(tuple("SML"[layer % 3] for layer in range(model.space.depth)))


def distance(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


# --- the full encoder ---


@torch.no_grad()
def test_the_full_encoder_stays_itself_bit_for_bit(twins):
    plain, elastic, images = twins
    model = elasticize(plain, [images]).model
    assert type(model) is type(elastic)
    assert torch.equal(model(images), plain(images))
    assert torch.equal(model(images, model.space.full), plain(images))
    assert torch.equal(model.extract(model.space.full)(images), plain(images))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert weights_sha256(model) == weights_sha256(plain)
    assert all(mine is its_own for mine, its_own in zip(model.parameters(), plain.parameters(), strict=True))
    for submodel in (model.submodel("M"), mixed(model)):
        assert model.cost(submodel) == elastic.cost(submodel)
        small = model.extract(submodel)
        torch.testing.assert_close(small(images), model(images, submodel), rtol=1e-4, atol=1e-4)
        wanted = elastic.extract(submodel)
        assert {n: t.shape for n, t in small.state_dict().items()} == {
            n: t.shape for n, t in wanted.state_dict().items()
        }


def test_its_input_is_left_alone(make_architecture):
    plain = make_architecture("augreg").train()
    attributes = set(vars(plain))
    elasticize(plain, [pictures(4)])
    assert plain.training
    assert set(vars(plain)) == attributes
    assert not any(module._forward_hooks for module in plain.modules())


# --- the submodels ---


@pytest.mark.parametrize("kind", A_FEW)
@torch.no_grad()
def test_submodels_come_closer_to_the_full_encoder_than_slices(make_refitted, kind):
    plain, model = make_refitted(kind)
    images, sliced = pictures(16, seed=1), matvit.elastic(plain)
    for submodel in (*model.space.uniforms()[:-1], mixed(model)):
        wanted = plain.forward_features(images)
        found = distance(model.forward_features(images, submodel), wanted)
        assert found < distance(sliced.forward_features(images, submodel), wanted), submodel


@pytest.mark.parametrize("kind", ["augreg", "packed SwiGLU, norm", "SwiGLU, RMS norm", "eva02 base"])
@torch.no_grad()
def test_a_refitted_ffn_is_nearly_numpys_least_squares(make_refitted, kind):
    """On what the full encoder gives the layer; nearly, for the ridge is not chosen for these images."""
    plain, model = make_refitted(kind)
    inputs = []
    layer = plain.blocks[1].mlp
    hook = layer.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
    plain(pictures())
    hook.remove()
    small = model.extract(model.submodel("M")).blocks[1].mlp
    units = []
    hook = small.fc2.register_forward_pre_hook(lambda _, given: units.append(given[0]))
    found = small(inputs[0]).flatten(0, 1)
    hook.remove()
    wanted = layer(inputs[0]).flatten(0, 1)
    columns = torch.cat([units[0].flatten(0, 1), torch.ones(len(wanted), 1)], dim=1).double()
    solution, *_ = np.linalg.lstsq(columns.numpy(), wanted.double().numpy(), rcond=None)
    best = distance(columns @ torch.tensor(solution), wanted)
    sliced = matvit.elastic(plain).extract(model.submodel("M")).blocks[1].mlp(inputs[0]).flatten(0, 1)
    assert best <= distance(found, wanted) < 1.1 * best + 0.05 * distance(sliced, wanted)


@torch.no_grad()
def test_a_layer_is_the_same_whatever_the_others_widths(make_refitted):
    _, model = make_refitted()
    mixture = model.extract(mixed(model)).blocks
    for layer, name in enumerate("SML"):
        uniform = model.extract(model.submodel(name)).blocks[layer].mlp.state_dict()
        for key, tensor in mixture[layer].mlp.state_dict().items():
            assert torch.equal(tensor, uniform[key])


@pytest.mark.parametrize("kind", A_FEW)
def test_extracts_are_plain_own_their_tensors_and_can_be_trained(make_refitted, kind):
    plain, model = make_refitted(kind)
    small = model.extract(mixed(model))
    assert type(small) is type(plain)
    assert set(vars(small)) == set(vars(plain))
    assert b"matvit" not in pickle.dumps(small).lower()
    assert [type(module) for module in small.modules()] == [type(module) for module in plain.modules()]
    small(pictures(2)).sum().backward()
    assert all(parameter.is_leaf and parameter.grad is not None for parameter in small.parameters())
    before = model(pictures(2), mixed(model))
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.zero_()
    assert torch.equal(model(pictures(2), mixed(model)), before)
    frozen = model.extract(mixed(model), copy=False)
    assert torch.equal(frozen(pictures(2)), before)


def test_widths_that_were_not_refitted_are_refused(make_refitted):
    _, model = make_refitted()
    for ask in (lambda: model.submodel("24,20,192"), lambda: model(pictures(2), Submodel((24, 20, 192)))):
        with pytest.raises(SubmodelError, match=r"20 units in layer 1.*for S \(24\), M \(48\), L \(96\), XL"):
            ask()
    with pytest.raises(SubmodelError, match="20 units in layer 1"):
        model.extract(Submodel((24, 20, 192)))
    assert str(model.submodel("24,48,192")) == "S*1+M*1+XL*1"


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)), matvit.elastic]
)
@torch.no_grad()
def test_copies_keep_what_was_refitted(make_refitted, duplicate):
    _, model = make_refitted()
    twin, images = duplicate(model), pictures(2)
    for submodel in (None, mixed(model)):
        assert torch.equal(twin(images, submodel), model(images, submodel))


@torch.no_grad()
def test_what_was_refitted_goes_where_the_model_goes(make_refitted):
    _, model = make_refitted()
    twin = copy.deepcopy(model).bfloat16()
    assert {tensor.dtype for tensor in twin.refits.tensors.values()} == {torch.bfloat16}
    found = twin(pictures(2).bfloat16(), mixed(model)).float()
    assert distance(found, model(pictures(2), mixed(model))) < 0.1
    assert sum(p.numel() for p in twin.parameters()) == sum(p.numel() for p in model.parameters())


def test_refitted_tensors_take_what_they_must(make_refitted):
    _, model = make_refitted()
    embedding, widths = 48, (24, 48, 96)
    inputs = widths[-1] * (embedding + 1)
    outputs = sum(embedding * (width + 1) for width in widths)
    held = sum(tensor.nbytes for tensor in model.refits.tensors.values())
    assert held == 3 * 4 * (inputs + outputs)


@pytest.mark.parametrize("kind", ["augreg", "packed SwiGLU, norm"])
def test_neither_memory_nor_batches_change_the_outcome(make_architecture, kind):
    plain, images = make_architecture(kind), pictures()
    wanted = elasticize(plain, [images]).model.refits.tensors
    steps = []
    found = elasticize(plain, [*images.split(7)], memory_bytes=1, progress=lambda *step: steps.append(step))
    for name, tensor in found.model.refits.tensors.items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-4, atol=1e-4)
    passes = 3 if kind == "augreg" else 3 + 9
    assert sum(what == "images seen" for what, _, _ in steps) == passes * 4
    assert [step for step in steps if step[0] == "FFNs fitted"] == [("FFNs fitted", i, 3) for i in (1, 2, 3)]
    assert found.images == 24
    assert found.tokens == 24 * 17
    assert found.widest == max(width for _, width in found.fits)


# --- what cannot be done ---


def test_too_few_images(make_architecture):
    with pytest.raises(RefitError, match="1 images are too few"):
        elasticize(make_architecture("augreg"), [pictures(1)])
    with pytest.raises(RefitError, match="0 images are too few"):
        elasticize(make_architecture("augreg"), [])


def test_images_all_alike(make_architecture):
    with pytest.raises(RefitError, match="the 8 images are all alike"):
        elasticize(make_architecture("augreg"), [pictures(1).expand(4, -1, -1, -1)] * 2)


def test_activations_that_are_not_finite(make_architecture):
    plain = make_architecture("augreg")
    with torch.no_grad():
        plain.blocks[1].mlp.fc1.bias[3] = torch.nan
    with pytest.raises(RefitError, match=r"blocks\.1\.mlp: activations are not finite"):
        elasticize(plain, [pictures(4)])


def test_what_is_refitted_already_or_has_nothing_to_refit(make_refitted):
    plain, model = make_refitted()
    with pytest.raises(RefitError, match="refitted already"):
        elasticize(model, [pictures(4)])
    with pytest.raises(RefitError, match="no granularity below"):
        elasticize(plain, [pictures(4)], granularities={"XL": 1})
    with pytest.raises(SubmodelError, match="not those of this encoder's granularities"):
        matvit.elastic(model, granularities={"half": 0.5, "whole": 1})


@torch.no_grad()
def test_fewer_tokens_than_units_still_come_no_further_than_the_slice(make_architecture):
    plain = make_architecture("augreg", mlp_ratio=16)
    done = elasticize(plain, [pictures(3)])
    assert done.tokens < done.widest
    assert all(fit.unexplained <= 1 for fit in done.fits.values())
    assert all(tensor.isfinite().all() for tensor in done.model.refits.tensors.values())


# --- checkpoints ---


@pytest.mark.parametrize(
    "kind", ["augreg", "dinov2 giant", "parallel 18x2", "parallel scaling", "eva02 base"]
)
@torch.no_grad()
def test_a_checkpoint_gives_back_the_same_submodels(make_refitted, tmp_path, kind):
    plain, model = make_refitted(kind)
    matvit.save(plain := matvit.elastic(plain), tmp_path / "plain")
    matvit.save(model, tmp_path / "elastic")
    assert {file.name for file in (tmp_path / "elastic").iterdir()} == {
        "config.json",
        "model.safetensors",
        "elastic.safetensors",
    }
    weights = [(tmp_path / place / "model.safetensors").read_bytes() for place in ("plain", "elastic")]
    assert weights[0] == weights[1]
    twin, images = matvit.load(tmp_path / "elastic"), pictures(2)
    for submodel in (None, model.submodel("S"), mixed(model)):
        assert torch.equal(twin(images, submodel), model(images, submodel))
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'elastic'}", pretrained=True).eval()
    assert torch.equal(by_timm(images), plain(images))
    empty = matvit.load(tmp_path / "elastic", weights=False)
    assert empty.cost(mixed(model)) == model.cost(mixed(model))
    with pytest.raises(SubmodelError):
        empty.submodel(",".join(["5"] * model.space.depth))


def test_a_plain_model_saved_in_its_place_takes_the_tensors_away(make_refitted, tmp_path):
    plain, model = make_refitted()
    matvit.save(model, tmp_path / "checkpoint")
    matvit.save(matvit.elastic(plain), tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint" / "elastic.safetensors").exists()
    assert matvit.load(tmp_path / "checkpoint").refits is None


def test_an_extract_saves_as_any_other(make_refitted, tmp_path):
    _, model = make_refitted()
    matvit.save(model.extract(model.submodel("M")), tmp_path / "small")
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True).eval()
    images = pictures(2)
    with torch.no_grad():
        torch.testing.assert_close(by_timm(images), model(images, model.submodel("M")), rtol=1e-4, atol=1e-4)


def remove(file):
    file.unlink()


def truncate(file):
    file.write_bytes(file.read_bytes()[:1000])


def of_another_shape(file):
    tensors = load_file(file)
    tensors["blocks.2.mlp.fc2.48.weight"] = torch.zeros(48, 47)
    save_file(tensors, file)


def one_too_few(file):
    tensors = load_file(file)
    del tensors["blocks.0.mlp.fc1.bias"]
    save_file(tensors, file)


@pytest.mark.parametrize(
    "damage, message",
    [
        (remove, "has no elastic.safetensors, which its submodels need"),
        (truncate, "elastic.safetensors is damaged"),
        (of_another_shape, r"does not fit .* blocks.2.mlp.fc2.48.weight is (48, 47) and should be (48, 48)"),
        (one_too_few, r"does not fit .* blocks.0.mlp.fc1.bias is missing and should be (96,)"),
    ],
)
def test_damage_is_said_in_a_line(make_refitted, tmp_path, damage, message):
    _, model = make_refitted()
    matvit.save(model, tmp_path / "checkpoint")
    damage(tmp_path / "checkpoint" / "elastic.safetensors")
    with pytest.raises(CheckpointError) as error:
        matvit.load(tmp_path / "checkpoint")
    assert re.search(re.escape(message).replace(r"\.\*", ".*").replace(r"\ ", " "), str(error.value))


def test_the_config_says_that_it_was_refitted(make_refitted, tmp_path):
    _, model = make_refitted()
    matvit.save(model, tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["matvit"]["refitted"] is True
