"""What the trainer is handed: images, and held-out accuracy at every granularity, against plain models."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_world import CLASSES, files_of, random_matvit, shard_of, write_folder
from timm.data import create_transform, resolve_model_data_config

import matvit
from matvit.errors import TrainingError
from matvit.training.recipe import Evaluation, Recipe
from retrieval.measuring.during_training import accuracy_evaluation, open_data
from retrieval.sources.labelled import open_labelled

SETTINGS = Recipe(architecture="matvit_tiny_patch16_224", epochs=1, batch_size=4, model={"img_size": 16})
HOW = {"device": torch.device("cpu"), "dtype": torch.float32}


def oracle(model: matvit.MatViT, known: list[Path], asked: list[Path]) -> dict[str, float]:
    """Top-1 and 1-NN of files in class folders, with extracted plain models and one big product."""
    transform = create_transform(**resolve_model_data_config(model), is_training=False)

    def run(files: list[Path], submodel: matvit.Submodel) -> tuple[np.ndarray, np.ndarray]:
        plain = model.extract(submodel)
        with torch.inference_mode():
            x = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
            vectors = plain.forward_head(plain.forward_features(x), pre_logits=True)
            return torch.nn.functional.normalize(vectors).numpy(), plain(x).argmax(1).numpy()

    corpus = run(known, model.space.full)[0]
    result = {}
    for name in ("S", "M", "L", "XL"):
        vectors, guesses = run(asked, model.submodel(name))
        best = (vectors @ corpus.T).argmax(1)
        classes = {file.parent.name for file in known}  # a query of another could only be wrong
        near = [
            known[b].parent.name == file.parent.name
            for b, file in zip(best, asked, strict=True)
            if file.parent.name in classes
        ]
        top1 = [CLASSES[guess] == file.parent.name for guess, file in zip(guesses, asked, strict=True)]
        result[f"top1/{name}"] = pytest.approx(np.mean(top1), abs=1e-5)
        result[f"adaptive_1nn/{name}"] = pytest.approx(np.mean(near), abs=1e-5)
    return result


def test_every_granularity_is_measured_as_plain_models_would(corpus: Path, queries: Path) -> None:
    train, held_out = open_labelled(corpus, "RGB"), open_labelled(queries, "RGB")
    measure = accuracy_evaluation(train, held_out, SETTINGS, **HOW, batch_size=7)
    seen = set()
    for seed in (0, 1):  # one measure serves a model that changes
        model = random_matvit(seed)
        expected = oracle(model, files_of(corpus), files_of(queries))
        assert measure(model) == expected
        seen |= {value.expected for value in expected.values()}
    assert len(seen) > 3, "this would notice if granularities were mixed up"


def test_classes_keep_their_numbers_where_some_are_not_held_out(
    corpus: Path, queries: Path, tmp_path: Path
) -> None:
    held_out = shutil.copytree(queries, tmp_path / "val")
    shutil.rmtree(held_out / CLASSES[0])
    shutil.rmtree(held_out / CLASSES[2])
    train = open_labelled(corpus, "RGB")
    images = open_labelled(held_out, "RGB", class_to_idx=train.class_to_idx)
    model = random_matvit(0)
    expected = oracle(model, files_of(corpus), files_of(held_out))
    assert expected["adaptive_1nn/XL"] != 0.0
    assert accuracy_evaluation(train, images, SETTINGS, **HOW)(model) == expected


@pytest.mark.parametrize("size", [1, 7, 39, 1000])
def test_the_corpus_is_as_large_as_the_recipe_says_and_evenly_spaced(
    corpus: Path, queries: Path, size: int
) -> None:
    train, held_out = open_labelled(corpus, "RGB"), open_labelled(queries, "RGB")
    settings = Recipe(
        architecture="matvit_tiny_patch16_224", epochs=1, batch_size=4, evaluation=Evaluation(corpus=size)
    )
    files = files_of(corpus)
    count = min(size, len(files))
    places = [round(i * (len(files) - 1) / max(count - 1, 1)) for i in range(count)]
    assert len(set(places)) == count
    model = random_matvit(0)
    expected = oracle(model, [files[place] for place in places], files_of(queries))
    assert accuracy_evaluation(train, held_out, settings, **HOW)(model) == expected


@pytest.mark.filterwarnings(
    "ignore:This DataLoader will create 2 worker processes:UserWarning",  # on a machine of one core
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)
def test_shards_measure_as_folders_do_with_workers_too(corpus: Path, queries: Path, tmp_path: Path) -> None:
    for place, folder in (("train", corpus), ("val", queries)):
        (tmp_path / place).mkdir()
        files = files_of(folder)
        for shard in range(2):
            shard_of(tmp_path / place / f"x-{shard}.tar", files[len(files) * shard // 2 :][: len(files) // 2])
    train, held_out = open_data(str(tmp_path), SETTINGS)
    assert held_out is not None
    model = random_matvit(0)
    measured = accuracy_evaluation(train, held_out, SETTINGS, **HOW, workers=2)(model)
    assert measured == oracle(model, files_of(corpus), files_of(queries))


def test_an_unreadable_held_out_image_is_named(corpus: Path, queries: Path, tmp_path: Path) -> None:
    held_out = shutil.copytree(queries, tmp_path / "val")
    (held_out / "red" / "50.png").write_bytes(b"no image")
    measure = accuracy_evaluation(
        open_labelled(corpus, "RGB"), open_labelled(held_out, "RGB"), SETTINGS, **HOW
    )
    with pytest.raises(TrainingError, match=r"val/red/50\.png: not an image; remove it"):
        measure(random_matvit(0))


# --- where the images lie ---


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("small") / "images", 2)


def test_a_folder_of_classes_is_trained_on_whole(small: Path) -> None:
    train, held_out = open_data(str(small), SETTINGS)
    assert held_out is None
    assert len(train) == 10
    assert train.load(0)[1].mode == "RGB"


@pytest.mark.parametrize("name", ["val", "validation", "test"])
def test_what_is_held_out(small: Path, tmp_path: Path, name: str) -> None:
    for place in ("train", name):
        shutil.copytree(small, tmp_path / place)
    shutil.rmtree(tmp_path / name / "blue")
    grey = Recipe(architecture="m", epochs=1, batch_size=4, model={"in_chans": 1})
    train, held_out = open_data(str(tmp_path), grey)
    assert held_out is not None
    assert (len(train), len(held_out)) == (10, 8)
    assert train.load(0)[1].mode == held_out.load(0)[1].mode == "L"
    assert held_out.class_to_idx == train.class_to_idx
    assert sorted(set(held_out.targets.tolist())) == [1, 2, 3, 4]


def test_the_first_of_several_is_held_out(small: Path, tmp_path: Path) -> None:
    for place in ("train", "validation", "test"):
        shutil.copytree(small, tmp_path / place)
    (tmp_path / "validation" / "red" / "more.png").write_bytes((small / "red" / "01.png").read_bytes())
    held_out = open_data(str(tmp_path), SETTINGS)[1]
    assert held_out is not None
    assert len(held_out) == 11


def test_train_alone_holds_nothing_out_and_val_alone_is_a_class(small: Path, tmp_path: Path) -> None:
    shutil.copytree(small, tmp_path / "train")
    assert open_data(str(tmp_path), SETTINGS)[1] is None
    (tmp_path / "train").rename(tmp_path / "val")
    assert list(open_data(str(tmp_path), SETTINGS)[0].class_to_idx) == ["val"]


def test_held_out_images_of_an_unknown_class_are_refused(small: Path, tmp_path: Path) -> None:
    for place in ("train", "val"):
        shutil.copytree(small, tmp_path / place)
    (tmp_path / "val" / "red").rename(tmp_path / "val" / "rouge")
    with pytest.raises(TrainingError, match="val has a class that training does not know: 'rouge'"):
        open_data(str(tmp_path), SETTINGS)


def test_no_images_are_an_error(tmp_path: Path) -> None:
    for data in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(TrainingError, match="no images in class folders under"):
            open_data(str(data), SETTINGS)
    (tmp_path / "train").mkdir()
    with pytest.raises(TrainingError, match=f"no images in class folders under {tmp_path}/train"):
        open_data(str(tmp_path), SETTINGS)
