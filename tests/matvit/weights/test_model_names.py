"""What `-m` may be, beside directories (test_checkpoint.py) and published names (test_published.py)."""

import dataclasses
import json
import math
import pickle
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import Mock

import pytest
import timm
import torch
from huggingface_hub import errors
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import save_for_hf

import matvit
from matvit import CheckpointError, MatViT, UnknownModelError
from matvit.weights import published
from matvit.weights.model_names import is_here

# Called so since huggingface-hub 1.0
NotThereError = getattr(errors, "RemoteEntryNotFoundError", errors.EntryNotFoundError)


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, and nothing downloaded before."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("timm.models._hub._has_hf_hub", True)


@dataclass
class Hub:
    """A repository that is a folder here; `asked` is what timm wanted of it."""

    folder: Path
    absent: Exception
    asked: list[str] = field(default_factory=list)

    def download(self, repo_id: str, filename: str, **_: object) -> str:
        self.asked.append(filename)
        if not (self.folder / filename).is_file():
            raise self.absent
        return str(self.folder / filename)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    absent = NotThereError("404: not there", response=Mock(headers={}))
    fake = Hub(tmp_path / "repository", absent)
    fake.folder.mkdir()
    monkeypatch.setattr("timm.models._hub.hf_hub_download", fake.download)
    monkeypatch.setattr("timm.models._hub._has_hf_hub", True)
    monkeypatch.setattr("matvit.weights.hub.check_reached", lambda name: None)
    return fake


@pytest.mark.parametrize(
    "name, kind",
    [
        ("matvit_tiny_patch16_224", "MatViT"),
        ("deit_tiny_distilled_patch16_224", "MatViTDistilled"),
        ("eva02_tiny_patch14_224", "MatEva"),
        ("vit_small_patch14_dinov2.lvd142m", "MatViT"),
    ],
)
def test_costs_need_only_a_name(name, kind):
    model = matvit.load(name, weights=False)
    assert type(model).__name__ == kind
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not model.training
    assert model.cost(model.space.full).gmacs > 0.5


def test_an_architecture_without_weights_is_refused_where_they_are_needed():
    with pytest.raises(UnknownModelError, match="matvit_tiny_patch16_224 has no published weights"):
        matvit.load("matvit_tiny_patch16_224")


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k"])
def test_without_a_network_pretrained_weights_are_missed_in_one_line(offline, name):
    with pytest.raises(CheckpointError, match=f"^cannot download {name}: .*connection") as caught:
        matvit.load(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "name, reason",
    [
        ("resnet18", "a ResNet does not nest"),
        ("swin_tiny_patch4_window7_224", "a SwinTransformer does not nest"),
        ("vit_tiny_patch16_224.nonsense", "Invalid pretrained tag"),
        ("nonsense", "no directory 'nonsense', nor a model of timm, nor one of matvit-b16-in1k"),
        ("local-dir:/nowhere", "local-dir:/nowhere: no such directory"),
    ],
)
def test_what_is_no_elastic_model_is_refused_before_any_download(offline, name, reason, weights):
    with pytest.raises(UnknownModelError, match=reason):
        matvit.load(name, weights=weights)


def test_a_published_name_is_a_checkpoint_in_the_cache(monkeypatch, tmp_path, make_tiny, images):
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    name = next(iter(published.PUBLISHED))
    model = make_tiny()
    matvit.save(model, tmp_path / "published" / name)
    loaded = matvit.load(name)
    assert type(loaded) is MatViT
    assert torch.equal(loaded(images), model(images))


# --- the hub, and what may lie there ---

WITHOUT = "no safetensors are there, and pickles are never read"
CONFIG = {"architecture": "vit_tiny_patch16_224", "num_classes": 5, "pretrained_cfg": {}}


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "vit_small_patch14_dinov2.lvd142m",
        "deit_tiny_distilled_patch16_224",
        "eva02_tiny_patch14_224",
    ],
)
def test_no_other_weights_are_asked_for_than_safetensors(hub, name):
    (hub.folder / "pytorch_model.bin").write_bytes(pickle.dumps({}))
    with pytest.raises(CheckpointError, match=f"^cannot download {name}: {WITHOUT}$"):
        matvit.load(name)
    assert hub.asked == ["model.safetensors"]


@pytest.mark.parametrize(
    "named, asked",
    [
        ("open_clip_pytorch_model.bin", "open_clip_model.safetensors"),
        ("pytorch_model.bin", "model.safetensors"),
        ("deep/weights.pth", "deep/weights.safetensors"),
        ("weights.safetensors", "weights.safetensors"),
        ("", "model.safetensors"),
        (None, "model.safetensors"),
    ],
)
def test_pickles_that_a_config_names_are_not_asked_for_either(hub, named, asked):
    config = CONFIG | {
        "pretrained_cfg": {"hf_hub_filename": named, "file": "x.pth", "url": "https://x/y.pth"}
    }
    (hub.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"^cannot download hf-hub:x/y: {WITHOUT}$"):
        matvit.load("hf-hub:x/y")
    assert set(hub.asked) == {"config.json", asked}


def test_what_was_never_downloaded_is_not_said_to_be_absent_from_the_hub(hub):
    hub.absent = LocalEntryNotFoundError("no connection, and nothing downloaded before")
    with pytest.raises(CheckpointError, match=r"^cannot download vit_tiny_patch16_224: no connection"):
        matvit.load("vit_tiny_patch16_224")


@pytest.mark.parametrize("file", ["model.safetensors", "open_clip_model.safetensors"])
def test_weights_of_the_hub(hub, make_architecture, file):
    plain = make_architecture("augreg")
    save_for_hf(plain, str(hub.folder), safe_serialization=True)
    (hub.folder / "model.safetensors").rename(hub.folder / file)
    config = json.loads((hub.folder / "config.json").read_text())
    config["pretrained_cfg"]["hf_hub_filename"] = file.replace("model.safetensors", "pytorch_model.bin")
    (hub.folder / "config.json").write_text(json.dumps(config))
    model, x = matvit.load("hf-hub:x/y"), torch.randn(2, 3, 32, 32)
    assert torch.equal(model(x), plain(x))
    assert not model.training


def test_damaged_weights_of_the_hub(hub):
    (hub.folder / "model.safetensors").write_bytes(b"nonsense" * 9)
    with pytest.raises(CheckpointError, match=r"^the weights of vit_tiny_patch16_224 are damaged: ."):
        matvit.load("vit_tiny_patch16_224")


def test_a_pickle_alone_is_refused_before_any_download(hub, monkeypatch):
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", pytest.fail)
    name = "vit_huge_patch14_gap_224.in1k_ijepa"
    with pytest.raises(
        UnknownModelError, match=f"^{name}: its weights are at https:.*pth.tar alone, and pick"
    ):
        matvit.load(name)
    assert hub.asked == []


@pytest.mark.parametrize("weights", [True, False])
@pytest.mark.parametrize(
    "config",
    [
        {},
        [],
        7,
        None,
        "vit_tiny_patch16_224",
        {"num_classes": 5},
        *[CONFIG | {"architecture": value} for value in (None, 7, ["vit"], {}, "nonsense", "resnet18")],
        *[CONFIG | {"pretrained_cfg": value} for value in (None, 7, "x", ["x"])],
        *[CONFIG | {"pretrained_cfg": {"input_size": value}} for value in (7, "x", {"a": 1})],
        *[CONFIG | {"num_classes": value} for value in ("many", [5], {})],
        *[CONFIG | {"model_args": value} for value in (7, "x", ["embed_dim"])],
        *[
            CONFIG | {"model_args": {name: value}}
            for name, value in [
                *(("nonsense", 1), ("embed_dim", "x"), ("embed_dim", []), ("depth", "x"), ("depth", -1)),
                *(("img_size", [1, 2, 3]), ("num_heads", 5), ("checkpoint_path", "x.pth"), ("act_layer", 7)),
                *(("num_heads", 0), ("patch_size", 0), ("mlp_ratio", math.inf), ("embed_dim", 10**30)),
                ("depth", 10**9),
            ]
        ],
    ],
    ids=json.dumps,
)
def test_a_config_on_the_hub_that_is_nonsense(hub, config, weights):
    (hub.folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnknownModelError, match=r"^hf-hub:x/y: .") as caught:
        matvit.load("hf-hub:x/y", weights=weights)
    assert "\n" not in str(caught.value)
    assert set(hub.asked) == {"config.json"}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_a_config_on_the_hub_that_is_none(hub, content):
    (hub.folder / "config.json").write_bytes(content)
    with pytest.raises(UnknownModelError, match=r"^hf-hub:x/y: ."):
        matvit.load("hf-hub:x/y")


# --- whether a name needs a download ---


def put_in_cache(folder: Path, repository: str, *files: str) -> None:
    """Files as the hub's client keeps them after a download."""
    place = folder / f"models--{repository.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    for file in files:
        (place / "snapshots" / "abc" / file).parent.mkdir(parents=True, exist_ok=True)
        (place / "snapshots" / "abc" / file).touch()


@pytest.mark.parametrize(
    "name, repository, files",
    [
        ("vit_tiny_patch16_224", "timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", ["model.safetensors"]),
        ("vit_base_patch16_clip_224.openai", "timm/vit_base_patch16_clip_224.openai", ["model.safetensors"]),
        ("hf-hub:x/y", "x/y", ["config.json", "model.safetensors"]),
        ("hf-hub:x/y@main", "x/y", ["config.json", "open_clip_model.safetensors"]),
    ],
)
def test_what_was_downloaded_before_is_here(offline, tmp_path, name, repository, files):
    assert not is_here(name)
    put_in_cache(tmp_path / "hub", repository, *files)
    assert is_here(name)


def test_half_a_repository_is_not_here(offline, tmp_path):
    put_in_cache(tmp_path / "hub", "x/y", "config.json")
    assert not is_here("hf-hub:x/y")
    assert not is_here("hf-hub:x/y@other")


def test_weights_at_an_address_are_here_once_they_are_downloaded(offline, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    name = "vit_tiny_patch16_224"
    config = timm.get_pretrained_cfg(name)
    npz = dataclasses.replace(config, hf_hub_id=None, url="https://x/y/weights.npz")
    monkeypatch.setattr("timm.get_pretrained_cfg", lambda _: npz)
    assert not is_here(name)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "weights.npz").touch()
    assert is_here(name)


def test_published_names_are_here_once_they_are_converted(tmp_path, monkeypatch):
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path))
    assert not is_here("matvit-b16-in1k")
    (tmp_path / "published" / "matvit-b16-in1k").mkdir(parents=True)
    assert not is_here("matvit-b16-in1k")
    (tmp_path / "published" / "matvit-b16-in1k" / "config.json").touch()
    assert is_here("matvit-b16-in1k")


@pytest.mark.parametrize(
    "name",
    ["m", "", "\0", "matvit_tiny_patch16_224", "resnet18x", "vit_huge_patch14_gap_224.in1k_ijepa", "/tmp"],
)
def test_what_leads_to_no_download_is_here(offline, name):
    assert is_here(name)


@pytest.mark.parametrize("name", ["", "x", "x/y/z", "../x", "x/y@../z", "x/\0", "x/\udcff", "x/y@a@b"])
def test_what_no_repository_is_called_is_not_here(offline, name):
    assert not is_here(f"hf-hub:{name}")


@pytest.mark.parametrize("nested", [True, False])
def test_a_model_of_ours_on_the_hub_says_whether_it_is_nested(hub, monkeypatch, make_tiny, nested):
    model = make_tiny()
    model.nested = nested
    hub.folder.rmdir()
    matvit.save(model, hub.folder)
    monkeypatch.setattr("matvit.weights.hub.cached", lambda _, file: hub.folder / file)
    assert matvit.load("hf-hub:me/mine").nested is nested
