"""Training from Python: accuracy of what is held out, lines of metrics, mistakes."""

import json
import sys
from pathlib import Path

import pytest

import retrieval
from matvit.errors import RecipeError
from matvit.training.train import Execution
from retrieval.errors import MissingExtraError

RECIPE = """
architecture = "matvit_tiny_patch16_224"
epochs = 1
batch_size = 8

[model]
img_size = 16
patch_size = 4
embed_dim = 32
depth = 2
num_heads = 2
"""


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path / "recipe.toml"


@pytest.fixture
def data(corpus: Path, queries: Path, tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train").symlink_to(corpus)
    (tmp_path / "data" / "val").symlink_to(queries)
    return tmp_path / "data"


def test_held_out_images_are_measured_and_lines_are_told(recipe: Path, data: Path, tmp_path: Path) -> None:
    told: list[dict] = []
    model = retrieval.train(
        recipe,
        data,
        tmp_path / "run",
        execution=Execution(log_every=1),
        write=lambda line: told.append(dict(line)),
    )
    kept = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert told == kept
    measured = {name for line in told for name in line}
    assert {f"adaptive_1nn/{submodel}" for submodel in model.space.uniforms()} <= measured


def test_mistakes_leave_no_run_behind(
    recipe: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RecipeError):
        retrieval.train(tmp_path / "none.toml", data, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(MissingExtraError, match="TensorBoard is not installed"):
        retrieval.train(recipe, data, tmp_path / "run", tensorboard=True)
    assert not (tmp_path / "run").exists()
