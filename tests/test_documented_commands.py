"""Every command in the README and in docs/ runs as it stands there, or says here why it does not."""

import io
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from pages import PAGES, blocks, commands, name_of
from small_world import picture, random_plain

import matvit
from cli.main import app, main

FROM_THE_NETWORK = "downloads what .ci/run installs"
FOR_DAYS = "trains on ImageNet for days, on many GPUs"
IN_JUPYTER = "opens Jupyter or takes minutes: see tests/notebooks"
SPLITS, CLASSES = ("train", "test"), ("cat", "dog")
NOT_RUN = {
    "pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu": FROM_THE_NETWORK,
    'pip install -e ".[cpu,demo]"': FROM_THE_NETWORK,
    'pip install -e ".[cpu,demo,test]"': FROM_THE_NETWORK,
    'pip install -e ".[bench]"': FROM_THE_NETWORK,
    "pytest -n 2 --dist loadfile": "runs this very test",
    "matvit demo": "is what tests/cli/test_demo.py runs",
    "matvit notebook quickstart": IN_JUPYTER,
    "matvit notebook 03 --execute -o out/": IN_JUPYTER,
    "matvit query - -i photos.index --budget 60% --engine compiled < paths.txt": "compiles for minutes",
    "matvit import scenic FILE_OR_URL -o CHECKPOINT": "needs JAX's checkpoint: see tests/cli/test_scenic.py",
    "matvit train fashion_mnist --data torchvision:fashion_mnist -o runs/fashion": "downloads a data set",
    "python -c \"from torchvision.datasets import ImageNet as I; [I('IMAGENET', split=s) for s in "
    "('train', 'val')]\"": "needs the archives of ImageNet",
    "torchrun --nproc-per-node 8 -m cli.main train b16_in1k --data IMAGENET -o runs/b16 --workers 12 "
    "--compile --resume": FOR_DAYS,
    "torchrun --nnodes 4 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29500 -m "
    "cli.main train b16_in1k --data IMAGENET -o runs/b16 --workers 12 --compile --resume": FOR_DAYS,
}
INSTEAD = {
    # of what would be downloaded, a tiny encoder that was trained nested, or was not;
    "vit_base_patch14_dinov2.lvd142m": "PLAIN",
    "matvit-l16-in21k-in1k": "CHECKPOINT",
    'openai", pretrained=True': 'openai", pretrained=False',
    # of what this machine may lack, or be too busy for, what it has;
    "--device cuda --workers 16": "--device cpu --workers 0",
    "--device cuda": "--device cpu",
    "--budget 25ms": "--budget 60000ms",
    "matvit bench -m CHECKPOINT": "matvit bench -m CHECKPOINT --engine eager --repeats 1",
    # of a promise that takes a thousand labelled queries, one that a few can make;
    "--max-drop 0.5": "--max-drop 90",
    # of what is outside, a folder here.
    "/mnt/": "mnt/",
}


def words_of(command: str) -> list[str]:
    """What `matvit` is given, by whatever it is started."""
    words = shlex.split(command)
    start = words.index("cli.main") if words[0] == "torchrun" else 0
    end = words.index("<") if "<" in words else len(words)
    return words[start + 1 : end]


def is_ours(command: str) -> bool:
    return command.split(maxsplit=1)[0] in ("matvit", "torchrun")


def here(text: str) -> str:
    for documented, runs_here in INSTEAD.items():
        text = text.replace(documented, runs_here)
    return text


def parse(words: list[str]) -> None:
    """Check that there is such a command with such options; a wrong one raises."""
    command = typer.main.get_command(app)
    context = command.make_context("matvit", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


def save(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture({"cat": "red", "dog": "blue"}.get(path.parent.name, "green"), number).save(path)


@pytest.fixture
def world(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which everything that the pages speak of is there, but what their commands make."""
    for folder in (
        "photos/cat",
        "photos/blurred",
        "photos/2019",
        *(f"shop/{s}/{c}" for s in SPLITS for c in CLASSES),
    ):
        for number in range(24):
            save(tmp_path / folder / f"{number}.png", 100 * len(folder) + number)
    for name in ("cat.jpg", "dog.jpg", "photos/2019/cat.jpg", "2024/a.png", "2025/a.png"):
        save(tmp_path / name, sum(map(ord, name)))
    for split in ("train", "val"):
        for number in range(4):
            save(tmp_path / "IMAGENET" / split / "cat" / f"{split}{number}.JPEG", number)
            save(tmp_path / "IMAGENET" / split / "dog" / f"{split}{number}.JPEG", number)
    shutil.copytree(tmp_path / "photos", tmp_path / "mnt" / "photos")
    shutil.copytree(checkpoint, tmp_path / "CHECKPOINT")
    matvit.save(matvit.elastic(random_plain(0)), tmp_path / "PLAIN")
    (tmp_path / "paths.txt").write_text("cat.jpg\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATVIT_MODEL", str(tmp_path / "PLAIN"))
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run(world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable:
    """Runs a command there: one of ours through its entry point in this process, others in a shell."""

    def run_one(command: str) -> None:
        command = here(command)
        if not is_ours(command):
            subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], check=True)
            return
        given = Path(command.partition("<")[2].strip()).read_bytes() if "<" in command else b""
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(given)))
        monkeypatch.setattr(sys, "argv", ["matvit", *words_of(command)])
        with pytest.raises(SystemExit) as stop:
            main()
        assert not stop.value.code, (command, capsys.readouterr().err)

    return run_one


def prepare(page: Path, lines: Iterable[str], run: Callable) -> None:
    """Make what lines of a page find there: the recipe that it shows, and indexes that they do not make."""
    for recipe in blocks(page, "toml"):
        Path("recipe.toml").write_text(recipe)
    code = "\n".join(lines)
    for index in dict.fromkeys(re.findall(r"\w+\.index", code)):
        images = Path(index).with_suffix("")
        is_made = f"-o {index}" in code or f"index build {images}/\n" in code
        if images.is_dir() and not is_made:
            labelled = (images / "train").is_dir()
            images = f"{images}/train --labels folders" if labelled else images
            run(f"matvit index build {images} -m CHECKPOINT -o {index}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_is_one_that_there_is(page: Path) -> None:
    for command in filter(is_ours, commands(page)):
        parse(words_of(command))


def test_a_command_that_there_is_not_would_be_noticed() -> None:
    for wrong in ("quary cat.jpg", "query cat.jpg --bugdet M -i x", "index bild photos/"):
        with pytest.raises(Exception, match=r"No such (command|option)"):
            parse(shlex.split(wrong))


def test_what_is_not_run_or_is_run_otherwise_is_documented() -> None:
    found = {command for page in PAGES for command in commands(page)}
    assert NOT_RUN.keys() <= found
    code = "\n".join([*found, *(block for page in PAGES for block in blocks(page, "python"))])
    assert [documented for documented in INSTEAD if documented not in code] == []


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page in PAGES if list(commands(page))], ids=name_of)
def test_commands_run_in_the_order_of_the_page(page: Path, run: Callable) -> None:
    prepare(page, commands(page), run)
    for command in commands(page):
        if command not in NOT_RUN:
            run(command)


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=name_of)
def test_python_runs_in_the_order_of_the_page(page: Path, run: Callable) -> None:
    prepare(page, blocks(page, "python"), run)
    names: dict[str, object] = {}
    for block in blocks(page, "python"):
        exec(compile(here(block), name_of(page), "exec"), names)
