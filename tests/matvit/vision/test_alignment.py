"""Aligned embeddings: whose they are, and who reads them."""

import pytest
import torch

import matvit
from matvit import SubmodelError
from matvit.errors import CheckpointError
from matvit.vision.alignment import RANK
from matvit.vision.elastic_vit import with_alignments
from matvit.vision.embedding import embed_only

BUDGETS = ("S@8px", "M", "XL~4+2+0*2", "XL@8px")


def drawn(model, budgets=BUDGETS):
    """Alignments of random numbers."""
    generator = torch.Generator().manual_seed(0)
    width = model.num_features
    rank = min(RANK, width)
    shapes = {"bias": (width,), "down": (rank, width), "up": (width, rank)}
    numbers = {model.submodel(budget): number for number, budget in enumerate(budgets)}
    tensors = {
        f"{number}.{name}": 0.1 * torch.randn(shape, generator=generator)
        for number in numbers.values()
        for name, shape in shapes.items()
    }
    return with_alignments(model, tensors, numbers)


def seen_by(submodel, images):
    return images if submodel.image_size is None else images[..., :8, :8].contiguous()


@torch.no_grad()
def test_a_submodel_is_aligned_by_its_own_map_and_others_are_not(tiny, images):
    model = drawn(tiny)
    for submodel in model.alignments.numbers:
        x, own = seen_by(submodel, images), model.alignments.of(submodel)
        plain = tiny.forward_embedding(x, submodel)
        wanted = plain + own["bias"] + plain @ own["down"].T @ own["up"].T
        torch.testing.assert_close(model.forward_embedding(x, submodel), wanted)
        torch.testing.assert_close(model(x, submodel), tiny.head(wanted), msg="the head reads it")
        torch.testing.assert_close(model.cut(submodel)(x), tiny.head(wanted))
        if not any(submodel.merges):
            alone = model.extract(submodel)
            assert {type(module).__module__.partition(".")[0] for module in alone.modules()} <= {
                "timm",
                "torch",
            }
            torch.testing.assert_close(alone(x), tiny.head(wanted))
    for budget in ("XL", "S", "XL~4", "L"):
        assert torch.equal(model(images, model.submodel(budget)), tiny(images, tiny.submodel(budget)))
    assert model.state_dict().keys() == tiny.state_dict().keys()
    assert tiny.alignments is None


@torch.no_grad()
@pytest.mark.parametrize(
    "kind", ["augreg", "clip quickgelu", "siglip", "gap", "dinov2 registers", "dinov3", "deit distilled"]
)
def test_every_kind_of_encoder_has_a_place_for_it(make_architecture, kind):
    model = matvit.elastic(make_architecture(kind)).eval()
    model, plain = drawn(model, ["M"]), model
    (submodel,) = model.alignments.numbers
    x = torch.randn(2, model.in_chans, *model.patch_embed.img_size)
    found, own = plain.forward_embedding(x, submodel), model.alignments.of(submodel)
    wanted = found + own["bias"] + found @ own["down"].T @ own["up"].T
    torch.testing.assert_close(model.forward_embedding(x, submodel), wanted)
    alone = model.extract(submodel)
    torch.testing.assert_close(alone.forward_head(alone.forward_features(x), pre_logits=True), wanted)
    assert {name for name, _ in alone.named_parameters()} >= {name for name, _ in model.named_parameters()}
    embed_only(model)
    torch.testing.assert_close(
        model(x, submodel), model.head(wanted), msg="where only the pooled token is read"
    )


@pytest.mark.parametrize("change", ["missing", "superfluous", "shape"])
def test_maps_of_another_encoder_are_refused_by_name(tiny, change):
    model = drawn(tiny)
    tensors, numbers = model.alignments.tensors, model.alignments.numbers
    if change == "missing":
        del tensors["1.down"]
    else:
        tensors["1.downer" if change == "superfluous" else "1.down"] = torch.zeros(7)
    with pytest.raises(SubmodelError, match=r"^tensors that submodels have of their own .*: 1\.down"):
        with_alignments(tiny, tensors, numbers)


@torch.no_grad()
def test_a_checkpoint_keeps_them(tiny, images, tmp_path):
    model = drawn(tiny)
    matvit.save(model, tmp_path / "model")
    loaded = matvit.load(tmp_path / "model")
    assert loaded.alignments.numbers == model.alignments.numbers
    for submodel in loaded.alignments.numbers:
        x = seen_by(submodel, images)
        assert torch.equal(loaded(x, submodel), model(x, submodel))
    assert torch.equal(loaded(images), tiny(images))
    (tmp_path / "model" / "elastic.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"has no elastic\.safetensors"):
        matvit.load(tmp_path / "model")
