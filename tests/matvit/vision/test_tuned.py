"""Small tensors of stretches: who uses them, and who does not."""

import pytest
import torch

import matvit
from matvit import Layer, Submodel, SubmodelError
from matvit.errors import CheckpointError
from matvit.refitting.first_pass import elasticize
from matvit.vision.elastic_vit import tuned
from matvit.vision.tuned import small_tensors, stretches

BUDGETS = ("S@8px", "M@8px", "XL~4+2+0*2", "L~2+0*3", "L")


def numbered(model):
    ordered = sorted(map(model.submodel, BUDGETS), key=lambda each: model.cost(each).macs)
    return stretches(ordered, model.cost)


def shifted(model, numbers, by=0.1):
    """Tensors of stretches that differ from the encoder's, in every entry."""
    tensors = {}
    for number in set(numbers.values()):
        for name, tensor in small_tensors(model):
            tensors[f"{number}.{name}"] = tensor.detach() + by * (1 + number)
    return tensors


def test_a_stretch_has_costs_of_one_kind(tiny):
    numbers = numbered(tiny)
    assert sorted(set(numbers.values())) == list(range(len(set(numbers.values()))))
    for number in set(numbers.values()):
        members = [submodel for submodel in numbers if numbers[submodel] == number]
        macs = [tiny.cost(submodel).macs for submodel in members]
        assert max(macs) <= 2 * min(macs)


def test_small_tensors_are_few_and_no_matrices(make_architecture):
    for kind in ("augreg", "dinov2 registers", "siglip", "dinov3", "deit distilled"):
        model = matvit.elastic(make_architecture(kind))
        small = dict(small_tensors(model))
        assert not any(name.startswith("head") for name in small)
        assert any(name.endswith("norm1.weight") for name in small)
        named = dict(model.named_parameters())
        for name, tensor in small.items():
            assert tensor is named[name]
            assert tensor.dim() == 1 or "token" in name or name == "pos_embed"


@torch.no_grad()
def test_a_submodel_uses_the_tensors_of_its_stretch_and_others_do_not(tiny, images):
    numbers = numbered(tiny)
    model = tuned(tiny, shifted(tiny, numbers), numbers)
    for submodel, number in numbers.items():
        x = images if submodel.image_size is None else images[..., :8, :8].contiguous()
        whole = tiny.extract(tiny.space.full)
        for name, tensor in small_tensors(tiny):
            whole.get_parameter(name).copy_(tensor + 0.1 * (1 + number))
        by_hand = matvit.elastic(whole).cut(submodel)
        torch.testing.assert_close(model(x, submodel), by_hand(x))
        torch.testing.assert_close(model.cut(submodel)(x), by_hand(x))
        assert not torch.allclose(model(x, submodel), tiny(x, submodel))
    for budget in ("XL", "S", "M", "XL~4"):
        assert torch.equal(model(images, model.submodel(budget)), tiny(images, tiny.submodel(budget)))
    assert model.state_dict().keys() == tiny.state_dict().keys()


@torch.no_grad()
def test_refitted_layers_keep_their_refits(make_tiny):
    refitted = elasticize(make_tiny(), [torch.randn(8, 1, 16, 16)]).model
    numbers = {refitted.submodel("M"): 0}
    model = tuned(refitted, shifted(refitted, numbers), numbers)
    own, before = model.cut(model.submodel("M")), refitted.cut(refitted.submodel("M"))
    for one, other in zip(own.blocks, before.blocks, strict=True):
        assert torch.equal(one.mlp.fc2.weight, other.mlp.fc2.weight)
        assert torch.equal(one.mlp.fc1.bias, other.mlp.fc1.bias)
        assert not torch.equal(one.norm1.weight, other.norm1.weight)
    assert set(model.extras) == set(refitted.extras) | {f"tuned.{name}" for name in model.tuned.tensors}


@pytest.mark.parametrize("change", ["missing", "superfluous", "shape"])
def test_tensors_of_another_encoder_are_refused_by_name(tiny, change):
    numbers = numbered(tiny)
    tensors = shifted(tiny, numbers)
    name = "0.blocks.1.norm1.weight"
    if change == "missing":
        del tensors[name]
    elif change == "superfluous":
        tensors["0.blocks.1.nothing"] = torch.zeros(1)
    else:
        tensors[name] = torch.zeros(7)
    with pytest.raises(
        SubmodelError, match=r"^tensors that submodels have of their own are .*: 0\.blocks\.1\.n"
    ):
        tuned(tiny, tensors, numbers)


def test_tensors_of_no_stretch_and_of_stretches_that_are_taught_again_are_checked(tiny):
    whole = {tiny.submodel("XL@8px"): 0}
    tensors = shifted(tiny, whole)
    with pytest.raises(SubmodelError, match=r"9\.norm\.weight is \(32,\) and should be absent"):
        tuned(tiny, tensors | {"9.norm.weight": torch.zeros(32)}, whole)
    model = tuned(tiny, tensors, whole)
    with pytest.raises(SubmodelError, match=r"0\.norm\.weight is \(5,\) and should be \(32,\)"):
        tuned(model, tensors | {"0.norm.weight": torch.zeros(5)}, whole)


@torch.no_grad()
def test_a_checkpoint_keeps_them(tiny, images, tmp_path):
    numbers = numbered(tiny)
    model = tuned(tiny, shifted(tiny, numbers), numbers)
    matvit.save(model, tmp_path / "model")
    loaded = matvit.load(tmp_path / "model")
    assert loaded.tuned.numbers == numbers
    for submodel in numbers:
        x = images if submodel.image_size is None else images[..., :8, :8].contiguous()
        assert torch.equal(loaded(x, submodel), model(x, submodel))
    assert torch.equal(loaded(images), tiny(images))
    (tmp_path / "model" / "elastic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no elastic\.safetensors"):
        matvit.load(tmp_path / "model")


def test_gradients_reach_the_small_tensors_and_nothing_else_changes(make_tiny, images):
    model = make_tiny(num_classes=0)
    submodel = Submodel([Layer(64, 2)] * 4)
    learning = {
        f"0.{name}": torch.nn.Parameter(tensor.detach().clone()) for name, tensor in small_tensors(model)
    }
    own = tuned(model, learning, {submodel: 0})
    own(images, submodel).square().sum().backward()
    for name, parameter in learning.items():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name
    assert model.pos_embed.grad is None
    assert model.blocks[0].norm1.weight.grad is None
