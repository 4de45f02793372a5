"""A world small enough to test in: images of five classes, a MatViT with random weights, an index."""

import io
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import matvit
from retrieval import Encoder, Searcher, build_index, open_source

SIDE = 16
CLASSES = ("blue", "checks", "green", "red", "stripes")
_COLOURS = {"blue": (60, 60, 160), "green": (60, 150, 60), "red": (170, 60, 60)}


def picture(label: str, number: int, side: int = SIDE) -> Image.Image:
    """A noisy picture of a class; always the same for the same arguments."""
    rows, columns = np.mgrid[:side, :side]
    pattern = {"checks": (rows // 2 + columns // 2) % 2, "stripes": rows // 2 % 2}.get(label)
    pixels = np.full((side, side, 3), 110.0)
    pixels += 30 * pattern[..., None] if pattern is not None else np.array(_COLOURS[label]) - 110
    noise = np.random.default_rng([zlib.crc32(label.encode()), number]).normal(0, 60, pixels.shape)
    return Image.fromarray(np.clip(pixels + noise, 0, 255).astype(np.uint8))


def write_folder(folder: Path, per_class: int, *, first: int = 0) -> Path:
    """An ImageFolder of PNG and JPEG files."""
    for label in CLASSES:
        (folder / label).mkdir(parents=True)
        for number in range(first, first + per_class):
            name = f"{number:02}.{'jpg' if number % 4 == 0 else 'png'}"
            picture(label, number).save(folder / label / name, **({"quality": 95} if "jpg" in name else {}))
    return folder


def write_shard(path: Path, files: Mapping[str, bytes]) -> Path:
    """A tar of the given members."""
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard_of(path: Path, images: list[Path]) -> Path:
    """A WebDataset shard of files of an ImageFolder."""
    members: dict[str, bytes] = {}
    for image in images:
        stem = f"{image.parent.name}-{image.stem}"
        members |= {f"{stem}{image.suffix}": image.read_bytes(), f"{stem}.cls": image.parent.name.encode()}
    return write_shard(path, members)


def random_matvit(seed: int, **arguments: Any) -> matvit.MatViT:
    """A MatViT whose random FFNs are strong enough that every submodel sees the world differently."""
    torch.manual_seed(seed)
    small = {"img_size": SIDE, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 5}
    size = {"input_size": (arguments.get("in_chans", 3), SIDE, SIDE)}
    overlay = size | arguments.pop("pretrained_cfg_overlay", {})
    model = timm.create_model(
        "matvit_tiny_patch16_224", pretrained_cfg_overlay=overlay, **{**small, **arguments}
    ).eval()
    with torch.no_grad():
        for block in model.blocks:
            block.mlp.fc1.weight *= 10
            block.mlp.fc2.weight *= 5
    return model


def random_plain(seed: int) -> torch.nn.Module:
    """A Vision Transformer of that shape, of which nothing says that it was trained nested."""
    torch.manual_seed(seed)
    shape = {"img_size": SIDE, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 5}
    overlay = {"input_size": (3, SIDE, SIDE)}
    return timm.create_model("vit_tiny_patch16_224", pretrained_cfg_overlay=overlay, **shape).eval()


def files_of(folder: Path) -> list[Path]:
    """Every file of a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "tiny"
    matvit.save(random_matvit(0), place)
    return place


@pytest.fixture(scope="session")
def other_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("models") / "other"
    matvit.save(random_matvit(1), place)
    return place


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Encoder:
    return Encoder.open(checkpoint, device="cpu", dtype="fp32")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "corpus", 8)


@pytest.fixture(scope="session")
def queries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("images") / "queries", 4, first=50)


@pytest.fixture(scope="session")
def index(tmp_path_factory: pytest.TempPathFactory, corpus: Path, encoder: Encoder) -> Path:
    place = tmp_path_factory.mktemp("indexes") / "corpus.index"
    build_index(open_source(corpus), encoder, place)
    return place


@pytest.fixture(scope="session")
def searcher(index: Path) -> Searcher:
    return Searcher.open(index, device="cpu", dtype="fp32")
