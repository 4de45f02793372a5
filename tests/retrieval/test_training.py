"""What the trainer is handed: held-out 1-NN at every granularity, against plain models."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import CLASSES, files_of, random_matvit
from timm.data import create_transform, resolve_model_data_config

import matvit
from matvit.errors import TrainingError
from matvit.recipe import Recipe
from retrieval.training import FolderImages, one_nn_evaluation, split_folders

SETTINGS = Recipe(architecture="matvit_tiny_patch16_224", epochs=1, batch_size=4, model={"img_size": 16})
CPU = torch.device("cpu")


def oracle(model: matvit.MatViT, train: Path, held_out: Path) -> dict[str, float]:
    def embed(files: list[Path], submodel: matvit.Submodel) -> np.ndarray:
        plain = model.extract(submodel)
        plain.reset_classifier(0)
        transform = create_transform(**resolve_model_data_config(model), is_training=False)
        with torch.inference_mode():
            vectors = plain(torch.stack([transform(Image.open(file).convert("RGB")) for file in files]))
        return torch.nn.functional.normalize(vectors).numpy()

    known, asked = files_of(train), files_of(held_out)
    corpus = embed(known, model.space.full)
    result = {}
    for name in ("S", "M", "L", "XL"):
        best = (embed(asked, model.submodel(name)) @ corpus.T).argmax(1)
        right = [known[b].parent.name == file.parent.name for b, file in zip(best, asked, strict=True)]
        result[f"adaptive_1nn/{name}"] = pytest.approx(np.mean(right), abs=1e-5)
    return result


def test_every_granularity_is_measured_as_plain_models_would(corpus: Path, queries: Path) -> None:
    measure = one_nn_evaluation(corpus, queries, SETTINGS, device=CPU, dtype=torch.float32, batch_size=7)
    for seed in (0, 1):  # one measure serves a model that changes
        model = random_matvit(seed)
        assert measure(model) == oracle(model, corpus, queries)


def test_classes_keep_their_numbers_where_some_are_not_held_out(
    corpus: Path, queries: Path, tmp_path: Path
) -> None:
    held_out = shutil.copytree(queries, tmp_path / "val")
    shutil.rmtree(held_out / CLASSES[0])
    shutil.rmtree(held_out / CLASSES[2])
    model = random_matvit(0)
    expected = oracle(model, corpus, held_out)
    assert expected["adaptive_1nn/XL"] != 0.0
    measure = one_nn_evaluation(corpus, held_out, SETTINGS, device=CPU, dtype=torch.float32)
    assert measure(model) == expected


def test_where_the_images_lie(tmp_path: Path) -> None:
    assert split_folders(tmp_path) == (tmp_path, None)
    (tmp_path / "val").mkdir()
    assert split_folders(str(tmp_path)) == (tmp_path, None), "val without train is a class"
    (tmp_path / "train").mkdir()
    assert split_folders(tmp_path) == (tmp_path / "train", tmp_path / "val")
    (tmp_path / "val").rmdir()
    assert split_folders(tmp_path) == (tmp_path / "train", None)


def test_images_come_in_the_colour_mode_of_the_model_with_class_numbers_by_name(corpus: Path) -> None:
    images = FolderImages(corpus, SETTINGS)
    assert len(images) == len(files_of(corpus))
    assert images.class_to_idx == {name: i for i, name in enumerate(sorted(CLASSES))}
    for i, file in enumerate(files_of(corpus)):
        image, target = images[i]
        assert (image.mode, target) == ("RGB", images.class_to_idx[file.parent.name])
    told = FolderImages(corpus, SETTINGS, class_to_idx=dict.fromkeys(CLASSES, 7))
    assert {told[i][1] for i in range(len(told))} == {7}


def test_every_kind_of_image_is_trained_on(tmp_path: Path) -> None:
    for i, name in enumerate(("a/0.webp", "a/1.bmp", "b/deep/2.PNG", "b/3.jpeg")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (60 * i, 0, 0)).save(tmp_path / name)
    Image.new("RGB", (8, 8)).save(tmp_path / "outside.png")
    images = FolderImages(tmp_path, SETTINGS)
    assert [images[i][1] for i in range(len(images))] == [0, 0, 1, 1]


def test_an_unreadable_image_stops_training_by_name_and_never_hangs(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    os.mkfifo(tmp_path / "a" / "pipe.jpg")
    (tmp_path / "b" / "text.png").write_text("no image")
    images = FolderImages(tmp_path, SETTINGS)
    with pytest.raises(TrainingError, match=r"pipe\.jpg: not a regular file \(FIFO\); remove it"):
        images[0]
    with pytest.raises(TrainingError, match=r"text\.png: not an image; remove it"):
        images[1]


def test_no_images_and_unknown_classes_are_errors(corpus: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="no images in class folders"):
        FolderImages(tmp_path, SETTINGS)
    with pytest.raises(TrainingError, match="does not know: 'blue'"):
        FolderImages(corpus, SETTINGS, class_to_idx={name: 0 for name in CLASSES if name != "blue"})
