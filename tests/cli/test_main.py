"""The command line as a whole: help, errors, start-up time, missing packages."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from small_world import files_of

from cli.main import main
from matvit.errors import BudgetError

ENTRY = "from cli.main import main; main()"
COMMANDS = [
    ("demo",),
    ("train",),
    ("plan",),
    ("query",),
    ("evaluate",),
    ("elasticize",),
    ("notebook",),
    ("index", "build"),
    ("index", "info"),
    ("index", "verify"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example(matvit: Callable, command: tuple[str, ...]) -> None:
    done = matvit(*command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: matvit {' '.join(command)}" in done.out
    assert f"Example: matvit {' '.join(command)}" in done.out


def test_the_whole_help_lists_every_command(matvit: Callable) -> None:
    assert all(name in matvit("--help").out for (name, *_) in COMMANDS)
    assert all(name in matvit("index", "--help").out for name in ("build", "info", "verify"))
    assert matvit("--version").out.strip().replace(".", "").isalnum()
    for nothing in ((), ("index",)):
        assert matvit(*nothing).code == 2


def test_it_runs_as_a_module_and_completes_its_commands() -> None:
    module = [sys.executable, "-m", "matvit"]
    shown = subprocess.run([*module, "--version"], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == version("matvit")
    asked = {"_MATVIT_COMPLETE": "complete_bash", "COMP_WORDS": "matvit ela", "COMP_CWORD": "1"}
    completed = subprocess.run([*module], env=os.environ | asked, capture_output=True, text=True, check=True)
    assert completed.stdout.split() == ["elasticize"]


def test_help_loads_none_of_the_libraries_that_take_seconds() -> None:
    script = f"import atexit, sys\natexit.register(lambda: print('LOADED', *sys.modules))\n{ENTRY}"
    done = subprocess.run(
        [sys.executable, "-c", script, "--help"], capture_output=True, check=True, text=True
    )
    loaded = set(done.stdout.rpartition("LOADED")[2].split())
    assert "typer" in loaded
    assert not loaded & {"torch", "torchvision", "timm", "faiss", "numpy", "pyarrow", "matplotlib", "scipy"}


MISTAKES = [
    (2, "'fast' is not a budget: write S M L XL, 60%", "query {query} -i {index} -b fast"),
    (2, "1% is below the smallest submodel, S: ", "query {query} -i {index} -b 1%"),
    (2, "gives 12 widths; this encoder has 4 layers", "query {query} -i {index} -b S*5+M*7"),
    (2, "'25s' is not a budget", "plan -m {model} --budget 25s"),
    (2, "'fast' is not a budget", "evaluate {images} -i {index} -b S -b fast"),
    (
        2,
        "matvit query: No such option: --qqq. Try `matvit query --help`.",
        "query {query} -i {index} --qqq",
    ),
    (2, "No such command 'nonsense'", "nonsense"),
    (2, "say what to look for: images, --key or --vectors", "query -i {index}"),
    (2, "Missing option '--index' / '-i'", "query {query}"),
    (2, "-k", "query {query} -i {index} -k 0"),
    (2, "--batch-size", "index build {images} -m {model} -o {tmp}/new --batch-size 0"),
    *[
        (2, "--batch-size", f"index build {{images}} -m {{model}} -o {{tmp}}/new --batch-size {number}")
        for number in (65537, 10**30)
    ],
    (1, "there is no index at {tmp}/gone", "query {query} -i {tmp}/gone"),
    (1, "{tmp}/empty is not an index", "query {query} -i {tmp}/empty"),
    (1, "{query} is not an index", "index info -i {query}"),
    (1, "there is no index at {tmp}/gone", "index verify -i {tmp}/gone"),
    (2, "no directory '{tmp}/gone'", "index build {images} -m {tmp}/gone -o {tmp}/new"),
    (2, "{tmp}/empty is no checkpoint", "index build {images} -m {tmp}/empty -o {tmp}/new"),
    (2, "no published weights", "index build {images} -m matvit_tiny_patch16_224 -o {tmp}/new"),
    (2, "{tmp}/gone: no such file or folder", "index build {tmp}/gone -m {model} -o {tmp}/new"),
    (2, "{tmp}/empty: no images", "index build {tmp}/empty -m {model} -o {tmp}/new"),
    (2, "pipe: is not read", "index build pipe:ls -m {model} -o {tmp}/new"),
    (2, "no directory 'nonsense'", "plan -m nonsense"),
    (2, "'abacus' is no device", "query {query} -i {index} --device abacus"),
    (2, "device cuda:99 was asked for", "query {query} -i {index} --device cuda:99"),
    (2, "'fp8' is no number format", "query {query} -i {index} --dtype fp8"),
    (2, "'abacus' is no device", "demo -o {tmp}/new --device abacus"),
]


@pytest.mark.parametrize("code, message, command", MISTAKES, ids=[command for *_, command in MISTAKES])
def test_a_mistake_gets_one_line(
    matvit: Callable,
    index: Path,
    checkpoint: Path,
    corpus: Path,
    tmp_path: Path,
    code: int,
    message: str,
    command: str,
) -> None:
    (tmp_path / "empty").mkdir()
    places = {
        "index": index,
        "model": checkpoint,
        "images": corpus,
        "query": files_of(corpus)[0],
        "tmp": tmp_path,
    }
    done = matvit(*(word.format(**places) for word in command.split()))
    assert (done.code, done.out) == (code, "")
    assert len(done.err.splitlines()) == 1
    assert message.format(**places) in done.err
    assert list(tmp_path.iterdir()) == [tmp_path / "empty"], "nothing is half-written"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_silent_cpu_run(matvit: Callable, index: Path, corpus: Path) -> None:
    done = matvit("query", files_of(corpus)[0], "-i", index, "--device", "cuda")
    assert done.code == 2
    assert "device cuda was asked for, but this machine has none" in done.err


def test_a_model_that_has_moved_can_be_named(
    matvit: Callable, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(checkpoint, tmp_path / "model")
    out = tmp_path / "i"
    assert matvit("index", "build", corpus, "-m", moved, "-o", out).code == 0
    shutil.rmtree(moved)
    ask = ("query", files_of(corpus)[0], "-i", out)
    done = matvit(*ask)
    assert done.code == 2
    assert f"no longer at {moved}: say with -m" in done.err
    assert len(done.err.splitlines()) == 1
    assert matvit(*ask, "-m", checkpoint).code == 0


def test_debug_shows_the_traceback(index: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = ["query", str(files_of(corpus)[0]), "-i", str(index), "-b", "fast"]
    monkeypatch.setattr(sys, "argv", ["matvit", "--debug", *command])
    with pytest.raises(BudgetError):
        main()


def test_a_fault_of_this_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fault(*_: object, **__: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr("matvit.load", fault)
    monkeypatch.setattr(sys, "argv", ["matvit", "plan", "-m", "matvit_tiny_patch16_224"])
    with pytest.raises(KeyError, match="a fault"):
        main()


def test_ctrl_c_is_no_traceback(matvit: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("matvit.load", interrupt)
    done = matvit("plan", "-m", "matvit_tiny_patch16_224")
    assert (done.code, done.out) == (130, "")
    assert done.err in ("", "matvit: interrupted\n")


WITHOUT_FAISS = """
import contextlib, sys
sys.modules["faiss"] = None
from cli.main import main
for command in sys.stdin.read().splitlines():
    sys.argv = ["matvit", *command.split("\t")]
    try:
        main()
    except SystemExit as stop:
        print("exit code", stop.code, file=sys.stderr)
"""


def test_missing_faiss_is_named_with_the_extra_that_brings_it(
    index: Path, checkpoint: Path, corpus: Path, tmp_path: Path
) -> None:
    for name in ("train", "val"):
        shutil.copytree(corpus, tmp_path / "data" / name)
    commands = [
        ("index", "build", corpus, "-m", checkpoint, "-o", tmp_path / "new"),
        ("index", "info", "-i", index),
        ("query", files_of(corpus)[0], "-i", index, "--json"),
        ("evaluate", corpus, "-i", index, "--json"),
        ("train", "digits", "--data", tmp_path / "data", "-o", tmp_path / "run"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FAISS],
        input="\n".join("\t".join(map(str, command)) for command in commands),
        capture_output=True,
        text=True,
        check=True,
    )
    hint = (
        "matvit: FAISS is not installed: in the clone of matvit, pip install -e '.[cpu]' "
        "(or '.[gpu]' for NVIDIA GPUs)"
    )
    assert done.stderr.splitlines() == [hint, "exit code 1"] * len(commands)
    assert done.stdout == ""
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "run").exists()


def test_odd_names_are_printed_as_they_are(matvit: Callable, index: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b"caf\xe9 [red]x[/red].jpg")
    done = matvit("query", tmp_path / odd, "-i", index)
    assert done.code == 1
    assert len(done.err.splitlines()) == 1
    assert "[red]x[/red].jpg: no such file" in done.err


NO_TEXT = os.fsdecode(b"\xff")


@pytest.mark.parametrize(
    "command",
    [
        "plan -m {odd}",
        "plan -m hf-hub:x/{odd}",
        "plan -m vit_tiny_patch16_224.{odd}",
        "plan -m {model} --budget {odd}",
        "query {odd} -i {index}",
        "query {query} -i {odd}",
        "query {query} -i {index} -m {odd}",
        "query {query} -i {index} -m {tmp}/{odd}",
        "query {query} -i {index} -b {odd}",
        "evaluate {odd} -i {index}",
        "index build {images} -m {odd} -o {tmp}/new",
        "index build {images} -m {tmp}/{odd} -o {tmp}/new",
        "index build {tmp}/{odd} -m {model} -o {tmp}/new",
        "index info -i {odd}",
        "bench -m {odd}",
        "bench -m {tmp}/{odd}",
        "bench -m {model} -b {odd}",
        "import scenic {odd} -o {tmp}/new",
        "import scenic {tmp}/{odd} -o {tmp}/new",
        "import scenic http://{odd} -o {tmp}/new",
        "import scenic https://example.org/{odd} -o {tmp}/new",
    ],
)
def test_what_is_no_utf_8_gets_one_line_too(
    matvit: Callable, index: Path, checkpoint: Path, corpus: Path, tmp_path: Path, command: str
) -> None:
    shutil.copytree(checkpoint, tmp_path / NO_TEXT)
    places = {"index": index, "model": checkpoint, "images": corpus, "query": files_of(corpus)[0]}
    done = matvit(*(word.format(**places, tmp=tmp_path, odd=NO_TEXT) for word in command.split()))
    assert done.code in (1, 2)
    assert done.out == ""
    assert done.err.startswith("matvit: ")
    assert len(done.err.splitlines()) == 1
    assert "\\udcff" in done.err
    assert [path.name for path in tmp_path.iterdir()] == [NO_TEXT], "nothing is half-written"
