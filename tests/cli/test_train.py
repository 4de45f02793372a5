"""`matvit train`: a tiny recipe on tiny folders."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from matvit.recipe import names

RECIPE = """
architecture = "matvit_tiny_patch16_224"
epochs = 2
batch_size = 8
model = {img_size = 16, patch_size = 4, embed_dim = 32, depth = 2, num_heads = 2}
optim = {lr = 1e-3}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return tmp_path / "tiny.toml"


def metrics(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_trained_and_measured_after_every_epoch(
    matvit: Callable, recipe: Path, corpus: Path, queries: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(corpus, data / "train")
    shutil.copytree(queries, data / "val")
    done = matvit("train", recipe, "--data", data, "-o", run, "--device", "cpu", "--json")
    assert done.code == 0
    assert [json.loads(line) for line in done.out.splitlines()] == metrics(run)
    assert len(metrics(run)) == 2
    for line in metrics(run):
        assert all(0 <= line[f"adaptive_1nn/{name}"] <= 1 for name in ("S", "M", "L", "XL"))
    assert (run / "config.toml").read_text() == RECIPE
    assert "epoch 2/2" in done.err
    assert f"trained: {run / 'checkpoint'}" in done.err
    (point,) = json.loads(matvit("plan", run / "checkpoint", "--budget", "S", "--json").out)
    assert point["widths"] == [16, 16]
    assert matvit("index", "build", corpus, "-m", run / "checkpoint", "-o", tmp_path / "i").code == 0


def test_a_plain_folder_is_trained_on_without_1nn(
    matvit: Callable, recipe: Path, corpus: Path, tmp_path: Path
) -> None:
    done = matvit("train", recipe, "--data", corpus, "-o", tmp_path / "run")
    assert (done.code, done.out) == (0, "")
    assert not any("1nn" in name for line in metrics(tmp_path / "run") for name in line)
    again = matvit("train", recipe, "--data", corpus, "-o", tmp_path / "run")
    assert again.code == 1
    assert again.err == f"matvit: {tmp_path / 'run'} is not empty: choose a new run directory\n"


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs = 3", "missing key architecture"),
        ("nonsense = 3\n" + RECIPE, "unknown key nonsense"),
        ("not toml", "cannot read"),
        (RECIPE.replace("matvit_tiny", "vit_tiny"), "vit_tiny"),
    ],
)
def test_a_wrong_recipe_leaves_nothing(
    matvit: Callable, recipe: Path, corpus: Path, tmp_path: Path, text: str, message: str
) -> None:
    recipe.write_text(text)
    done = matvit("train", recipe, "--data", corpus, "-o", tmp_path / "run")
    assert done.code in (1, 2)
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_missing_recipes_and_images(matvit: Callable, recipe: Path, tmp_path: Path) -> None:
    done = matvit("train", "nonsense", "--data", tmp_path, "-o", tmp_path / "run")
    assert done.code == 2
    assert f"one of {', '.join(names())}" in done.err
    for data in (tmp_path / "nowhere", tmp_path):
        done = matvit("train", recipe, "--data", data, "-o", tmp_path / "run")
        assert done.code in (1, 2)
        assert len(done.err.splitlines()) == 1
        assert not (tmp_path / "run").exists()


def test_help_names_every_recipe_of_the_package(matvit: Callable) -> None:
    text = " ".join(matvit("train", "--help").out.split())
    assert ", ".join(sorted(names())) in text or all(name in text for name in names())
