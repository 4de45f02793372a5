"""What a recipe makes: the same model every time, or one line that says why not."""

from dataclasses import replace

import pytest
import torch

from matvit.errors import TrainingError
from matvit.training import recipe
from matvit.training.from_recipe import build


@pytest.fixture
def settings() -> recipe.Recipe:
    return recipe.read(recipe.find("digits"))


def test_the_seed_alone_draws_the_weights(settings: recipe.Recipe) -> None:
    first = build(settings, num_classes=10)
    torch.manual_seed(123)
    again = build(settings, num_classes=10)
    other = build(replace(settings, seed=settings.seed + 1), num_classes=10)
    one, same, different = (model.state_dict() for model in (first, again, other))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["blocks.0.mlp.fc1.weight"], different["blocks.0.mlp.fc1.weight"])


@pytest.mark.parametrize("name", ["vit_base_patch16_224", "matvit_huge", ""])
def test_an_architecture_that_is_no_matvit_is_refused(settings: recipe.Recipe, name: str) -> None:
    with pytest.raises(TrainingError, match=f"^{name!r} is none of matvit_tiny_patch16_224, "):
        build(replace(settings, architecture=name), num_classes=10)
