import dataclasses

import pytest

from matvit import recipe
from matvit.errors import RecipeError

LEAST = 'architecture = "matvit_tiny_patch16_224"\nepochs = 2\nbatch_size = 8\n'


@pytest.fixture
def read(tmp_path):
    def read(text):
        file = tmp_path / "recipe.toml"
        file.write_text(text)
        return recipe.read(file)

    return read


@pytest.mark.parametrize("name", recipe.names())
def test_shipped_recipes_read_and_build(name):
    from matvit.train import build

    settings = recipe.read(recipe.find(name))
    model = build(settings, num_classes=10)
    assert model.num_classes == 10
    assert model.pretrained_cfg["architecture"] == settings.architecture


def test_there_are_shipped_recipes():
    assert "digits" in recipe.names()


def test_a_recipe_is_found_by_name_or_path(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text(LEAST)
    assert recipe.find(mine) == mine
    assert recipe.find("digits") == recipe.RECIPES / "digits.toml"
    with pytest.raises(RecipeError, match=r"no recipe 'nothing': give a \.toml file or one of .*digits"):
        recipe.find("nothing")


def test_the_least_there_must_be(read):
    settings = read(LEAST)
    assert settings.seed == 0
    assert settings.objective.granularities == ("S", "M", "L", "XL")
    assert settings == recipe.Recipe(architecture="matvit_tiny_patch16_224", epochs=2, batch_size=8)
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.epochs = 3


def test_every_value_lands_where_it_belongs(read):
    settings = read(
        LEAST
        + "seed = 3\n[model]\nimg_size = 8\n[preprocess]\nmean = [0.5]\n[augment]\nauto_augment = 'rand'\n"
        "[optim]\nlr = 0.5\n[objective]\ngranularities = ['M', 'XL']\nalign = 0.25\n"
    )
    assert (settings.seed, settings.model, settings.preprocess) == (3, {"img_size": 8}, {"mean": [0.5]})
    assert settings.augment == recipe.Augment(auto_augment="rand")
    assert settings.optim == recipe.Optim(lr=0.5)
    assert settings.objective == recipe.Objective(granularities=("M", "XL"), align=0.25)


def test_whole_numbers_are_taken_for_floats(read):
    lr = read(LEAST + "[optim]\nlr = 1\n").optim.lr
    assert (lr, type(lr)) == (1.0, float)


@pytest.mark.parametrize("missing", ["architecture", "epochs", "batch_size"])
def test_a_missing_key_is_named(read, missing):
    lines = [line for line in LEAST.splitlines() if not line.startswith(missing)]
    with pytest.raises(RecipeError, match=f"missing key {missing}"):
        read("\n".join(lines))


@pytest.mark.parametrize(
    "text, key",
    [
        ("epoch = 3", "epoch"),
        ("[optimiser]\nlr = 1", "optimiser"),
        ("[optim]\nlearning_rate = 1", r"optim\.learning_rate"),
        ("[augment]\ncutmix = 1", r"augment\.cutmix"),
        ("[objective]\nalgin = 1", r"objective\.algin"),
    ],
)
def test_an_unknown_key_is_named_with_its_table(read, text, key):
    with pytest.raises(RecipeError, match=f"unknown key {key}; known here: "):
        read(LEAST + text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed = true", "seed must be int; got True"),
        ("seed = 1.5", "seed must be int; got 1.5"),
        ("seed = '1'", "seed must be int; got '1'"),
        ("model = 3", "model must be a table; got 3"),
        ("optim = 'adamw'", "optim must be a table; got 'adamw'"),
        ("optim = []", "optim must be a table"),
        ("[optim]\nlr = '1e-3'", "optim.lr must be float; got '1e-3'"),
        ("[optim]\nlr = true", "optim.lr must be float; got True"),
        ("[optim]\nlr = [1]", "optim.lr must be float"),
        ("[optim]\noptimizer = 1", "optim.optimizer must be str; got 1"),
        ("[optim]\nwarmup_epochs = 1.0", "optim.warmup_epochs must be int; got 1.0"),
        ("[objective]\ngranularities = 'XL'", "objective.granularities must be a list of strings; got 'XL'"),
        ("[objective]\ngranularities = [1]", "objective.granularities must be a list of strings"),
        ("[objective]\ngranularities = ['XXL']", "objective.granularities: 'XXL' is none of S, M, L, XL"),
        ("[objective]\ngranularities = []", "objective.granularities must name at least one"),
    ],
)
def test_a_wrong_value_is_named(read, text, message):
    with pytest.raises(RecipeError) as caught:
        read(LEAST + text)
    assert message in str(caught.value)


@pytest.mark.parametrize("key", ["epochs", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_start_at_one(read, key, value):
    lines = [line for line in LEAST.splitlines() if not line.startswith(key)]
    with pytest.raises(RecipeError, match=f"{key} must be at least 1"):
        read("\n".join([*lines, f"{key} = {value}"]))


@pytest.mark.parametrize(
    "text",
    ["seed = -1", "[optim]\nlr = nan", "[optim]\nlr = -1", "[optim]\nlr = inf", "[optim]\nema_decay = 1"],
)
def test_what_would_spoil_a_run_is_refused(read, text):
    with pytest.raises(RecipeError, match="must be"):
        read(LEAST + text)


@pytest.mark.parametrize("text", ["epochs = ", "not toml", "a = 1\na = 2"])
def test_what_is_not_toml_names_the_file(read, text):
    with pytest.raises(RecipeError, match=r"cannot read .*recipe\.toml"):
        read(text)


def test_what_cannot_be_opened_names_the_file(tmp_path):
    for path in (tmp_path, tmp_path / "absent.toml"):
        with pytest.raises(RecipeError, match="cannot read"):
            recipe.read(path)
    (tmp_path / "latin.toml").write_bytes(b"architecture = '\xe9'")
    with pytest.raises(RecipeError, match="cannot read"):
        recipe.read(tmp_path / "latin.toml")
