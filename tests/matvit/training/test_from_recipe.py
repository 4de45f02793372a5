"""What a recipe makes, where timm does not take what it asks for."""

from pathlib import Path

import pytest
import torch

from matvit.errors import TrainingError
from matvit.training import from_recipe as prepare
from matvit.training import recipe


@pytest.fixture
def settings():
    return recipe.read(recipe.find("digits"))


@pytest.fixture
def model(settings):
    return prepare.build(settings, num_classes=10)


def changed(tmp_path: Path, line: str, other: str):
    text = recipe.find("digits").read_text()
    assert line in text
    (tmp_path / "other.toml").write_text(text.replace(line, other))
    return recipe.read(tmp_path / "other.toml")


def test_what_timm_has_not_is_said(model, tmp_path: Path) -> None:
    other = changed(tmp_path, "[optim]", '[optim]\noptimizer = "no such"')
    with pytest.raises(TrainingError, match="timm cannot do what the recipe asks for"):
        prepare.optimizer(other, model)
    other = changed(tmp_path, "[optim]", '[optim]\nschedule = "none"')
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    with pytest.raises(TrainingError, match="timm cannot do what the recipe asks for"):
        prepare.scheduler(other, optimizer, steps_per_epoch=10)


def test_rates_rise_and_fall_as_the_recipe_says(settings, model) -> None:
    optimizer = prepare.optimizer(settings, model)
    scheduler = prepare.scheduler(settings, optimizer, steps_per_epoch=10)
    rates = []
    for step in range(10 * settings.epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step_update(num_updates=step + 1)
    assert rates[0] == pytest.approx(settings.optim.lr / 100)
    assert max(rates) == pytest.approx(settings.optim.lr, rel=0.01)
    assert rates[-1] < settings.optim.lr / 50
