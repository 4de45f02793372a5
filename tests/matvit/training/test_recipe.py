import dataclasses

import pytest

from matvit.errors import RecipeError
from matvit.training import recipe

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
    import torch

    from matvit.training.from_recipe import build

    settings = recipe.read(recipe.find(name))
    with torch.device("meta"):  # Weights of the large ones would take long to draw.
        model = build(settings, num_classes=10)
    assert model.num_classes == 10
    assert model.pretrained_cfg["architecture"] == settings.architecture
    assert settings.epochs > settings.optim.warmup_epochs


def test_the_shipped_recipes_are_there():
    assert {"b16_in1k", "s16_in1k", "l16_in1k_finetune", "cifar10", "digits"} <= set(recipe.names())


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
        "cutmix = 1\n[optim]\nlr = 0.5\nbetas = [0.9, 0.95]\nwarmup_steps = 7\nlayer_decay = 0.75\n"
        "[objective]\nkind = 'sampled'\ngranularities = ['M', 'XL']\nprobabilities = [0.25, 0.75]\n"
        "distill = 'logits'\nwith_full = true\n[evaluation]\nevery = 5\n"
    )
    assert (settings.seed, settings.model, settings.preprocess) == (3, {"img_size": 8}, {"mean": [0.5]})
    assert settings.augment == recipe.Augment(auto_augment="rand", cutmix=1.0)
    assert settings.optim == recipe.Optim(lr=0.5, betas=(0.9, 0.95), warmup_steps=7, layer_decay=0.75)
    assert settings.objective == recipe.Objective(
        kind="sampled",
        granularities=("M", "XL"),
        probabilities=(0.25, 0.75),
        distill="logits",
        with_full=True,
    )
    assert settings.evaluation == recipe.Evaluation(every=5)


@pytest.mark.parametrize("mixes", ["mixup = 0.2", "cutmix = 1.0", "mixup = 0.2\ncutmix = 1.0"])
def test_mixing_needs_an_even_batch(read, mixes):
    assert read(f"{LEAST}[augment]\n{mixes}").augment.mixes
    assert not read(f"{LEAST}[augment]\nmix_probability = 0.5").augment.mixes
    odd = LEAST.replace("batch_size = 8", "batch_size = 7")
    with pytest.raises(RecipeError, match=r"augment\.mixup and augment\.cutmix need an even batch_size"):
        read(f"{odd}[augment]\n{mixes}")
    assert read(odd).batch_size == 7


def test_whole_numbers_are_taken_for_floats(read):
    optim = read(LEAST + "[optim]\nlr = 1\nbetas = [0, 1]").optim
    assert [type(number) for number in (optim.lr, *optim.betas)] == [float] * 3


@pytest.mark.parametrize("chans, mode", [("1", "L"), ("3", "RGB")])
def test_the_colours_are_those_of_the_model(read, chans, mode):
    assert read(LEAST).mode == "RGB"
    assert read(f"{LEAST}[model]\nin_chans = {chans}").mode == mode


@pytest.mark.parametrize("missing", ["architecture", "epochs", "batch_size"])
def test_a_missing_key_is_named(read, missing):
    lines = [line for line in LEAST.splitlines() if not line.startswith(missing)]
    with pytest.raises(
        RecipeError, match=rf"cannot read .*recipe\.toml: Object missing required field `{missing}`"
    ):
        read("\n".join(lines))


@pytest.mark.parametrize(
    "text, key",
    [
        ("epoch = 3", "epoch"),
        ("[optimiser]\nlr = 1", "optimiser"),
        ("[optim]\nlearning_rate = 1", r"optim\.learning_rate"),
        ("[augment]\nmixcut = 1", r"augment\.mixcut"),
        ("[objective]\nalign = 1", r"objective\.align"),
        ("[evaluation]\nknn = 1", r"evaluation\.knn"),
    ],
)
def test_an_unknown_key_is_named_with_its_table(read, text, key):
    with pytest.raises(RecipeError, match=f"unknown key {key}; known here: "):
        read(LEAST + text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("seed = true", "Expected `int`, got `bool` - at `$.seed`"),
        ("seed = 1.5", "Expected `int`, got `float` - at `$.seed`"),
        ("seed = '1'", "Expected `int`, got `str` - at `$.seed`"),
        ("model = 3", "Expected `object`, got `int` - at `$.model`"),
        ("optim = 'adamw'", "Expected `object`, got `str` - at `$.optim`"),
        ("optim = []", "Expected `object`, got `array` - at `$.optim`"),
        ("[optim]\nlr = '1e-3'", "Expected `float`, got `str` - at `$.optim.lr`"),
        ("[optim]\nlr = true", "Expected `float`, got `bool` - at `$.optim.lr`"),
        ("[optim]\nlr = [1]", "Expected `float`, got `array` - at `$.optim.lr`"),
        ("[optim]\noptimizer = 1", "Expected `str`, got `int` - at `$.optim.optimizer`"),
        ("[optim]\nwarmup_epochs = 1.0", "Expected `int`, got `float` - at `$.optim.warmup_epochs`"),
        ("[objective]\ngranularities = 'XL'", "Expected `array`, got `str` - at `$.objective.granularities`"),
        ("[objective]\ngranularities = [1]", "Expected `str`, got `int` - at `$.objective.granularities[0]`"),
        ("[objective]\ngranularities = ['XXL']", "objective.granularities: 'XXL' is none of S, M, L, XL"),
        ("[objective]\ngranularities = []", "objective.granularities must name at least one"),
        ("[objective]\nsizes = [0]", "objective.sizes must be from 1 to 10000, got 0"),
        ("[objective]\nsizes = 21", "Expected `array`, got `int` - at `$.objective.sizes`"),
        ("[objective]\nmerge = [-1]", "objective.merge must be from 0 to 10000, got -1"),
        ("[objective]\nkind = 'both'", "objective.kind must be one of 'joint', 'sampled', 'mixnmatch'"),
        ("[objective]\nkind = 3", "Expected `str`, got `int` - at `$.objective.kind`"),
        ("[objective]\nloss = 'hinge'", "objective.loss must be one of 'softmax', 'sigmoid'; got 'hinge'"),
        ("[objective]\nreduction = 'max'", "objective.reduction must be one of 'sum', 'mean'; got 'max'"),
        ("[objective]\ndistill = 'none'", "objective.distill must be one of '', 'embedding', 'logits'"),
        ("[objective]\ndistill_temperature = 0", "objective.distill_temperature must be above 0"),
        ("[objective]\ndistill_weight = -1", "distill_weight at least 0"),
        ("[objective]\nwith_full = 1", "Expected `bool`, got `int` - at `$.objective.with_full`"),
        ("[objective]\nlabel_smoothing = 1", "objective.label_smoothing must be from 0 to below 1, got 1.0"),
        ("[objective]\nprobabilities = 1", "Expected `array`, got `int` - at `$.objective.probabilities`"),
        (
            "[objective]\nprobabilities = [true]",
            "Expected `float`, got `bool` - at `$.objective.probabilities[0]`",
        ),
        ("[objective]\nprobabilities = [0.5, 0.5]", "objective.probabilities must sum to 1, one for each"),
        ("[objective]\nprobabilities = [1, 1, 1, 1]", "objective.probabilities must sum to 1"),
        ("[objective]\nprobabilities = [2, -1, 0, 0]", "objective.probabilities must sum to 1"),
        ("[objective]\nprobabilities = [nan, 0, 0, 1]", "objective.probabilities must sum to 1"),
        ("[optim]\nbetas = 0.9", "Expected `array`, got `float` - at `$.optim.betas`"),
        ("[optim]\nbetas = ['0.9']", "Expected `float`, got `str` - at `$.optim.betas[0]`"),
        ("[optim]\nlayer_decay = 0", "optim.layer_decay must be above 0 and at most 1, got 0.0"),
        ("[optim]\nlayer_decay = 1.5", "optim.layer_decay must be above 0 and at most 1, got 1.5"),
        ("[evaluation]\nevery = 0", "evaluation.every must be from 1 to "),
        ("[evaluation]\ncorpus = 0", "evaluation.corpus must be from 1 to "),
        ("[evaluation]\nevery = '1'", "Expected `int`, got `str` - at `$.evaluation.every`"),
        ("[model]\nin_chans = 2", "model.in_chans must be 1 (grey) or 3 (colour)"),
        ("[preprocess]\ninput_size = [3, 8, 8]", "preprocess.input_size is not for recipes"),
    ],
)
def test_a_wrong_value_is_named(read, text, message):
    with pytest.raises(RecipeError) as caught:
        read(LEAST + text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["epochs", "batch_size"])
@pytest.mark.parametrize("value", [0, -1])
def test_counts_start_at_one(read, key, value):
    lines = [line for line in LEAST.splitlines() if not line.startswith(key)]
    with pytest.raises(RecipeError, match=f"{key} must be from 1 to "):
        read("\n".join([*lines, f"{key} = {value}"]))


@pytest.mark.parametrize(
    "text",
    ["seed = -1", "[optim]\nlr = nan", "[optim]\nlr = -1", "[optim]\nlr = inf", "[optim]\nema_decay = 1"],
)
def test_what_would_spoil_a_run_is_refused(read, text):
    with pytest.raises(RecipeError, match="must be"):
        read(LEAST + text)


@pytest.mark.parametrize(
    "text",
    [
        *(f"{name} = {10**400}" for name in ("epochs", "batch_size", "seed")),
        *(f"{name} = {10**18}" for name in ("epochs", "batch_size")),
        *(
            f"[{table}]\n{name} = {number}"
            for table, names in {
                "optim": "lr min_lr weight_decay clip_grad ema_decay layer_decay warmup_epochs warmup_steps",
                "augment": "degrees translate zoom shear crop stretch hflip color_jitter erase mixup cutmix",
                "objective": "label_smoothing distill_weight distill_temperature",
                "evaluation": "every corpus",
            }.items()
            for name in names.split()
            for number in ("1e300", "1e31", "-1e300", "nan", "inf", "-inf", 10**400)
        ),
        *(f"[optim]\nbetas = [0.9, {number}]" for number in ("1e300", "nan", "inf", -1, 1.5, 10**400)),
    ],
    ids=lambda text: text[:40],
)
def test_numbers_out_of_all_range_are_refused(read, text):
    kept = [line for line in LEAST.splitlines() if line.split()[0] != text.split()[0]]
    with pytest.raises(
        RecipeError, match=r"must be|Number out of range|Expected `int`, got `float`"
    ) as caught:
        read("\n".join([*kept, text]))
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("depth", [500, 3_000, 20_000])
@pytest.mark.parametrize("nested", ["[]", ("{a=", "}")])
def test_a_recipe_that_is_nested_without_end(read, nested, depth):
    value = f"a = {nested[0] * depth}1{nested[1] * depth}"
    with pytest.raises(RecipeError, match=r"unknown key a;|cannot read .*nested without end") as caught:
        read(LEAST + value)
    assert "\n" not in str(caught.value)


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
