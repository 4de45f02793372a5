import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import matvit
from matvit import GRANULARITIES, recipe
from matvit.errors import RecipeError, TrainingError
from matvit.train import Hooks, build, train
from retrieval.training import FolderImages

RECIPE = """
# a comment that is kept
architecture = "matvit_tiny_patch16_224"
epochs = {epochs}
batch_size = {batch_size}
seed = {seed}

[model]
img_size = 8
patch_size = 4
in_chans = {in_chans}
embed_dim = 32
depth = 2
num_heads = 2
{model}

[preprocess]
mean = [0.5]
std = [0.5]
crop_pct = 1.0

[augment]
{augment}

[optim]
warmup_epochs = 0
{optim}

[objective]
{objective}
"""


def recipe_text(**settings):
    defaults = {
        "epochs": 2,
        "batch_size": 8,
        "seed": 0,
        "in_chans": 1,
        "model": "",
        "augment": "",
        "objective": "",
    }
    return RECIPE.format(**{**defaults, "optim": "lr = 3e-3", **settings})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """32 noisy images of 8 x 8, bright above (class `a`) or below (class `b`)."""
    root = tmp_path_factory.mktemp("images")
    noise = np.random.default_rng(0)
    for label, name in enumerate("ab"):
        (root / name).mkdir()
        for i in range(16):
            pixels = noise.integers(0, 100, (8, 8))
            pixels[4 * label : 4 * label + 4] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture
def run(folder, tmp_path):
    """Train by a recipe; gives the run directory, the lines of its metrics, and the model."""

    def run(name="run", *, hooks=None, dtype=torch.float32, images=None, **settings):
        file = tmp_path / f"{name}.toml"
        file.write_text(recipe_text(**settings))
        images = images or FolderImages(folder, recipe.read(file))
        out = tmp_path / name
        model = train(file, images, out, device=torch.device("cpu"), dtype=dtype, hooks=hooks or Hooks())
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        return out, lines, model

    return run


def measures(lines):
    """The lines of `metrics.jsonl` without what depends on the clock."""
    return [{k: v for k, v in line.items() if k not in ("seconds", "images_per_s")} for line in lines]


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_a_run_learns_and_keeps_everything(run, tmp_path):
    out, lines, model = run(epochs=3)
    assert sorted(p.name for p in out.iterdir()) == ["checkpoint", "config.toml", "metrics.jsonl"]
    assert (out / "config.toml").read_bytes() == (tmp_path / "run.toml").read_bytes()

    assert [line["epoch"] for line in lines] == [1, 2, 3]
    for name in ("loss", *(f"loss/{g}" for g in GRANULARITIES)):
        assert lines[-1][name] < lines[0][name], name
    for line in lines:
        assert line["loss"] == pytest.approx(sum(line[f"loss/{g}"] for g in GRANULARITIES), abs=1e-4)
        assert line["seconds"] >= 0
        assert line["images_per_s"] > 0

    kept = matvit.load(out / "checkpoint")
    assert same_weights(kept, model)
    assert not model.training
    assert kept.num_classes == 2
    config = json.loads((out / "checkpoint/config.json").read_text())
    assert config["matvit"]["classes"] == ["a", "b"]
    assert tuple(kept.pretrained_cfg["mean"]) == (0.5,)
    assert tuple(kept.pretrained_cfg["input_size"]) == (1, 8, 8)


def normalised(path):
    with Image.open(path) as image:
        return (torch.from_numpy(np.array(image)).float()[None] / 255 - 0.5) / 0.5


def test_the_trained_granularities_tell_the_classes_apart(run, folder):
    _, _, model = run(epochs=20)
    for label, name in enumerate("ab"):
        x = torch.stack([normalised(path) for path in sorted((folder / name).iterdir())])
        for submodel in model.space.uniforms():
            assert (model(x, submodel).argmax(1) == label).float().mean() > 0.9, submodel


def test_the_same_seed_gives_the_same_run(run):
    augment = "translate = 0.1\nhflip = 0.5\ncrop = 0.5\nerase = 0.2"
    _, first, model = run("first", augment=augment)
    _, second, twin = run("second", augment=augment)
    _, other, stranger = run("other", augment=augment, seed=1)
    assert measures(first) == measures(second)
    assert same_weights(model, twin)
    assert measures(first) != measures(other)
    assert not same_weights(model, stranger)


def test_an_average_is_saved_evaluated_and_does_not_change_the_training(run):
    evaluated = []
    hooks = Hooks(evaluate=lambda model: evaluated.append(model.head.weight.detach().clone()) or {})
    _, raw_lines, raw = run("raw")
    out, lines, averaged = run("averaged", optim="lr = 3e-3\nema_decay = 0.9", hooks=hooks)
    assert measures(lines) == measures(raw_lines)
    assert not same_weights(averaged, raw)
    assert same_weights(matvit.load(out / "checkpoint"), averaged)
    assert torch.equal(evaluated[-1], averaged.head.weight)


def test_the_average_lies_between_start_and_end(run, folder, tmp_path):
    _, _, raw = run("raw", epochs=1)
    _, _, averaged = run("averaged", epochs=1, optim="lr = 3e-3\nema_decay = 0.9")
    start = build(recipe.read(tmp_path / "raw.toml"), num_classes=2)
    away = (raw.head.weight - start.head.weight).norm()
    assert (averaged.head.weight - start.head.weight).norm() < away
    assert (averaged.head.weight - raw.head.weight).norm() < away


def test_what_evaluate_measures_lands_in_the_metrics(run):
    seen, steps = [], []

    def evaluate(model):
        assert not model.training
        return {"knn/XL": 0.5 + len(seen)}

    hooks = Hooks(evaluate=evaluate, on_step=steps.append, on_epoch=seen.append)
    _, lines, _ = run(hooks=hooks)
    assert [line["knn/XL"] for line in lines] == [0.5, 1.5]
    assert seen == lines
    assert steps == [8] * 8


def test_a_checkpoint_is_there_when_an_epoch_is_reported(run, tmp_path):
    loaded = []
    run(hooks=Hooks(on_epoch=lambda line: loaded.append(matvit.load(tmp_path / "run" / "checkpoint"))))
    assert len(loaded) == 2
    assert not same_weights(*loaded)


def test_only_the_granularities_asked_for_are_trained(run):
    _, lines, _ = run(objective='granularities = ["S", "L"]')
    assert {key for key in lines[0] if key.startswith("loss/")} == {"loss/S", "loss/L"}


def test_alignment_grows_from_nothing(run):
    _, plain, _ = run("plain")
    _, aligned, _ = run("aligned", objective="align = 4.0")
    assert measures(plain)[0] == measures(aligned)[0]
    extra = aligned[1]["loss"] - sum(aligned[1][f"loss/{g}"] for g in GRANULARITIES)
    assert extra > 1e-3


@pytest.mark.parametrize("in_chans", [1, 3])
@pytest.mark.parametrize(
    "augment",
    [
        "degrees = 10",
        "translate = 0.2",
        "zoom = 0.3",
        "shear = 20",
        "crop = 0.3",
        "hflip = 0.5",
        "color_jitter = 0.4",
        'auto_augment = "rand-m9-mstd0.5"',
        'auto_augment = "augmix-m3-w2"',
        "erase = 0.5",
        "",
    ],
)
def test_every_augmentation_runs_and_varies_the_images(run, folder, tmp_path, augment, in_chans):
    file = tmp_path / "read.toml"
    file.write_text(recipe_text(in_chans=in_chans))
    images = FolderImages(folder, recipe.read(file))
    plain = images[0][0].copy()
    run(epochs=1, augment=augment, in_chans=in_chans, images=images)
    seen = {images.transform(plain).numpy().tobytes() for _ in range(20)}
    assert len(seen) > 1 if augment else len(seen) == 1


def test_an_image_that_is_not_augmented_is_only_normalised(run, folder, settings):
    images = FolderImages(folder, settings)
    plain = images[0][0].copy()
    run(epochs=1, in_chans=3, images=images)
    wanted = (torch.from_numpy(np.array(plain)).float().permute(2, 0, 1) / 255 - 0.5) / 0.5
    torch.testing.assert_close(images.transform(plain), wanted)


def everything(folder):
    """All images and their labels as one batch."""
    paths = sorted(folder.glob("*/*.png"))
    return torch.stack([normalised(p) for p in paths]), torch.tensor(
        [p.parent.name == "b" for p in paths]
    ).long()


def test_training_is_the_loop_written_out(run, folder, tmp_path):
    """Whole-batch steps at a constant rate, so that neither order nor schedule matters."""
    _, _, model = run(
        epochs=4,
        batch_size=32,
        optim='optimizer = "momentum"\nlr = 0.05\nmin_lr = 0.05\nweight_decay = 0\nclip_grad = 0.5',
    )
    oracle = build(recipe.read(tmp_path / "run.toml"), num_classes=2)
    optimizer = torch.optim.SGD(oracle.parameters(), lr=0.05, momentum=0.9)
    x, target = everything(folder)
    for _ in range(4):
        optimizer.zero_grad()
        sum(F.cross_entropy(oracle(x, s), target) for s in oracle.space.uniforms()).backward()
        torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.5)
        optimizer.step()
    for name, parameter in oracle.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter, rtol=1e-3, atol=1e-5)


def test_dropout_stays_on_in_every_epoch(run):
    still = {"batch_size": 32, "optim": "lr = 0.0\nmin_lr = 0.0", "epochs": 3}
    _, plain, _ = run("plain", **still)
    _, dropped, _ = run("dropped", model="proj_drop_rate = 0.5", **still)
    assert len({round(line["loss"], 3) for line in plain}) == 1
    assert all(abs(a["loss"] - b["loss"]) > 1e-3 for a, b in zip(plain, dropped, strict=True))


def test_label_smoothing_and_bf16_run(run):
    _, lines, model = run(objective="label_smoothing = 0.1", dtype=torch.bfloat16)
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_learning_rate_falls_to_its_end(run):
    _, lines, _ = run(epochs=3, optim="lr = 1e-2\nmin_lr = 1e-4")
    rates = [line["lr"] for line in lines]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


def test_a_directory_in_use_is_refused_and_left_alone(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="run is not empty: choose a new run directory"):
        run()
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_an_empty_directory_is_taken(run, tmp_path):
    (tmp_path / "run").mkdir()
    run(epochs=1)


def test_fewer_images_than_a_batch_are_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(TrainingError, match="32 images are fewer than one batch of 33"):
        run(batch_size=33)
    assert not (tmp_path / "run").exists()


def test_a_loss_that_is_not_finite_stops_the_run(run, tmp_path):
    with pytest.raises(
        TrainingError, match="the loss is not finite in epoch 1; a lower learning rate may help"
    ):
        run(optim="lr = 1e30\nclip_grad = 0")
    assert not (tmp_path / "run" / "checkpoint").exists()


@pytest.mark.parametrize(
    "old, new, error",
    [
        ("num_heads = 2", "num_heads = 5", TrainingError),
        ("num_heads = 2", "no_such_argument = 5", TrainingError),
        ("matvit_tiny_patch16_224", "matvit_huge_patch16_224", TrainingError),
        ("matvit_tiny_patch16_224", "vit_tiny_patch16_224", TrainingError),
        ("warmup_epochs = 0", 'optimizer = "no_such_optimizer"', (RecipeError, TrainingError)),
        ("num_heads = 2", 'checkpoint_path = "x.pth"', TrainingError),
        ("in_chans = 1", "in_chans = 2", RecipeError),
        ("[objective]", "[objective]\nlabel_smoothing = 1.5", RecipeError),
        ("[augment]", '[augment]\nauto_augment = "no-such-policy"', (RecipeError, TrainingError)),
    ],
)
def test_what_a_recipe_cannot_mean_is_said_in_one_line(folder, tmp_path, old, new, error):
    file = tmp_path / "wrong.toml"
    text = recipe_text(optim="")
    file.write_text(text.replace(old, new))
    images = FolderImages(folder, recipe.read(recipe.find("digits")))
    with pytest.raises(error) as caught:
        train(file, images, tmp_path / "out", device=torch.device("cpu"), dtype=torch.float32)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


# --- the model ---


@pytest.fixture
def settings(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_text(in_chans=3))
    return recipe.read(file)


def test_a_seed_makes_the_same_model(settings):
    assert same_weights(build(settings, num_classes=2), build(settings, num_classes=2))
