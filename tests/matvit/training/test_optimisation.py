"""Optimizer and learning rates of a recipe, and what timm does not take."""

from pathlib import Path

import pytest
import torch

from matvit.errors import TrainingError
from matvit.training import recipe
from matvit.training.from_recipe import build
from matvit.training.optimisation import optimizer, scheduler


@pytest.fixture
def settings():
    return recipe.read(recipe.find("digits"))


@pytest.fixture
def model(settings):
    return build(settings, num_classes=10)


def changed(tmp_path: Path, line: str, other: str):
    text = recipe.find("digits").read_text()
    assert line in text
    (tmp_path / "other.toml").write_text(text.replace(line, other))
    return recipe.read(tmp_path / "other.toml")


def test_what_timm_has_not_is_said(model, tmp_path: Path) -> None:
    other = changed(tmp_path, "[optim]", '[optim]\noptimizer = "no such"')
    with pytest.raises(TrainingError, match="timm cannot do what the recipe asks for"):
        optimizer(other, model)
    other = changed(tmp_path, "[optim]", '[optim]\nschedule = "none"')
    plain = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(TrainingError, match="timm cannot do what the recipe asks for"):
        scheduler(other, plain, steps_per_epoch=10)


def test_rates_rise_and_fall_as_the_recipe_says(settings, model) -> None:
    made = optimizer(settings, model)
    rising = scheduler(settings, made, steps_per_epoch=10)
    rates = []
    for step in range(10 * settings.epochs):
        rates.append(made.param_groups[0]["lr"])
        rising.step_update(num_updates=step + 1)
    assert rates[0] == pytest.approx(settings.optim.lr / 100)
    assert max(rates) == pytest.approx(settings.optim.lr, rel=0.01)
    assert rates[-1] < settings.optim.lr / 50
