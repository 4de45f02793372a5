"""The training loop, on 32 images of 8 x 8 pixels: what it learns, keeps, refuses and goes on with."""

import faulthandler
import json
import math
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from timm.models.vision_transformer import Block
from torch.utils.data import DataLoader

import matvit
import matvit.training.train
from matvit import GRANULARITIES
from matvit.errors import RecipeError, TrainingError
from matvit.training import recipe
from matvit.training.from_recipe import build, initialise
from matvit.training.train import Execution, Hooks, train
from retrieval.sources.labelled import open_labelled

RECIPE = """
# a comment that is kept
architecture = "matvit_tiny_patch16_224"
epochs = {epochs}
batch_size = {batch_size}
seed = {seed}

[model]
img_size = 8
patch_size = 4
in_chans = 1
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
{optim}

[objective]
{objective}

[evaluation]
{evaluation}
"""
PLAIN = "lr = 3e-3\nwarmup_epochs = 0"
STEPS = 4
"""In an epoch of the 32 images, in batches of 8."""
CLOCK = ("seconds", "images_per_s", "peak_memory_mb")


def recipe_text(**settings):
    empty = dict.fromkeys(("model", "augment", "objective", "evaluation"), "")
    return RECIPE.format(**{"epochs": 2, "batch_size": 8, "seed": 0, "optim": PLAIN, **empty, **settings})


def write_images(root, count=16):
    """Noisy images, bright above (class `a`) or below (class `b`)."""
    noise = np.random.default_rng(0)
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = noise.integers(0, 100, (8, 8))
            pixels[4 * label : 4 * label + 4] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def images(folder):
    return open_labelled(folder, "L")


class Run:
    """A run directory, what its metrics say, and the model that training gave."""

    def __init__(self, out, model):
        self.out, self.model = out, model

    @property
    def lines(self):
        return [json.loads(line) for line in (self.out / "metrics.jsonl").read_text().splitlines()]

    @property
    def epochs(self):
        return [line for line in self.lines if "epoch" in line]

    @property
    def steps(self):
        return [line for line in self.lines if "epoch" not in line]

    @property
    def measures(self):
        """The lines without what depends on the clock and the machine."""
        return [{key: value for key, value in line.items() if key not in CLOCK} for line in self.lines]

    def losses(self, name="loss"):
        return [line[name] for line in self.steps]


@pytest.fixture
def run(images, tmp_path):
    """Trains by a recipe, into a directory of that name."""

    def run(name="run", *, how=None, hooks=None, init=None, resume=False, data=None, **settings):
        file = tmp_path / f"{name}.toml"
        file.write_text(recipe_text(**settings))
        out, how = tmp_path / name, Execution(log_every=1, **(how or {}))
        model = train(
            file, data or images, out, execution=how, hooks=hooks or Hooks(), init=init, resume=resume
        )
        return Run(out, model)

    return run


class StoppedError(Exception):
    """What ends a run in these tests in the middle of its work."""


def stop_after(count):
    """A hook that stops a run after so many steps."""
    left = [count]

    def progress(*_):
        left[0] -= 1
        if left[0] <= 0:
            raise StoppedError

    return Hooks(progress=progress)


def same_weights(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def same_runs(one, other):
    """Whether two runs ended alike to the last bit."""
    weights = [run.out / "checkpoint/model.safetensors" for run in (one, other)]
    states = [load_file(run.out / "last/state.safetensors") for run in (one, other)]
    return (
        one.measures == other.measures
        and weights[0].read_bytes() == weights[1].read_bytes()
        and states[0].keys() == states[1].keys()
        and all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
        and same_weights(one.model, other.model)
    )


def normalised(path):
    with Image.open(path) as image:
        return (torch.from_numpy(np.array(image)).float()[None] / 255 - 0.5) / 0.5


def everything(folder):
    """All images and their labels as one batch."""
    paths = sorted(folder.glob("*/*.png"))
    labels = torch.tensor([path.parent.name == "b" for path in paths]).long()
    return torch.stack([normalised(path) for path in paths]), labels


# --- learning, and what is kept of it ---


def test_a_run_learns_and_keeps_everything(run, tmp_path):
    done = run(epochs=3)
    assert sorted(p.name for p in done.out.iterdir()) == [
        "checkpoint",
        "config.toml",
        "last",
        "metrics.jsonl",
    ]
    assert (done.out / "config.toml").read_bytes() == (tmp_path / "run.toml").read_bytes()

    assert [line["epoch"] for line in done.epochs] == [1, 2, 3]
    assert [line["step"] for line in done.epochs] == [4, 8, 12]
    for name in ("loss", *(f"loss/{g}" for g in GRANULARITIES)):
        assert done.epochs[-1][name] < done.epochs[0][name], name
    for line in done.epochs:
        assert line["loss"] == pytest.approx(sum(line[f"loss/{g}"] for g in GRANULARITIES), abs=1e-4)
        assert line["seconds"] >= 0
        assert line["images_per_s"] > 0
        assert line["peak_memory_mb"] > 50

    kept = matvit.load(done.out / "checkpoint")
    assert same_weights(kept, done.model)
    assert not done.model.training
    assert kept.num_classes == 2
    config = json.loads((done.out / "checkpoint/config.json").read_text())
    assert config["matvit"]["classes"] == ["a", "b"]
    assert tuple(kept.pretrained_cfg["mean"]) == (0.5,)
    assert tuple(kept.pretrained_cfg["input_size"]) == (1, 8, 8)


def test_the_trained_granularities_tell_the_classes_apart(run, folder):
    model = run(epochs=12, optim="lr = 5e-3\nwarmup_epochs = 0").model
    x, target = everything(folder)
    for submodel in model.space.uniforms():
        assert (model(x, submodel).argmax(1) == target).float().mean() > 0.9, submodel


@pytest.mark.parametrize(
    "optim, optimizer",
    [
        (
            'optimizer = "momentum"\nlr = 0.05\nmin_lr = 0.05',
            lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        ),
        (
            "lr = 0.01\nmin_lr = 0.01\nbetas = [0.5, 0.6]",
            lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0, betas=(0.5, 0.6)),
        ),
    ],
    ids=["momentum", "betas"],
)
def test_training_is_the_loop_written_out(run, folder, tmp_path, optim, optimizer):
    """Whole-batch steps at a constant rate, so that neither order nor schedule matters."""
    optim += "\nweight_decay = 0\nclip_grad = 0.5\nwarmup_epochs = 0"
    done = run(epochs=4, batch_size=32, optim=optim)
    oracle = build(recipe.read(tmp_path / "run.toml"), num_classes=2)
    stepping = optimizer(oracle.parameters())
    x, target = everything(folder)
    for line in done.steps:
        stepping.zero_grad()
        loss = sum(F.cross_entropy(oracle(x, s), target) for s in oracle.space.uniforms())
        loss.backward()
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-4)
        torch.nn.utils.clip_grad_norm_(oracle.parameters(), 0.5)
        stepping.step()
    for name, parameter in oracle.named_parameters():
        # A step is 0.01; the sums' last bits, which hang on the processor, grow with each.
        torch.testing.assert_close(done.model.get_parameter(name), parameter, rtol=1e-3, atol=5e-4)


def test_the_same_seed_gives_the_same_run(run):
    augment = "translate = 0.1\nhflip = 0.5\ncrop = 0.5\nerase = 0.2"
    first, second = run("first", augment=augment), run("second", augment=augment)
    other = run("other", augment=augment, seed=1)
    assert same_runs(first, second)
    assert first.measures != other.measures
    assert not same_weights(first.model, other.model)


@pytest.mark.parametrize(
    "settings",
    [
        {"objective": 'kind = "joint"\nreduction = "mean"'},
        {"objective": 'kind = "joint"\ndistill = "logits"\ndistill_temperature = 2'},
        {"objective": 'kind = "joint"\ndistill = "embedding"\ngranularities = ["S", "L"]'},
        {"objective": 'kind = "sampled"\nprobabilities = [0.4, 0.3, 0.2, 0.1]'},
        {"objective": 'kind = "sampled"\nwith_full = true\ndistill = "logits"'},
        {"objective": 'kind = "mixnmatch"'},
        {"objective": 'kind = "mixnmatch"\nwith_full = true\ndistill = "embedding"'},
        {"objective": 'kind = "mixnmatch"\ndistill = "logits"'},
        {"objective": 'loss = "sigmoid"', "augment": "mixup = 0.2"},
        {"objective": 'loss = "sigmoid"\ndistill = "logits"\nlabel_smoothing = 0.1'},
        {"objective": "label_smoothing = 0.1", "augment": "mixup = 0.2\ncutmix = 1.0"},
        {"objective": 'kind = "sampled"\nloss = "sigmoid"', "augment": "cutmix = 0.5"},
    ],
    ids=lambda settings: " ".join(" ".join(settings.values()).replace('"', "").split()),
)
def test_every_objective_learns(run, folder, tmp_path, settings):
    model = run(epochs=14, batch_size=16, optim="lr = 1e-2\nwarmup_epochs = 0", **settings).model
    fresh = build(recipe.read(tmp_path / "run.toml"), num_classes=2)
    x, target = everything(folder)
    sigmoid = "sigmoid" in settings["objective"]

    def loss(model, submodel):
        logits = model(x, submodel)
        if sigmoid:
            return F.binary_cross_entropy_with_logits(logits, F.one_hot(target, 2).float())
        return F.cross_entropy(logits, target)

    for submodel in model.space.uniforms():
        assert loss(model, submodel) < 0.8 * loss(fresh, submodel), submodel


def test_a_line_names_what_its_step_trained(run):
    assert {n for line in run("a").steps for n in line if "/" in n} == {f"loss/{g}" for g in GRANULARITIES}
    done = run("b", objective='granularities = ["S", "L"]')
    assert {name for line in done.steps for name in line if "/" in name} == {"loss/S", "loss/L"}
    done = run("c", objective='kind = "sampled"', epochs=4)
    named = [[name for name in line if "/" in name] for line in done.steps]
    assert all(len(names) == 1 for names in named)
    assert len({name for names in named for name in names}) > 2
    for line in done.epochs:
        steps = [step for step in done.steps if line["step"] - STEPS < step["step"] <= line["step"]]
        for name in {name for step in steps for name in step} - {"step", "lr", *CLOCK}:
            values = [step[name] for step in steps if name in step]
            assert line[name] == pytest.approx(sum(values) / len(values), abs=1e-5)


def test_distillation_grows_from_nothing(run):
    plain, distilled = run("plain"), run("distilled", objective='distill = "embedding"\ndistill_weight = 4')
    assert plain.measures[0] == {k: v for k, v in distilled.measures[0].items() if k != "distill"}
    last = distilled.epochs[-1]
    assert last["loss"] - sum(last[f"loss/{g}"] for g in GRANULARITIES) > 1e-3


@pytest.mark.parametrize("every", [1, 3, 100])
def test_metrics_come_every_few_steps(images, tmp_path, every):
    file = tmp_path / "run.toml"
    file.write_text(recipe_text(epochs=2))
    told = []
    train(
        file, images, tmp_path / "run", execution=Execution(log_every=every), hooks=Hooks(write=told.append)
    )
    done = Run(tmp_path / "run", None)
    assert [line["step"] for line in done.steps] == list(range(every, 9, every))
    assert [line["step"] for line in done.epochs] == [4, 8]
    assert done.lines == told
    # In the order of the steps, an epoch's own line after that of its last step.
    assert [line["step"] for line in done.lines] == sorted(line["step"] for line in done.lines)


def test_dropout_stays_on_in_every_epoch(run):
    still = {"batch_size": 32, "optim": "lr = 0.0\nmin_lr = 0.0\nwarmup_epochs = 0", "epochs": 3}
    hooks = Hooks(evaluate=lambda model: {"knn": 0.0})
    plain = run("plain", hooks=hooks, **still)
    dropped = run("dropped", hooks=hooks, model="proj_drop_rate = 0.5", **still)
    assert len({round(loss, 3) for loss in plain.losses()}) == 1
    assert all(abs(a - b) > 1e-3 for a, b in zip(plain.losses(), dropped.losses(), strict=True))


def test_bf16_runs_with_float32_weights(run):
    done = run(how={"dtype": torch.bfloat16}, objective="label_smoothing = 0.1")
    assert done.epochs[-1]["loss"] < done.epochs[0]["loss"]
    assert {p.dtype for p in done.model.parameters()} == {torch.float32}


# --- averages, evaluation, the best model ---


def test_an_average_is_saved_evaluated_and_does_not_change_the_training(run):
    evaluated = []

    def evaluate(model):
        evaluated.append(model.head.weight.detach().clone())
        return {"knn": 0.0}

    raw = run("raw", hooks=Hooks(evaluate=lambda model: {"knn": 0.0}))
    averaged = run("averaged", optim=f"{PLAIN}\nema_decay = 0.9", hooks=Hooks(evaluate=evaluate))
    assert averaged.measures == raw.measures
    assert not same_weights(averaged.model, raw.model)
    assert same_weights(matvit.load(averaged.out / "checkpoint"), averaged.model)
    assert torch.equal(evaluated[-1], averaged.model.head.weight)


def test_the_average_lies_between_start_and_end(run, tmp_path):
    raw = run("raw", epochs=1).model
    averaged = run("averaged", epochs=1, optim=f"{PLAIN}\nema_decay = 0.9").model
    start = build(recipe.read(tmp_path / "raw.toml"), num_classes=2)
    away = (raw.head.weight - start.head.weight).norm()
    assert 0 < (averaged.head.weight - start.head.weight).norm() < away
    assert (averaged.head.weight - raw.head.weight).norm() < away


def test_what_evaluate_measures_lands_in_the_metrics_and_the_best_is_kept(run):
    scores = [(0.2, 0.2), (0.1, 0.9), (0.8, 0.1)]  # the second has the highest mean, not the highest number
    weights = []

    def evaluate(model):
        assert not model.training
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return dict(zip(("top1/XL", "adaptive_1nn/S"), scores[len(weights) - 1], strict=True))

    done = run(epochs=3, hooks=Hooks(evaluate=evaluate))
    assert [(line["top1/XL"], line["adaptive_1nn/S"]) for line in done.epochs] == scores
    best, last = matvit.load(done.out / "best"), matvit.load(done.out / "checkpoint")
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in best.state_dict().items())
    assert all(torch.equal(tensor, weights[2][name]) for name, tensor in last.state_dict().items())
    assert json.loads((done.out / "best/config.json").read_text())["matvit"]["classes"] == ["a", "b"]


def test_the_last_epoch_is_always_evaluated(run):
    done = run(epochs=5, evaluation="every = 2", hooks=Hooks(evaluate=lambda model: {"knn": 0.5}))
    assert [line["epoch"] for line in done.epochs if "knn" in line] == [2, 4, 5]


def test_evaluation_changes_nothing(run):
    def evaluate(model):
        torch.rand(7)
        np.random.random(7)
        return {"knn": 0.5}

    plain, evaluated = (
        run("plain", model="proj_drop_rate = 0.2"),
        run("evaluated", model="proj_drop_rate = 0.2", hooks=Hooks(evaluate=evaluate)),
    )
    assert same_weights(plain.model, evaluated.model)


def test_a_checkpoint_is_there_when_an_epoch_is_reported(run, tmp_path):
    loaded, steps = [], []

    def write(line):
        if "epoch" in line:
            loaded.append(matvit.load(tmp_path / "run" / "checkpoint"))

    run(hooks=Hooks(write=write, progress=lambda *step: steps.append(step)))
    assert len(loaded) == 2
    assert not same_weights(*loaded)
    assert steps == [("images trained on", 8 * step, 64) for step in range(1, 9)]


# --- rates ---


def test_the_learning_rate_falls_to_its_end(run):
    rates = [line["lr"] for line in run(epochs=3, optim="lr = 1e-2\nmin_lr = 1e-4\nwarmup_epochs = 0").epochs]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize("warmup, steps", [("warmup_steps = 6", 6), ("warmup_epochs = 1", STEPS)])
def test_the_learning_rate_warms_up(run, warmup, steps):
    """Lines give the rate of the step to come: that of the first is a hundredth of the peak."""
    lr, least, count = 1e-2, 1e-4, 4 * STEPS
    rates = [line["lr"] for line in run(epochs=4, optim=f"lr = {lr}\nmin_lr = {least}\n{warmup}").steps]
    warm = [lr / 100 + (lr - lr / 100) * step / steps for step in range(1, steps)]
    # timm's cosine runs over the whole training, warm-up included.
    cosine = [
        least + (lr - least) * (1 + math.cos(math.pi * step / count)) / 2 for step in range(steps, count + 1)
    ]
    assert rates == pytest.approx(warm + cosine)


def test_steps_of_warmup_win_over_epochs(run):
    rates = [line["lr"] for line in run(optim="lr = 1e-2\nwarmup_epochs = 2\nwarmup_steps = 2").steps]
    assert rates.index(max(rates)) == 1


def test_lower_layers_learn_slower(run, tmp_path):
    optim = 'optimizer = "sgd"\nlr = 1e-2\nmin_lr = 1e-2\nweight_decay = 0\nwarmup_epochs = 0'
    even = run("even", batch_size=32, epochs=1, optim=optim).model
    decayed = run("decayed", batch_size=32, epochs=1, optim=f"{optim}\nlayer_decay = 0.5").model
    start = build(recipe.read(tmp_path / "even.toml"), num_classes=2)
    for name, share in (
        ("head.weight", 1.0),
        ("blocks.1.attn.qkv.weight", 0.5),
        ("blocks.0.mlp.fc1.weight", 0.25),
        ("patch_embed.proj.weight", 0.125),
    ):
        moved = [(model.get_parameter(name) - start.get_parameter(name)).norm() for model in (even, decayed)]
        assert (moved[1] / moved[0]).item() == pytest.approx(share, rel=1e-3), name


# --- memory, which costs no exactness ---


def test_parts_of_a_batch_are_the_whole_batch(run):
    whole = run("whole")
    parts = run("parts", how={"accumulate": 4})
    for name in ("loss", *(f"loss/{g}" for g in GRANULARITIES)):
        assert parts.losses(name) == pytest.approx(whole.losses(name), rel=1e-4)
    assert parts.losses()[-1] != pytest.approx(whole.losses()[0], rel=1e-2), "they did learn something"


def test_gradient_checkpointing_computes_twice_and_changes_nothing(run, monkeypatch):
    calls, forward = [], Block.forward

    def counted(self, *arguments, **options):
        calls.append(1)
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Block, "forward", counted)
    settings = {"epochs": 1, "model": "proj_drop_rate = 0.2\ndrop_path_rate = 0.2"}
    plain = run("plain", **settings)
    once = len(calls)
    saving = run("saving", how={"grad_checkpointing": True}, **settings)
    assert len(calls) - once == 2 * once
    assert saving.losses() == pytest.approx(plain.losses(), rel=1e-5)


# --- going on ---


RESUMED = {
    "plain": {},
    "everything": {
        "model": "proj_drop_rate = 0.1\ndrop_path_rate = 0.1",
        "augment": 'hflip = 0.5\ncrop = 0.5\nauto_augment = "rand-m9-mstd0.5"\nerase = 0.2\nmixup = 0.2',
        "optim": f"{PLAIN}\nema_decay = 0.9\nlayer_decay = 0.8\nwarmup_steps = 5",
        "objective": 'kind = "mixnmatch"\nwith_full = true\ndistill = "embedding"',
    },
    "sampled, momentum": {
        "objective": 'kind = "sampled"',
        "optim": 'optimizer = "momentum"\nlr = 0.01\nwarmup_epochs = 1',
    },
}


@pytest.mark.parametrize("save_minutes", [0.0, 10.0])
@pytest.mark.parametrize("kind", RESUMED)
def test_a_run_that_stopped_ends_as_the_undisturbed_one(run, kind, save_minutes):
    settings = {"epochs": 3, **RESUMED[kind]}
    undisturbed = run("undisturbed", **settings)
    how = {"save_minutes": save_minutes}
    for steps in (3, 2, 6):  # in the first epoch, then in it again or the second, then in the second
        with pytest.raises(StoppedError):
            run(how=how, hooks=stop_after(steps), resume=True, **settings)
    assert same_runs(run(how=how, resume=True, **settings), undisturbed)


def test_parts_and_average_go_on(run):
    settings = {"model": "proj_drop_rate = 0.2", "optim": f"{PLAIN}\nema_decay = 0.5"}
    undisturbed = run("undisturbed", how={"accumulate": 2}, **settings)
    with pytest.raises(StoppedError):
        run(how={"accumulate": 2, "save_minutes": 0}, hooks=stop_after(6), **settings)
    assert same_runs(run(how={"accumulate": 2}, resume=True, **settings), undisturbed)


def test_the_best_model_is_not_forgotten(run):
    heads = []

    def scores(*values):
        left = list(values)

        def evaluate(model):
            heads.append(model.head.weight.detach().clone())
            return {"knn": left.pop(0)}

        return evaluate

    with pytest.raises(StoppedError):
        run(epochs=3, hooks=replace(stop_after(6), evaluate=scores(0.9)))
    done = run(epochs=3, hooks=Hooks(evaluate=scores(0.5, 0.6)), resume=True)
    assert [line["knn"] for line in done.epochs] == [0.9, 0.5, 0.6]
    assert torch.equal(matvit.load(done.out / "best").head.weight, heads[0])
    assert not torch.equal(matvit.load(done.out / "checkpoint").head.weight, heads[0])


def test_a_finished_run_is_not_run_again(run):
    done = run()
    files = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in done.out.rglob("*") if p.is_file()}
    steps = []
    again = run(resume=True, hooks=Hooks(progress=lambda *step: steps.append(step), evaluate=pytest.fail))
    assert same_weights(again.model, done.model)
    assert not again.model.training
    assert steps == [("images trained on", 64, 64)]
    after = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in done.out.rglob("*") if p.is_file()}
    assert {p: data for p, (data, _) in after.items()} == {p: data for p, (data, _) in files.items()}
    assert (
        after[done.out / "checkpoint/model.safetensors"] == files[done.out / "checkpoint/model.safetensors"]
    )


def test_resume_starts_a_run_that_is_not_there(run):
    assert same_runs(run("new", resume=True), run("plain"))


def test_other_images_are_refused(run, folder, tmp_path):
    with pytest.raises(StoppedError):
        run(how={"save_minutes": 0}, hooks=stop_after(3))
    other = shutil.copytree(folder, tmp_path / "other")
    (other / "a" / "00.png").rename(other / "a" / "new.png")
    with pytest.raises(TrainingError, match=r"training images are not those that .*run was started with"):
        run(resume=True, data=open_labelled(other, "L"))
    before = (tmp_path / "run/metrics.jsonl").read_text()
    assert run(resume=True).lines[0] == json.loads(before.splitlines()[0])


def test_the_same_images_elsewhere_are_taken(run, folder, tmp_path):
    with pytest.raises(StoppedError):
        run(how={"save_minutes": 0}, hooks=stop_after(3))
    moved = shutil.copytree(folder, tmp_path / "moved")
    assert same_runs(run(resume=True, data=open_labelled(moved, "L")), run("plain"))


def test_another_recipe_is_refused(run):
    run()
    with pytest.raises(TrainingError, match="run is a run of another recipe"):
        run(resume=True, epochs=3)


@pytest.fixture
def poisoned(monkeypatch):
    """Hooks that spoil a weight after so many steps."""
    made = []

    def remembered(*arguments, **options):
        made.append(build(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(matvit.training.train, "build", remembered)

    def poisoned(count):
        left = [count]

        def progress(*_):
            left[0] -= 1
            if left[0] == 0:
                with torch.no_grad():
                    made[-1].blocks[0].mlp.fc1.weight[0, 0] = math.nan

        return Hooks(progress=progress)

    return poisoned


def test_a_loss_that_is_not_finite_stops_the_run_in_its_last_good_state(run, poisoned):
    message = "loss is not finite at step 7, in epoch 2; a lower learning rate may help. .*run keeps the last"
    with pytest.raises(TrainingError, match=message):
        run(hooks=poisoned(6))
    assert same_runs(run(resume=True), run("undisturbed"))


@pytest.mark.parametrize("how", [{}, {"save_minutes": 0}], ids=["each epoch", "each step"])
@pytest.mark.parametrize("step", [3, 4, 8], ids=["in an epoch", "at its end", "at the very end"])
def test_weights_that_are_not_finite_are_not_kept(run, poisoned, tmp_path, how, step):
    """The step after which they are spoiled had a finite loss: only the next one would show it."""
    with pytest.raises(TrainingError, match="not finite"):
        run(how=how, hooks=poisoned(step))
    for file in tmp_path.glob("run/*/*.safetensors"):
        assert all(tensor.isfinite().all() for tensor in load_file(file).values()), file
    assert same_runs(run(resume=True), run("undisturbed"))


def test_a_rate_far_too_high_stops_the_run(run, tmp_path):
    with pytest.raises(TrainingError, match="the loss is not finite at step 2, in epoch 1"):
        run(optim="lr = 1e30\nclip_grad = 0\nwarmup_epochs = 0")
    assert not (tmp_path / "run" / "checkpoint").exists()


# --- weights to start from ---


@pytest.fixture
def pretrained(tmp_path):
    """Saves a plain timm encoder; gives it and its directory."""

    def pretrained(**arguments):
        torch.manual_seed(7)
        small = {"img_size": 16, "patch_size": 4, "in_chans": 1, "embed_dim": 32, "depth": 2, "num_heads": 2}
        model = timm.create_model("vit_tiny_patch16_224", **{**small, "num_classes": 2, **arguments})
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        matvit.save(model, tmp_path / "pretrained")
        return model, tmp_path / "pretrained"

    return pretrained


STILL = "lr = 0.0\nmin_lr = 0.0\nwarmup_epochs = 0\nweight_decay = 0"


def test_a_run_starts_from_weights_of_another_image_size(run, pretrained):
    source, directory = pretrained()
    model = run(init=directory, optim=STILL, epochs=1).model
    for name, tensor in source.state_dict().items():
        if name != "pos_embed":
            assert torch.equal(model.state_dict()[name], tensor), name
    assert model.pos_embed.shape == (1, 1 + 4, 32)
    grid = source.pos_embed[:, 1:].reshape(1, 4, 4, 32).permute(0, 3, 1, 2)
    resized = F.interpolate(grid, (2, 2), mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(model.pos_embed[:, :1], source.pos_embed[:, :1])
    torch.testing.assert_close(model.pos_embed[:, 1:], resized.permute(0, 2, 3, 1).reshape(1, 4, 32))


@pytest.mark.parametrize("num_classes", [0, 3, 1000])
def test_a_head_for_other_classes_is_a_new_one(run, pretrained, tmp_path, num_classes):
    source, directory = pretrained(img_size=8, num_classes=num_classes)
    model = run(init=directory, optim=STILL, epochs=1).model
    fresh = build(recipe.read(tmp_path / "run.toml"), num_classes=2)
    assert torch.equal(model.head.weight, fresh.head.weight)
    assert torch.equal(model.pos_embed, source.pos_embed)
    assert torch.equal(model.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"embed_dim": 48}, "another shape than the recipe's: .*size mismatch"),
        ({"depth": 3}, "another kind of encoder than the recipe's: they differ in blocks.2"),
        ({"depth": 1}, "another kind of encoder than the recipe's: they differ in blocks.1"),
        ({"in_chans": 3}, "another shape than the recipe's: .*patch_embed"),
        ({"class_token": False, "global_pool": "avg"}, "another kind of encoder than the recipe's"),
        ({"reg_tokens": 2}, "another kind of encoder than the recipe's: they differ in reg_token"),
        ({"init_values": 1.0}, "another kind of encoder than the recipe's: they differ in blocks.0.ls1"),
        ({"mlp_ratio": 2.0}, "another shape than the recipe's: .*mlp"),
    ],
    ids=str,
)
def test_weights_of_another_shape_are_refused(run, pretrained, arguments, message):
    _, directory = pretrained(**arguments)
    with pytest.raises(TrainingError, match=f"pretrained has {message}|pretrained is {message}") as caught:
        run(init=directory)
    assert "\n" not in str(caught.value)


def test_an_average_starts_from_them_too(run, pretrained):
    source, directory = pretrained(img_size=8)
    model = run(init=directory, optim=f"{STILL}\nema_decay = 0.999", epochs=1).model
    for name, tensor in source.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor)


def test_patches_of_another_size_are_resized(run, pretrained):
    source, directory = pretrained(img_size=16, patch_size=8)
    model = run(init=directory, optim=STILL, epochs=1).model
    assert model.patch_embed.proj.weight.shape == (32, 1, 4, 4)
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_a_resumed_run_does_not_start_from_them_again(run, pretrained):
    _, directory = pretrained()
    undisturbed = run("undisturbed", init=directory)
    with pytest.raises(StoppedError):
        run(init=directory, how={"save_minutes": 0}, hooks=stop_after(3))
    assert same_runs(run(init=directory, resume=True), undisturbed)


def test_a_run_killed_before_its_first_save_starts_from_them_again(run, pretrained):
    _, directory = pretrained()
    with pytest.raises(StoppedError):
        run(init=directory, hooks=stop_after(2))
    assert same_runs(run(init=directory, resume=True), run("undisturbed", init=directory))


def test_a_trained_matvit_is_a_start_too(run, tmp_path):
    first = run("first")
    model = build(recipe.read(tmp_path / "first.toml"), num_classes=2)
    initialise(model, first.out / "checkpoint")
    assert same_weights(model, first.model)


# --- what is refused ---


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_in_use_is_refused_and_left_alone(run, tmp_path, resume):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(TrainingError, match="run is not empty: choose a new run directory"):
        run(resume=resume)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["mine.txt"]


def test_an_empty_directory_is_taken(run, tmp_path):
    (tmp_path / "run").mkdir()
    run(epochs=1)


def test_fewer_images_than_a_batch_are_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(TrainingError, match="32 images are fewer than one batch of 33"):
        run(batch_size=33)
    assert not (tmp_path / "run").exists()


def test_a_batch_that_does_not_divide_is_refused(run):
    with pytest.raises(TrainingError, match="a batch of 8 does not divide into 1 processes x 3 parts"):
        run(how={"accumulate": 3})


def test_parts_that_cannot_be_mixed_are_refused(run, tmp_path):
    """Mixup takes pairs: a batch of 6 is even, its halves are not."""
    with pytest.raises((RecipeError, TrainingError)):
        run(batch_size=6, augment="mixup = 0.2", how={"accumulate": 2})
    assert not (tmp_path / "run").exists()


def test_one_class_is_refused(run, folder, tmp_path):
    shutil.copytree(folder / "a", tmp_path / "one" / "a")
    with pytest.raises(TrainingError, match="training needs images of two classes at least"):
        run(data=open_labelled(tmp_path / "one", "L"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "old, new, error",
    [
        ("num_heads = 2", "num_heads = 5", TrainingError),
        ("num_heads = 2", "no_such_argument = 5", TrainingError),
        ("matvit_tiny_patch16_224", "matvit_huge_patch16_224", TrainingError),
        ("matvit_tiny_patch16_224", "vit_tiny_patch16_224", TrainingError),
        ("[optim]", '[optim]\noptimizer = "no_such_optimizer"', (RecipeError, TrainingError)),
        ("[optim]", '[optim]\nschedule = "no_such_schedule"', (RecipeError, TrainingError)),
        ("[optim]", "[optim]\nbetas = [0.9]", (RecipeError, TrainingError)),
        ("[optim]", "[optim]\nbetas = [0.9, 1.5]", (RecipeError, TrainingError)),
        ("num_heads = 2", 'checkpoint_path = "x.pth"', TrainingError),
        ("in_chans = 1", "in_chans = 2", RecipeError),
        ("[objective]", "[objective]\nlabel_smoothing = 1.5", RecipeError),
        ("[objective]", '[objective]\ngranularities = ["S", "S"]', (RecipeError, TrainingError)),
        ("[augment]", '[augment]\nauto_augment = "no-such-policy"', (RecipeError, TrainingError)),
        ("[augment]", "[augment]\nstretch = 1.0", (RecipeError, TrainingError)),
        ("mean = [0.5]", "mean = [0.5, 0.5, 0.5]", (RecipeError, TrainingError)),
        ("crop_pct = 1.0", "no_such_entry = 1.0", (RecipeError, TrainingError)),
        ("crop_pct = 1.0", 'interpolation = "no-such"', (RecipeError, TrainingError)),
    ],
)
def test_what_a_recipe_cannot_mean_is_said_in_one_line(images, tmp_path, old, new, error):
    file = tmp_path / "wrong.toml"
    file.write_text(recipe_text(optim="").replace(old, new))
    with pytest.raises(error) as caught:
        train(file, images, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_seed_makes_the_same_model(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(recipe_text())
    settings = recipe.read(file)
    one, two = build(settings, num_classes=2), build(settings, num_classes=2)
    assert same_weights(one, two)
    assert not same_weights(one, build(replace(settings, seed=1), num_classes=2))


class Deadly:
    """Images of which one ends the process that reads it, as a lack of memory or a decoder's bug would."""

    def __init__(self, images, how):
        self._images, self._how, self._home = images, how, os.getpid()

    def __getattr__(self, name):
        return getattr(self._images, name)

    def __len__(self):
        return len(self._images)

    def load(self, i):
        if i == 5 and os.getpid() != self._home:
            faulthandler.disable()  # which would tell of it at length
            os.kill(os.getpid(), self._how)
        return self._images.load(i)


def test_a_killed_reading_process_is_one_line_after_somebody_s_own_loader(run, images):
    list(DataLoader(range(4), num_workers=1))  # which leaves torch's handler of dead processes behind
    with pytest.raises(
        TrainingError, match=r"^a process that reads images was killed, or crashed: use fewer"
    ):
        run(data=Deadly(images, signal.SIGKILL), how={"workers": 2})


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS])
def test_a_killed_reading_process_ends_training_in_one_line(run, images, how):
    with pytest.raises(
        TrainingError, match=r"^a process that reads images was killed, or crashed: use fewer"
    ):
        run(data=Deadly(images, how), how={"workers": 2})
