"""Checkpoints: there and back, by plain timm, and what is wrong with one said in a line."""

import hashlib
import json
import math
import pickle
import resource
import runpy
import shutil
import stat
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf
from timm.models.vision_transformer import VisionTransformer

import matvit
from matvit import CheckpointError, MatViT, Submodel, UnknownModelError
from matvit.files import atomic
from matvit.vision.elastic_vit import MatEva, MatViTDistilled
from matvit.weights.checkpoint import SHIPPED, check_place, load, notes_of, weights_sha256
from matvit.weights.checkpoint import saved as saved_with

LOADER = Path(__file__).parents[1] / "plain_timm_loader.py"
MIXED = Submodel((5, 17, 32, 100))
ODD = {"tenth": 0.1, "third": 1 / 3, "whole": 1}
OVERLAY = {"mean": [0.1], "std": [0.3], "crop_pct": 1.0, "input_size": [1, 16, 16]}


@pytest.fixture(scope="module")
def model(make_tiny):
    return make_tiny(pretrained_cfg_overlay=OVERLAY)


@pytest.fixture
def saved(model, tmp_path):
    matvit.save(model, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def edit(directory, change):
    config = json.loads((directory / "config.json").read_text())
    change(config)
    (directory / "config.json").write_text(json.dumps(config))


# --- there and back ---


@pytest.mark.parametrize(
    "configuration",
    [
        {},
        {"global_pool": "avg", "class_token": False},
        {"num_classes": 0},
        {"global_pool": "map", "reg_tokens": 2, "img_size": (16, 24)},
        {"mlp_ratio": 3.0, "qkv_bias": False, "init_values": 1e-4, "act_layer": "gelu_tanh"},
    ],
    ids=str,
)
def test_a_checkpoint_gives_back_the_same_model(make_tiny, tmp_path, configuration):
    model = make_tiny(**configuration)
    matvit.save(model, tmp_path / "checkpoint")
    twin = matvit.load(tmp_path / "checkpoint")
    assert type(twin) is MatViT
    assert not twin.training
    assert list(twin.state_dict()) == list(model.state_dict())
    for name, tensor in model.state_dict().items():
        assert torch.equal(twin.state_dict()[name], tensor), name
    assert twin.space == model.space
    x = torch.randn(2, 1, *model.patch_embed.img_size)
    for submodel in (None, model.space.mixnmatch[3]):
        assert torch.equal(twin(x, submodel), model(x, submodel))


@pytest.mark.parametrize(
    "kind, elastic_class",
    [
        ("deit distilled", MatViTDistilled),
        ("siglip", MatViT),
        ("dinov2 giant", MatViT),
        ("parallel 18x2", MatViT),
        ("parallel scaling", MatViT),
        ("eva02 base", MatEva),
        ("dinov3 plus", MatEva),
    ],
)
def test_any_elastic_encoder_comes_back(make_architecture, tmp_path, kind, elastic_class):
    plain = make_architecture(kind)
    model = matvit.elastic(plain, granularities=ODD)
    matvit.save(model, tmp_path / "checkpoint")
    twin = matvit.load(tmp_path / "checkpoint")
    assert type(twin) is elastic_class
    assert twin.space == model.space
    assert list(twin.granularities.items()) == list(ODD.items())
    x = torch.randn(2, 3, 32, 32)
    for submodel in (None, model.submodel("third"), model.space.mixnmatch[2]):
        assert torch.equal(twin(x, submodel), model(x, submodel))
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'checkpoint'}", pretrained=True).eval()
    assert type(by_timm) is type(plain)
    assert torch.equal(by_timm(x), plain(x))
    assert matvit.load(tmp_path / "checkpoint", weights=False).cost(model.space.full) == model.cost(
        model.space.full
    )


def test_granularities_of_a_matvit_come_back_and_are_no_business_of_timms(make_tiny, images, tmp_path):
    model = make_tiny(granularities=ODD)
    matvit.save(model, tmp_path / "checkpoint")
    twin = matvit.load(tmp_path / "checkpoint")
    assert list(twin.granularities.items()) == list(ODD.items())
    assert torch.equal(twin(images, twin.submodel("third")), model(images, model.submodel("third")))
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["matvit"]["granularities"] == ODD
    assert "granularities" not in config.get("model_args", {})
    by_timm = timm.create_model(f"local-dir:{tmp_path / 'checkpoint'}", pretrained=True).eval()
    assert type(by_timm) is VisionTransformer
    assert torch.equal(by_timm(images), model(images))
    matvit.save(model.extract(model.submodel("third")), tmp_path / "small")
    assert "granularities" not in (tmp_path / "small" / "config.json").read_text()


@pytest.mark.parametrize("kind", ["augreg", "deit distilled", "eva02 tiny"])
def test_what_timm_saved_loads_as_elastic(make_architecture, tmp_path, kind):
    plain = make_architecture(kind)
    save_for_hf(plain, str(tmp_path / "hub"), safe_serialization=True)
    model = matvit.load(tmp_path / "hub")
    assert isinstance(model, matvit.Elastic)
    assert model.granularities == matvit.GRANULARITIES
    assert not model.training
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), plain(x))
    elastic = matvit.elastic(plain)
    assert torch.equal(model(x, model.submodel("M")), elastic(x, elastic.submodel("M")))
    assert weights_sha256(model) == weights_sha256(plain)


def test_what_timm_saved_as_a_pickle_does_not_load(make_architecture, tmp_path):
    save_for_hf(make_architecture("augreg"), str(tmp_path / "hub"), safe_serialization=False)
    fails(tmp_path / "hub", CheckpointError, r"has no model\.safetensors; pickled weights are never read")


def test_what_timm_saved_of_another_kind_is_refused(tmp_path):
    save_for_hf(
        timm.create_model("test_resnet", num_classes=5), str(tmp_path / "hub"), safe_serialization=True
    )
    fails(tmp_path / "hub", UnknownModelError, "holds test_resnet: a ResNet does not nest")


def with_mask_token(weights):
    return weights | {"mask_token": torch.zeros(1, 48)}


def with_registers_of_the_authors(weights):
    """The class token's place is kept beside those of the patches, to be added when it is used."""
    half = weights.pop("cls_token") / 2
    positions = torch.cat([half, weights.pop("pos_embed")], dim=1)
    registers = {
        "register_tokens": weights.pop("reg_token"),
        "cls_token": half.clone(),
        "pos_embed": positions,
    }
    return with_mask_token(weights | registers)


def with_ffns_of_the_authors(weights):
    names = {name: name.replace("mlp.fc1", "mlp.w12").replace("mlp.fc2", "mlp.w3") for name in weights}
    return with_mask_token({names[name]: tensor for name, tensor in weights.items()})


def below(prefix):
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    "kind, renamed",
    [
        ("dinov2", with_mask_token),
        ("dinov2 registers", with_registers_of_the_authors),
        ("dinov2 giant", with_ffns_of_the_authors),
        ("deit distilled", below("visual.trunk.")),
        ("eva02 tiny", below("visual.")),
    ],
)
def test_weights_may_have_the_names_of_their_authors_own_code(make_architecture, tmp_path, kind, renamed):
    plain = make_architecture(kind)
    save_for_hf(plain, str(tmp_path / "hub"), safe_serialization=True)
    weights = renamed(load_file(tmp_path / "hub" / "model.safetensors"))
    assert weights.keys() != plain.state_dict().keys()
    save_file(weights, tmp_path / "hub" / "model.safetensors")
    model, x = matvit.load(tmp_path / "hub"), torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), plain(x))
    assert weights_sha256(model) == weights_sha256(plain)


def test_authors_names_excuse_no_missing_weight(make_architecture, tmp_path):
    save_for_hf(make_architecture("dinov2"), str(tmp_path / "hub"), safe_serialization=True)
    weights = with_mask_token(load_file(tmp_path / "hub" / "model.safetensors"))
    del weights["blocks.1.attn.proj.bias"]
    save_file(weights, tmp_path / "hub" / "model.safetensors")
    fails(tmp_path / "hub", CheckpointError, r"Missing key.*blocks\.1\.attn\.proj\.bias")


def test_without_our_architecture_timms_is_made_elastic(make_tiny, images, tmp_path):
    model = make_tiny(granularities=ODD)
    matvit.save(model, tmp_path / "checkpoint")
    edit(tmp_path / "checkpoint", drop("matvit", "architecture"))
    twin = matvit.load(tmp_path / "checkpoint")
    assert type(twin) is MatViT
    assert twin.pretrained_cfg["architecture"] == "vit_tiny_patch16_224"
    assert list(twin.granularities.items()) == list(ODD.items())
    assert torch.equal(twin(images, twin.submodel("third")), model(images, model.submodel("third")))
    edit(tmp_path / "checkpoint", drop("architecture"))
    fails(tmp_path / "checkpoint", UnknownModelError, "names no elastic model")


def test_preprocessing_comes_back(model, saved):
    twin = matvit.load(saved)
    assert timm.data.resolve_model_data_config(twin) == timm.data.resolve_model_data_config(model)
    assert [*twin.pretrained_cfg["mean"], *twin.pretrained_cfg["std"]] == [0.1, 0.3]
    assert tuple(twin.pretrained_cfg["input_size"]) == (1, 16, 16)
    assert twin.pretrained_cfg["architecture"] == "matvit_tiny_patch16_224"


def test_a_loaded_model_can_be_saved_again_unchanged(saved, tmp_path):
    matvit.save(matvit.load(saved), tmp_path / "again")
    first, again = (json.loads((d / "config.json").read_text()) for d in (saved, tmp_path / "again"))
    assert again == first
    assert (tmp_path / "again/model.safetensors").read_bytes() == (saved / "model.safetensors").read_bytes()


def test_config_names_timms_architecture_and_keeps_ours_apart(model, tmp_path):
    matvit.save(model, tmp_path / "checkpoint", classes=["cat", "dog"])
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["matvit"] == {
        "architecture": "matvit_tiny_patch16_224",
        "granularities": {"S": 0.125, "M": 0.25, "L": 0.5, "XL": 1.0},
        "nested": True,
        "classes": ["cat", "dog"],
    }


@pytest.mark.parametrize("nested", [True, False])
def test_whether_its_layers_are_nested_is_kept(model, tmp_path, nested):
    model = matvit.elastic(model)
    model.nested = nested
    matvit.save(model, tmp_path / "checkpoint")
    assert matvit.load(tmp_path / "checkpoint").space.nested is nested


def test_before_any_said_so_the_name_tells_whether_layers_are_nested(model, tmp_path):
    matvit.save(model, tmp_path / "checkpoint")
    config = json.loads((tmp_path / "checkpoint" / "config.json").read_text())
    del config["matvit"]["nested"]
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(config))
    assert matvit.load(tmp_path / "checkpoint").nested
    matvit.save(model.extract(model.space.full), tmp_path / "plain")
    assert not matvit.load(tmp_path / "plain").nested


def test_what_ships_with_the_package_loads():
    for directory in SHIPPED.iterdir():
        assert type(matvit.load(directory)) is MatViT


# --- read by timm, in a process that cannot import this project ---

PLAIN_PROCESS = """
import runpy, sys
from pathlib import Path
for name in ("matvit", "retrieval", "indexes", "cli"):
    sys.modules[name] = None  # importing it now fails
import numpy, timm, torch
root, loader = map(Path, sys.argv[1:])
load_plain = runpy.run_path(str(loader))["load_plain"]
images = torch.from_numpy(numpy.load(root / "images.npy"))
ways = {
    "full": lambda directory: timm.create_model(f"local-dir:{directory}", pretrained=True).eval(),
    "uniform": lambda directory: timm.create_model(f"local-dir:{directory}", pretrained=True).eval(),
    "mixed": load_plain,
    "uniform by hand": load_plain,
}
for name, load in ways.items():
    model = load(root / name)
    assert type(model) is timm.models.vision_transformer.VisionTransformer
    numpy.save(root / f"{name}.npy", model(images).detach().numpy())
"""


@pytest.fixture(scope="module")
def plain_timm_logits(model, images, tmp_path_factory):
    """Logits of each checkpoint as plain timm computes them."""
    root = tmp_path_factory.mktemp("plain")
    np.save(root / "images.npy", images.numpy())
    matvit.save(model, root / "full")
    matvit.save(model.extract(model.submodel("M")), root / "uniform")
    matvit.save(model.extract(model.submodel("M")), root / "uniform by hand")
    matvit.save(model.extract(MIXED), root / "mixed")
    run = subprocess.run(
        [sys.executable, "-I", "-c", PLAIN_PROCESS, root, LOADER],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return {
        name: torch.from_numpy(np.load(root / f"{name}.npy")) for name in ("full", "uniform", "mixed")
    } | {"by hand": torch.from_numpy(np.load(root / "uniform by hand.npy"))}


def test_plain_timm_loads_the_full_encoder_bit_for_bit(model, images, plain_timm_logits):
    assert torch.equal(plain_timm_logits["full"], model(images))


def test_plain_timm_loads_a_uniform_submodel(model, images, plain_timm_logits):
    logits = model.extract(model.submodel("M"))(images)
    assert torch.equal(plain_timm_logits["uniform"], logits)
    assert torch.equal(plain_timm_logits["by hand"], logits)
    torch.testing.assert_close(logits, model(images, model.submodel("M")), rtol=1e-5, atol=1e-5)


def test_ten_lines_of_timm_load_a_mixed_submodel(model, images, plain_timm_logits):
    assert torch.equal(plain_timm_logits["mixed"], model.extract(MIXED)(images))
    torch.testing.assert_close(plain_timm_logits["mixed"], model(images, MIXED), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("width", [1, 7, 16, 31, 49, 100, 128])
def test_the_ratio_of_a_uniform_submodel_is_recorded_whatever_its_width(make_tiny, tmp_path, width):
    model = make_tiny(embed_dim=98, num_heads=2)
    matvit.save(model.extract(Submodel((width,) * 4)), tmp_path / "small")
    plain = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True)
    assert [block.mlp.fc1.out_features for block in plain.blocks] == [width] * 4


@pytest.mark.parametrize("width", [1, 27, 54, 100])
def test_the_ratio_of_a_uniform_packed_submodel_is_recorded_too(make_architecture, tmp_path, width):
    model = matvit.elastic(make_architecture("dinov2 giant", embed_dim=98))
    matvit.save(model.extract(Submodel((width,) * 3)), tmp_path / "small")
    plain = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True)
    assert [block.mlp.fc2.in_features for block in plain.blocks] == [width] * 3


def test_an_attention_pool_keeps_its_own_ratio(make_tiny, images, tmp_path):
    model = make_tiny(global_pool="map")
    small = model.extract(model.submodel("M"))
    matvit.save(small, tmp_path / "small")
    assert torch.equal(runpy.run_path(str(LOADER))["load_plain"](tmp_path / "small")(images), small(images))


@pytest.mark.parametrize(
    "kind, shares",
    [
        ("deit distilled", [1 / 4, 1 / 3]),
        ("perception encoder", [1 / 4, 1 / 3]),
        ("dinov2 giant", [1 / 4, 1 / 3]),
        ("parallel 18x2", [1 / 4, 1 / 3]),
        ("parallel scaling", [1 / 4, 1 / 3]),
        ("differential parallel", [1 / 4]),
        ("aimv2", [1 / 4, 1 / 3]),
        ("eva02 tiny", [1 / 4, 1 / 3]),
        ("eva02 base", [1 / 4, 1 / 3]),
        ("eva02 enormous clip", [1 / 3]),
        ("dinov3 plus", [1 / 4, 1 / 3]),  # Aligned to 8: timm has no 1/8 of 192, but a half and a quarter.
        ("sapiens2", [1 / 2]),
    ],
)
def test_a_uniform_submodel_of_any_kind_loads_with_timms_ratio(make_architecture, tmp_path, kind, shares):
    plain = make_architecture(kind)
    model, x = matvit.elastic(plain), torch.randn(2, 3, 32, 32)
    for share in shares:
        small = model.extract(Submodel(tuple(int(share * hidden) for hidden in model.space.hidden)))
        matvit.save(small, tmp_path / "small")
        config = json.loads((tmp_path / "small" / "config.json").read_text())
        assert config["model_args"]["mlp_ratio"] > 0
        by_timm = timm.create_model(f"local-dir:{tmp_path / 'small'}", pretrained=True).eval()
        assert type(by_timm) is type(plain)
        assert torch.equal(by_timm(x), small(x))


def test_a_width_that_timm_cannot_express_is_not_promised(make_architecture, tmp_path):
    model = matvit.elastic(make_architecture("dinov3 plus"))
    matvit.save(model.extract(Submodel((13,) * 3)), tmp_path / "small")
    config = json.loads((tmp_path / "small" / "config.json").read_text())
    assert "mlp_ratio" not in config.get("model_args", {})
    assert config["matvit"] == {"widths": [13] * 3}
    assert load_file(tmp_path / "small" / "model.safetensors")["blocks.0.mlp.fc2.weight"].shape == (48, 13)


@pytest.mark.parametrize(
    "kind",
    [
        *("augreg", "deit distilled", "siglip", "post-norm", "eva giant", "dinov3", "rope mixed"),
        *("parallel 18x2", "differential", "perception encoder"),
        *("dinov2 giant", "aimv2", "eva02 tiny", "dinov3 plus", "sapiens2"),  # SwiGLU, packed or not
    ],
)
def test_ten_lines_of_timm_load_a_mixed_submodel_of_any_ffn_without_a_norm_inside(
    make_architecture, tmp_path, kind
):
    plain = make_architecture(kind)
    small = matvit.elastic(plain).extract(Submodel((5, 17, 100)))
    matvit.save(small, tmp_path / "small")
    by_timm, x = runpy.run_path(str(LOADER))["load_plain"](tmp_path / "small"), torch.randn(2, 3, 32, 32)
    assert type(by_timm) is type(plain)
    assert torch.equal(by_timm(x), small(x))


def test_an_extracted_submodel_is_not_elastic(model, tmp_path):
    matvit.save(model.extract(MIXED), tmp_path / "mixed")
    config = json.loads((tmp_path / "mixed" / "config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    assert config["matvit"] == {"widths": [5, 17, 32, 100]}
    with pytest.raises(UnknownModelError, match="submodel whose widths differ: give the model that it came"):
        matvit.load(tmp_path / "mixed")


def test_a_uniform_submodel_that_was_saved_is_an_encoder_like_any_other(model, images, tmp_path):
    small = model.extract(model.submodel("M"))
    matvit.save(small, tmp_path / "small")
    loaded = matvit.load(tmp_path / "small")
    assert torch.equal(loaded(images), small(images))
    assert loaded.space.hidden == tuple(model.submodel("M").widths)


# --- what is wrong with a checkpoint is said in one line ---


def drop(*path):
    def change(config):
        for key in path[:-1]:
            config = config[key]
        del config[path[-1]]

    change.__name__ = f"without {'.'.join(path)}"
    return change


def put(*path):
    def change(config):
        for key in path[:-2]:
            config = config[key]
        config[path[-2]] = path[-1]

    change.__name__ = f"{'.'.join(path[:-1])} {path[-1]!r}"
    return change


def fails(directory, error, match):
    with pytest.raises(error, match=match) as caught:
        matvit.load(directory)
    assert "\n" not in str(caught.value)
    assert type(caught.value) is error


@pytest.mark.parametrize(
    "change, error, match",
    [
        (drop("matvit"), None, None),  # What is left is a plain encoder, as timm saves it.
        (put("matvit", {}), None, None),
        (drop("matvit", "granularities"), None, None),
        (put("matvit", "granularities", None), None, None),
        (drop("matvit", "architecture"), None, None),
        (put("matvit", []), UnknownModelError, "names no elastic model"),
        (put("matvit", ["architecture"]), UnknownModelError, "names no elastic model"),
        (put("matvit", "architecture"), UnknownModelError, "names no elastic model"),
        (put("matvit", 7), UnknownModelError, "names no elastic model"),
        *[
            (put("matvit", "architecture", name), UnknownModelError, "which is not an architecture known")
            for name in (
                *("matvit_huge", "", "hf-hub:x/y", "hf-hub:timm/vit_tiny_patch16_224", "local-dir:/tmp/x"),
                *("https://example.org/x", "../x", ["a"], {"a": 1}, 7, None, True),
            )
        ],
        (put("matvit", "architecture", "resnet18"), CheckpointError, "do not agree"),
        (put("matvit", "architecture", "vit_small_patch16_18x2_224"), CheckpointError, "do not agree"),
        (put("matvit", "granularities", {"S": 0.5, "XL": 0.9}), UnknownModelError, "increase up to 1"),
        (put("matvit", "granularities", {"XL": 1, "S": 0.5}), UnknownModelError, "increase up to 1"),
        (put("matvit", "granularities", {"S": math.nan, "XL": 1}), UnknownModelError, "increase up to 1"),
        (put("matvit", "granularities", {}), UnknownModelError, "increase up to 1"),
        (put("matvit", "granularities", {"60%": 0.5, "XL": 1}), UnknownModelError, "named by a letter"),
        (put("matvit", "granularities", {"S": "0.5", "XL": 1}), UnknownModelError, "must be a number"),
        (put("matvit", "granularities", {"S": [0.5], "XL": 1}), UnknownModelError, "must be a number"),
        *[
            (put("matvit", "granularities", value), UnknownModelError, "must map names to shares")
            for value in (7, "S", ["S", "XL"], [["S", 0.5], ["XL", 1]])
        ],
        (put("model_args", "embed_dim", 48), CheckpointError, "size mismatch for"),
        (put("model_args", "depth", 5), CheckpointError, "blocks.4"),
        (put("model_args", "depth", 3), CheckpointError, "blocks.3"),
        (put("model_args", "no_such_argument", 1), CheckpointError, "no_such_argument"),
        (put("model_args", "num_heads", 5), CheckpointError, "do not agree"),
        (put("model_args", "checkpoint_path", "x.pth"), CheckpointError, "'checkpoint_path' is no argument"),
        (put("model_args", "pretrained", True), CheckpointError, "'pretrained' is no argument"),
        (put("model_args", "granularities", {"XL": 1}), CheckpointError, "'granularities' is no argument"),
        (put("model_args", "block_fn", "Block"), CheckpointError, "'block_fn' is no argument"),
        (put("model_args", "features_only", True), CheckpointError, "'features_only' is no argument"),
        (put("model_args", "device", "meta"), CheckpointError, "'device' is no argument"),
        (put("model_args", "dtype", "float64"), CheckpointError, "'dtype' is no argument"),
        (put("model_args", "depth", 10**9), CheckpointError, "1000000000 layers are more than 1000"),
        (put("model_args", "num_heads", 0), CheckpointError, "do not agree"),
        (put("model_args", "patch_size", 0), CheckpointError, "do not agree"),
        (put("model_args", "img_size", {}), CheckpointError, "do not agree"),
        (put("matvit", "widths", 7), None, None),
        (put("matvit", "widths", None), None, None),
        (put("model_args", "depth", 1001), CheckpointError, "1001 layers are more than 1000"),
        (put("model_args", "depth", -1), CheckpointError, "do not agree"),
        (put("model_args", "depth", 0), CheckpointError, "do not agree"),
        (put("model_args", "embed_dim", "32"), CheckpointError, "do not agree"),
        (put("model_args", []), CheckpointError, "do not agree"),
        (put("model_args", 7), CheckpointError, "do not agree"),
        (put("num_classes", 7), None, None),  # The model's own arguments come first.
        (put("num_classes", "many"), None, None),
        (put("pretrained_cfg", []), CheckpointError, "do not agree"),
        (put("pretrained_cfg", None), CheckpointError, "do not agree"),
        (drop("num_classes"), CheckpointError, "num_classes"),
        (drop("pretrained_cfg"), CheckpointError, "pretrained_cfg"),
    ],
)
def test_a_config_that_does_not_fit(saved, change, error, match):
    edit(saved, change)
    if error is None:
        assert matvit.load(saved).num_classes == 5
        assert matvit.load(saved).granularities == matvit.GRANULARITIES
    else:
        fails(saved, error, match)


@pytest.mark.parametrize(
    "content, error, match",
    [
        (b"{", CheckpointError, "cannot read .*config.json"),
        (b"\xff\xfe\x00", CheckpointError, "cannot read .*config.json"),
        (b"[]", UnknownModelError, "names no elastic model"),
        (b"null", UnknownModelError, "names no elastic model"),
        (b"{}", UnknownModelError, "names no elastic model"),
        (b"7", UnknownModelError, "names no elastic model"),
        (
            b'{"architecture": "vit_tiny_patch16_224"}',
            CheckpointError,
            "no pretrained_cfg: save the model with",
        ),
        (b'{"model_type": "vit", "hidden_size": 768}', UnknownModelError, "is a model of Hugging Face trans"),
        (b'{"architectures": ["Dinov2Model"]}', UnknownModelError, "hf-hub:timm/"),
        (b'{"transformers_version": "5.0"}', UnknownModelError, "is a model of Hugging Face transformers"),
        (b"[" * 100_000, CheckpointError, "cannot read .*config.json"),
    ],
)
def test_a_config_that_is_none(saved, content, error, match):
    (saved / "config.json").write_bytes(content)
    fails(saved, error, match)


def test_a_directory_without_config(saved):
    (saved / "config.json").unlink()
    fails(saved, UnknownModelError, r"no checkpoint: it has no config\.json")


def test_a_directory_without_weights(saved):
    (saved / "model.safetensors").unlink()
    fails(saved, CheckpointError, r"has no model\.safetensors; pickled weights are never read")


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_truncated_weights(saved, size):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:size])
    fails(saved, CheckpointError, r"model\.safetensors is damaged")


def test_weights_that_are_a_directory(saved):
    (saved / "model.safetensors").unlink()
    (saved / "model.safetensors").mkdir()
    fails(saved, CheckpointError, r"model\.safetensors")


def test_weights_of_another_shape_name_the_tensor(saved):
    weights = load_file(saved / "model.safetensors")
    weights["head.weight"] = torch.zeros(9, 32)
    save_file(weights, saved / "model.safetensors")
    fails(saved, CheckpointError, r"size mismatch for head\.weight")


class _Marker:
    """Unpickling one touches a file: proof that a pickle was opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_a_pickle_is_never_opened(saved, tmp_path, name):
    (saved / "model.safetensors").unlink()
    (saved / name).write_bytes(pickle.dumps(_Marker(tmp_path / "opened")))
    fails(saved, CheckpointError, "pickled weights are never read" if name.endswith("bin") else "is damaged")
    assert not (tmp_path / "opened").exists()
    pickle.loads((saved / name).read_bytes())
    assert (tmp_path / "opened").exists()  # The trap works.


@pytest.mark.parametrize("name", ["no/such/directory", "matvit_huge_patch16_224"])
def test_a_name_that_leads_nowhere(name):
    fails(name, UnknownModelError, f"no directory '{name}'")


def test_a_bare_name_has_no_weights():
    fails("matvit_tiny_patch16_224", UnknownModelError, "no published weights: give the directory")


def test_a_bare_name_will_do_where_no_weights_are_needed():
    model = matvit.load("matvit_tiny_patch16_224", weights=False)
    assert type(model) is MatViT
    assert not model.training


# --- whole or not at all ---


def test_a_config_cannot_send_timm_elsewhere_for_weights(model, saved, tmp_path):
    elsewhere = tmp_path / "elsewhere.pth"
    torch.save(model.state_dict(), elsewhere)
    edit(saved, put("pretrained_cfg", "file", str(elsewhere)))
    assert "file" not in matvit.load(saved).pretrained_cfg or not matvit.load(saved).pretrained_cfg["file"]


def test_a_model_that_does_not_know_its_arguments_is_not_saved(tmp_path):
    bare = matvit.MatViT(img_size=8, patch_size=4, embed_dim=8, depth=1, num_heads=1)
    with pytest.raises(CheckpointError, match=r"timm\.create_model"):
        matvit.save(bare, tmp_path / "checkpoint")


def test_saving_replaces_what_was_there_whole(make_tiny, saved):
    matvit.save(make_tiny(num_classes=3), saved)
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "model.safetensors"]
    assert matvit.load(saved).num_classes == 3


@pytest.mark.parametrize("held", [["config.json", "cat.jpg"], ["config.json"], ["report"]], ids=" ".join)
def test_saving_never_replaces_what_is_no_checkpoint(model, tmp_path, held):
    (tmp_path / "photos").mkdir()
    for name in held:
        (tmp_path / "photos" / name).touch()
    with pytest.raises(CheckpointError, match="holds something else"):
        matvit.save(model, tmp_path / "photos")
    assert {p.name for p in tmp_path.rglob("*")} == {"photos", *held}


def test_saving_never_replaces_a_file(model, tmp_path):
    (tmp_path / "photo").write_text("mine")
    with pytest.raises(CheckpointError, match=r"photo is a file: a checkpoint needs a directory of its own$"):
        matvit.save(model, tmp_path / "photo")
    assert (tmp_path / "photo").read_text() == "mine"


def test_saving_leaves_nothing_else_behind(model, tmp_path):
    for _ in range(2):
        matvit.save(model, tmp_path / "deep" / "checkpoint")
    assert [p.name for p in tmp_path.iterdir()] == ["deep"]
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["checkpoint"]


def test_a_save_that_fails_leaves_the_old_checkpoint(model, saved):
    before = (saved / "config.json").read_bytes()
    with pytest.raises(TypeError, match="not JSON serializable"):
        matvit.save(model, saved, note=object())
    assert [p.name for p in saved.parent.iterdir()] == ["checkpoint"]
    assert (saved / "config.json").read_bytes() == before
    matvit.load(saved)


@contextmanager
def files_of_at_most(size):
    """As on a disk that is nearly full."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_full_disk_leaves_the_old_checkpoint(make_tiny, saved):
    before = contents(saved.parent)
    with files_of_at_most(10_000), pytest.raises(CheckpointError, match=f"^cannot write {saved}: ") as caught:
        matvit.save(make_tiny(num_classes=3), saved)
    assert "\n" not in str(caught.value)
    assert contents(saved.parent) == before
    assert list(saved.parent.iterdir()) == [saved]
    assert matvit.load(saved).num_classes == 5


def test_a_full_disk_leaves_nothing_new(model, tmp_path):
    with files_of_at_most(10_000), pytest.raises(CheckpointError, match=r"^cannot write "):
        matvit.save(model, tmp_path / "new")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("earlier", [False, True], ids=["new", "replaced"])
def test_a_directory_that_cannot_be_renamed(make_tiny, model, tmp_path, monkeypatch, earlier):
    place = tmp_path / "checkpoint"
    if earlier:
        matvit.save(model, place)
    before, rename = contents(tmp_path), Path.rename

    def refuse(path, target):
        if path.name == ".matvit-new-checkpoint":
            raise PermissionError("not today")
        return rename(path, target)

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(PermissionError, match="not today"):
        matvit.save(make_tiny(num_classes=3), place)
    assert contents(tmp_path) == before
    assert list(tmp_path.iterdir()) == [place] * earlier


def test_a_checkpoint_that_stepped_aside_is_found_by_all_who_read_it(model, saved):
    """After a kill between two renames, where two names cannot be swapped."""
    before = contents(saved)
    for read in (
        lambda: matvit.load(saved),
        lambda: matvit.load(str(saved), weights=False),
        lambda: load(saved),
        lambda: notes_of(saved),
        lambda: check_place(saved),
    ):
        saved.rename(saved.with_name(".matvit-old-checkpoint"))
        read()
        assert contents(saved) == before
        assert list(saved.parent.iterdir()) == [saved]


def test_what_is_saved_with_a_checkpoint_comes_in_the_same_step(make_tiny, saved):
    before = contents(saved)
    with pytest.raises(FileNotFoundError), saved_with(make_tiny(num_classes=3), saved) as folder:
        (folder / "report" / "curve.csv").write_text("a folder that is not there")
    assert contents(saved) == before
    with saved_with(make_tiny(num_classes=3), saved) as folder:
        (folder / "report").mkdir()
        (folder / "report" / "curve.csv").write_text("1")
        assert contents(saved) == before
    assert matvit.load(saved).num_classes == 3
    assert (saved / "report" / "curve.csv").read_text() == "1"
    assert list(saved.parent.iterdir()) == [saved]


@pytest.mark.parametrize("name", [".", "../checkpoint", "../link"])
def test_where_you_are_is_no_place_to_save(model, saved, monkeypatch, name):
    saved.with_name("link").symlink_to(saved)
    before = contents(saved)
    monkeypatch.chdir(saved)
    with pytest.raises(CheckpointError, match=f"^{saved} is where you are"):
        matvit.save(model, name)
    assert contents(saved) == before
    assert sorted(path.name for path in saved.parent.iterdir()) == ["checkpoint", "link"]


def test_a_checkpoint_can_be_read_by_others(saved):
    assert stat.S_IMODE(saved.stat().st_mode) & 0o055 == 0o055
    shutil.copytree(saved, saved.with_name("copy"))


# --- identity ---


def counting(make_tiny, **kwargs):
    """A model whose weights are the same on every machine: 0, 1, 2, ... in each tensor."""
    model = make_tiny(depth=1, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.arange(parameter.numel()).view_as(parameter))
    return model


def test_identity_ignores_the_classifier(make_tiny):
    hashes = {weights_sha256(counting(make_tiny, num_classes=n)) for n in (0, 5, 9)}
    assert len(hashes) == 1


def test_identity_ignores_both_classifiers_of_a_distilled_encoder(make_architecture):
    model = matvit.elastic(make_architecture("deit distilled"))
    before = weights_sha256(model)
    with torch.no_grad():
        model.head.weight.add_(1)
        model.head_dist.bias.add_(1)
    assert weights_sha256(model) == before
    model.reset_classifier(0)
    assert weights_sha256(model) == before
    with torch.no_grad():
        model.dist_token.add_(1)
    assert weights_sha256(model) != before


def test_identity_is_that_of_timms_own_model(twins):
    plain, model, _ = twins
    assert weights_sha256(model) == weights_sha256(plain) == weights_sha256(model.extract(model.space.full))
    assert weights_sha256(model.extract(model.space.smallest)) != weights_sha256(plain)


def test_identity_changes_with_every_other_tensor(make_tiny):
    model = counting(make_tiny)
    seen = {weights_sha256(model)}
    for name, parameter in model.named_parameters():
        old = parameter.detach().clone()
        with torch.no_grad():
            parameter.view(-1)[-1] += 1
            changed = weights_sha256(model)
            parameter.copy_(old)
        if name.startswith("head."):
            assert changed in seen, name
        else:
            assert changed not in seen, name
            seen.add(changed)
    assert len(seen) == 1 + len([n for n in model.state_dict() if not n.startswith("head.")])


def test_identity_changes_with_the_dtype(make_tiny):
    model = counting(make_tiny)
    assert weights_sha256(model) != weights_sha256(model.half()) != weights_sha256(model.bfloat16())


def test_identity_survives_a_checkpoint_and_is_not_that_of_its_parts(model, saved):
    assert weights_sha256(matvit.load(saved)) == weights_sha256(model)
    assert weights_sha256(model.extract(model.space.full)) == weights_sha256(model)
    assert weights_sha256(model.extract(model.submodel("L"))) != weights_sha256(model)


def test_identity_is_what_the_design_says(make_tiny):
    model = counting(make_tiny)
    digest = hashlib.sha256()
    for name in sorted(k for k in model.state_dict() if not k.startswith("head.")):
        tensor = model.state_dict()[name]
        header = f"{name}\0torch.float32\0{tuple(tensor.shape)}\0".encode()
        raw = tensor.numpy().astype("<f4").tobytes()
        digest.update(len(header).to_bytes(8, "little") + len(raw).to_bytes(8, "little") + header + raw)
    assert weights_sha256(model) == digest.hexdigest()


def test_identity_is_the_same_in_every_process_and_release(make_tiny):
    # An index stores this: a change here makes every index built before unreadable.
    assert (
        weights_sha256(counting(make_tiny))
        == "520da87cf75230b7881dc055d75cc3e822eb86f690c6cbd2f959003152a1a49f"
    )
