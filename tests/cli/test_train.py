"""`matvit train`: a tiny recipe on tiny images, in this process, killed in others, and under torchrun."""

import importlib.util
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from threading import Thread
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from small_world import files_of, shard_of

import matvit as library
from matvit.files.lock import exclusive_inside
from matvit.training.recipe import names

RECIPE = """
architecture = "matvit_tiny_patch16_224"
epochs = {epochs}
batch_size = 8

[model]
img_size = 8
patch_size = 4
in_chans = 1
embed_dim = 32
depth = 2
num_heads = 2
{model}

[augment]
{augment}

[optim]
lr = 3e-3
{optim}

[objective]
{objective}
"""
CLOCK = ("seconds", "images_per_s", "peak_memory_mb")
WORKERS = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create . worker processes:UserWarning",  # on a machine of one core
    "ignore:This process .* is multi-threaded:DeprecationWarning",
)


def recipe_text(**settings: object) -> str:
    empty = dict.fromkeys(("model", "augment", "optim", "objective"), "")
    return RECIPE.format(**{"epochs": 2, **empty, **settings})


def write_images(root: Path, count: int, first: int = 0) -> Path:
    """Noisy images, bright above (class `a`) or below (class `b`)."""
    for label, name in enumerate("ab"):
        (root / name).mkdir(parents=True)
        for i in range(first, first + count):
            pixels = np.random.default_rng((label, i)).integers(0, 100, (8, 8))
            pixels[4 * label : 4 * label + 4] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i:02}.png")
    return root


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    (tmp_path / "tiny.toml").write_text(recipe_text())
    return tmp_path / "tiny.toml"


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "all", 16)


def metrics(run: Path) -> list[dict]:
    """The whole lines so far, without what depends on the clock and the machine."""
    file = run / "metrics.jsonl"
    lines = file.read_text().split("\n")[:-1] if file.exists() else []
    return [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]


def test_trained_and_measured_after_every_epoch(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(images, data / "train")
    write_images(data / "val", 4, first=50)
    done = matvit("train", recipe, "--data", data, "-o", run, "--device", "cpu", "--json", "--log-every", 3)
    assert done.code == 0, done.err
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [{k: v for k, v in line.items() if k not in CLOCK} for line in lines] == metrics(run)
    assert [(line["step"], line.get("epoch")) for line in lines] == [(3, None), (4, 1), (6, None), (8, 2)]
    for line in lines[1::2]:
        for measure in ("adaptive_1nn", "top1"):
            assert all(0 <= line[f"{measure}/{name}"] <= 1 for name in ("S", "M", "L", "XL"))
    assert (run / "config.toml").read_text() == recipe.read_text()
    assert sorted(p.name for p in run.iterdir()) == [
        "best",
        "checkpoint",
        "config.toml",
        "last",
        "metrics.jsonl",
    ]
    assert "epoch 2/2" in done.err
    assert f"trained: {run / 'checkpoint'}" in done.err
    (point,) = json.loads(matvit("plan", "-m", run / "checkpoint", "--budget", "S", "--json").out)
    assert point["widths"] == [16, 16]
    assert matvit("index", "build", images, "-m", run / "best", "-o", tmp_path / "i").code == 0


def test_a_plain_folder_is_trained_on_without_measures(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path
) -> None:
    done = matvit("train", recipe, "--data", images, "-o", tmp_path / "run")
    assert (done.code, done.out) == (0, "")
    assert not any("1nn" in name for line in metrics(tmp_path / "run") for name in line)
    again = matvit("train", recipe, "--data", images, "-o", tmp_path / "run")
    assert again.code == 1
    assert again.err == (
        f"matvit: {tmp_path / 'run'} is not empty: choose a new run directory, or --resume the run there\n"
    )
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    done = matvit("train", recipe, "--data", images, "-o", tmp_path / "run", "--resume")
    assert (done.code, done.out) == (0, ""), "a finished run is no mistake"
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_run_starts_from_weights(matvit: Callable, recipe: Path, images: Path, tmp_path: Path) -> None:
    first = matvit("train", recipe, "--data", images, "-o", tmp_path / "first")
    assert first.code == 0
    recipe.write_text(recipe_text(epochs=1).replace("lr = 3e-3", "lr = 0.0\nmin_lr = 0.0"))
    start = tmp_path / "first" / "checkpoint"
    done = matvit("train", recipe, "--data", images, "-o", tmp_path / "run", "--init", start)
    assert done.code == 0, done.err
    models = [library.load(tmp_path / run / "checkpoint").state_dict() for run in ("first", "run")]
    assert all(torch.equal(tensor, models[1][name]) for name, tensor in models[0].items())
    wrong = matvit("train", recipe, "--data", images, "-o", tmp_path / "x", "--init", tmp_path / "nowhere")
    assert wrong.code in (1, 2)
    assert len(wrong.err.splitlines()) == 1
    assert not (tmp_path / "x" / "config.toml").exists()


# --- mistakes ---


@pytest.mark.parametrize(
    "text, message",
    [
        ("epochs = 3", "Object missing required field `architecture`"),
        ("nonsense = 3\n" + recipe_text(), "unknown key nonsense"),
        ("not toml", "cannot read"),
        (recipe_text().replace("matvit_tiny", "vit_tiny"), "vit_tiny"),
        (recipe_text(objective='kind = "both"'), "objective.kind must be one of"),
        (
            recipe_text().replace("batch_size = 8", "batch_size = 80"),
            "32 images are fewer than one batch of 80",
        ),
    ],
)
def test_a_wrong_recipe_leaves_nothing(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path, text: str, message: str
) -> None:
    recipe.write_text(text)
    done = matvit("train", recipe, "--data", images, "-o", tmp_path / "run")
    assert done.code in (1, 2)
    assert message in done.err
    assert all(line.startswith("matvit: ") for line in done.err.splitlines())
    assert not (tmp_path / "run").exists()


def test_missing_recipes_and_images(matvit: Callable, recipe: Path, tmp_path: Path) -> None:
    done = matvit("train", "nonsense", "--data", tmp_path, "-o", tmp_path / "run")
    assert done.code == 2
    assert f"one of {', '.join(names())}" in done.err
    for data in (tmp_path / "nowhere", tmp_path, tmp_path / "x-{000..003}.tar", "torchvision:nonsense"):
        done = matvit("train", recipe, "--data", data, "-o", tmp_path / "run")
        assert done.code in (1, 2)
        assert len(done.err.splitlines()) == 1
        assert str(data) in done.err or "x-000.tar" in done.err
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["--workers", "-1"],
        ["--accumulate", "0"],
        ["--save-minutes", "-1"],
        ["--log-every", "0"],
        ["--workers", "many"],
        ["--device", "abacus"],
        ["--dtype", "fp8"],
        ["--no-such-option"],
        ["another argument"],
    ],
    ids=" ".join,
)
def test_bad_options_exit_with_2_and_one_line(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path, options: Sequence[str]
) -> None:
    done = matvit("train", recipe, "--data", images, "-o", tmp_path / "run", *options)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert not (tmp_path / "run").exists()


def test_data_and_output_are_needed(matvit: Callable, recipe: Path) -> None:
    for arguments, missing in ((["--data", "x"], "--output"), (["-o", "x"], "--data")):
        done = matvit("train", recipe, *arguments)
        assert done.code == 2
        assert missing in done.err


def test_a_run_of_another_recipe_or_other_images_is_not_resumed(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path
) -> None:
    assert matvit("train", recipe, "--data", images, "-o", tmp_path / "run").code == 0
    other = tmp_path / "other.toml"
    other.write_text(recipe_text(epochs=3))
    more = write_images(tmp_path / "more", 17)
    for arguments, message in (
        ((other, "--data", images), "another recipe"),
        ((recipe, "--data", more), "images are not those"),
    ):
        done = matvit("train", *arguments, "-o", tmp_path / "run", "--resume")
        assert done.code == 1
        assert message in done.err.splitlines()[-1]
        assert "Traceback" not in done.err


@WORKERS
@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_one_line_whoever_reads_it(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path, workers: int
) -> None:
    data = shutil.copytree(images, tmp_path / "data")
    (data / "a" / "03.png").write_bytes(b"no image")
    done = matvit("train", recipe, "--data", data, "-o", tmp_path / "run", "--workers", workers)
    assert done.code == 1
    last = done.err.splitlines()[-1]
    assert last == f"matvit: {data}/a/03.png: not an image; remove it and train again"
    assert "Traceback" not in done.err


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["new", "resume"])
def test_a_run_under_way_is_left_alone(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path, resume: list[str]
) -> None:
    run = tmp_path / "run"
    if resume:
        assert matvit("train", recipe, "--data", images, "-o", run).code == 0

    def second() -> None:
        done = matvit("train", recipe, "--data", images, "-o", run, *resume)
        assert (done.code, done.out) == (1, "")
        wanted = f"matvit: another process is writing {run}: wait for it to end, or stop it"
        assert done.err.splitlines()[-1] == wanted
        assert "Traceback" not in done.err

    with exclusive_inside(run):
        before = {file: file.read_bytes() for file in files_of(run)}
        thread = Thread(target=second)
        thread.start()
        thread.join()
        assert {file: file.read_bytes() for file in files_of(run)} == before


def test_a_damaged_state_is_one_line(matvit: Callable, recipe: Path, images: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert matvit("train", recipe, "--data", images, "-o", run).code == 0
    (run / "last" / "state.safetensors").write_bytes(b"\x10" * 50)
    done = matvit("train", recipe, "--data", images, "-o", run, "--resume")
    assert done.code == 1
    assert f"cannot resume from {run / 'last'}: " in done.err.splitlines()[-1]
    assert "Traceback" not in done.err


def test_help_names_every_recipe_resume_and_an_example(matvit: Callable) -> None:
    text = " ".join(matvit("train", "--help").out.split())
    assert all(name in text for name in names())
    assert "--resume" in text
    assert "matvit train cifar10 --data torchvision:cifar10 -o runs/cifar10" in text
    assert "torchrun --nproc-per-node 8 -m cli.main train" in text


# --- TensorBoard ---


@pytest.mark.skipif(bool(importlib.util.find_spec("tensorboard")), reason="tensorboard is installed")
def test_tensorboard_that_is_not_installed_is_one_line(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path
) -> None:
    done = matvit("train", recipe, "--data", images, "-o", tmp_path / "run", "--tensorboard")
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "TensorBoard is not installed: in the clone of matvit, pip install -e '.[tensorboard]'" in line
    assert not (tmp_path / "run").exists()


def test_scalars_for_tensorboard(
    matvit: Callable, recipe: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a writer that, like TensorBoard's own, opens its file at once."""
    written: list[tuple[str, float, int]] = []

    def writer(folder: str) -> SimpleNamespace:
        Path(folder).mkdir(parents=True, exist_ok=True)
        (Path(folder) / "events").touch()
        return SimpleNamespace(
            add_scalar=lambda *scalar: written.append(scalar), flush=lambda: None, close=lambda: None
        )

    module = ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = tmp_path / "run"
    arguments = ("train", recipe, "--data", images, "-o", run, "--tensorboard", "--log-every", 1)
    done = matvit(*arguments)
    assert done.code == 0, done.err
    assert (run / "tensorboard" / "events").exists()
    losses = [value for name, value, _ in written if name == "loss"]
    assert losses == [line["loss"] for line in metrics(run)]
    assert {step for _, _, step in written} == set(range(1, 9))
    assert matvit(*arguments, "--resume").code == 0


# --- killed, in processes of their own ---


@pytest.fixture
def one_thread() -> Iterator[dict[str, str]]:
    """Sums in one order, here as in the processes that are given this environment."""
    count = torch.get_num_threads()
    torch.set_num_threads(1)
    place = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, (place, os.environ.get("PYTHONPATH"))))
    yield os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}
    torch.set_num_threads(count)


EVERYTHING = recipe_text(
    epochs=4,
    model="proj_drop_rate = 0.1\ndrop_path_rate = 0.1",
    augment='hflip = 0.5\ncrop = 0.5\nauto_augment = "rand-m9-mstd0.5"\nerase = 0.2\nmixup = 0.2',
    optim="ema_decay = 0.9\nwarmup_steps = 5",
    objective='kind = "mixnmatch"\nwith_full = true\ndistill = "embedding"',
)


def kill_at(arguments: Sequence[str], env: dict[str, str], run: Path, lines: int, seconds: float) -> None:
    """Start the command and kill it some time after it has logged so many lines more."""
    goal = len(metrics(run)) + lines
    with subprocess.Popen(
        arguments, env=env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        try:
            deadline = time.monotonic() + 300
            while len(metrics(run)) < goal:
                assert process.poll() is None, (process.stderr and process.stderr.read()) or "it ended"
                assert time.monotonic() < deadline
                time.sleep(0.002)
            time.sleep(seconds)
        finally:
            # Its workers too: nothing of it is left to write when the next one starts.
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL


def same_files(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


@WORKERS
@pytest.mark.parametrize("source, kills", [("folder", 2), ("shards", 1)])
def test_killed_and_resumed_it_ends_as_the_undisturbed_run(
    matvit: Callable,
    images: Path,
    tmp_path: Path,
    one_thread: dict[str, str],
    source: str,
    kills: int,
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data / "train")
    write_images(data / "val", 3, first=50)
    if source == "shards":
        for place in (data / "train", data / "val"):
            files = files_of(place)
            for number in range(3):
                shard_of(place / f"x-{number}.tar", files[number::3])
            for name in "ab":
                shutil.rmtree(place / name)
    recipe = tmp_path / "everything.toml"
    recipe.write_text(EVERYTHING)
    common = ["train", str(recipe), "--data", str(data), "--workers", "2", "--save-minutes", "0"]
    common += ["--log-every", "1", "--device", "cpu"]
    done = matvit(*common, "-o", tmp_path / "undisturbed")
    assert done.code == 0, done.err

    run = tmp_path / "run"
    command = [sys.executable, "-m", "cli.main", *common, "-o", str(run), "--resume"]
    chance = random.Random(source)
    for _ in range(kills):
        kill_at(command, one_thread, run, chance.randint(1, 5), chance.uniform(0, 0.05))
    assert len(metrics(run)) < 20, "each kill came in the middle"
    subprocess.run(command, env=one_thread, check=True, capture_output=True, timeout=300)

    assert metrics(run) == metrics(tmp_path / "undisturbed")
    assert [line["step"] for line in metrics(run) if "epoch" not in line] == list(range(1, 17))
    for name in ("checkpoint", "best"):
        assert same_files(*(out / name / "model.safetensors" for out in (run, tmp_path / "undisturbed"))), (
            name
        )
    states = [load_file(out / "last/state.safetensors") for out in (run, tmp_path / "undisturbed")]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert not [path for path in run.iterdir() if path.name.startswith(".")]


# --- many processes ---


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def test_started_twice_under_torchrun_the_second_is_refused(
    recipe: Path, images: Path, tmp_path: Path, one_thread: dict[str, str]
) -> None:
    """Only the first process of each writes; all of them end, and none in a traceback."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(free_port()), "-m", "cli.main"]
    run = tmp_path / "run"
    with exclusive_inside(run):
        done = subprocess.run(
            [sys.executable, *launcher, "train", recipe, "--data", images, "-o", run, "--device", "cpu"],
            env=one_thread | {"GLOO_SOCKET_IFNAME": "lo"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert [file.name for file in run.iterdir()] == [".matvit-lock"]
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("matvit: ")]
    assert f"matvit: another process is writing {run}: wait for it to end, or stop it" in said
    assert {line for line in said if "another process" not in line} <= {
        "matvit: the first process of this run cannot begin, and says why"
    }
    assert "matvit/training/train.py" not in done.stderr


def test_two_processes_with_half_the_batch_each_take_the_steps_of_one(
    matvit: Callable, images: Path, tmp_path: Path, one_thread: dict[str, str]
) -> None:
    data = tmp_path / "data"
    shutil.copytree(images, data / "train")
    write_images(data / "val", 3, first=50)
    recipe = tmp_path / "plain.toml"
    recipe.write_text(recipe_text(epochs=5, optim="ema_decay = 0.9", objective='distill = "embedding"'))
    common = ["train", str(recipe), "--data", str(data), "--log-every", "1", "--device", "cpu"]
    alone = matvit(*common, "-o", tmp_path / "alone")
    assert alone.code == 0, alone.err
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-addr", "127.0.0.1"]
    launcher += ["--master-port", str(free_port()), "-m", "cli.main"]
    done = subprocess.run(
        [sys.executable, *launcher, *common, "-o", str(tmp_path / "two"), "--json"],
        env=one_thread | {"GLOO_SOCKET_IFNAME": "lo"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    one, two = (
        # What is measured may hang on the last digit: which of two images is the nearer.
        [{k: v for k, v in line.items() if not k.startswith(("top1", "adaptive"))} for line in metrics(out)]
        for out in (tmp_path / "alone", tmp_path / "two")
    )
    assert len(done.stdout.splitlines()) == len(two), "only the first process speaks"
    assert done.stderr.count("trained: ") == 1
    assert len(one) == 20 + 5
    for expected, seen in zip(one, two, strict=True):
        # One minus a cosine near 1 has few digits; epochs are rounded to five.
        distill = pytest.approx(expected.pop("distill", 0.0), rel=1e-5, abs=1e-6)
        assert seen.pop("distill", 0.0) == distill or "epoch" in seen
        assert seen == pytest.approx(expected, rel=1e-5, abs=2e-5 if "epoch" in seen else 0)
    weights = [library.load(tmp_path / out / "checkpoint").state_dict() for out in ("alone", "two")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-4)
