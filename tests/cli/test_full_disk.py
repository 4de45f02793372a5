"""A disk that is full: one line that names what could not be written and says what to do."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from small_world import files_of

from matvit.training.recipe import find


# The kind: whatever writes, by whatever library: Arrow, NumPy, FAISS, safetensors, matplotlib, our own.
@pytest.mark.parametrize(
    "command, named",
    [
        ("index build {corpus} -m {model} -o {tmp}/new", "{tmp}/new.partial"),
        ("index export -i {index} -o {tmp}/new", "{tmp}/new.partial"),
        ("index merge {index} -o {tmp}/new", "{tmp}/new.partial"),
        ("query {image} -i {index} --sheet {tmp}/sheet.png", "{tmp}/sheet.png"),
        ("query {image} -i {index} --sheet {tmp}/sheet.pdf", "{tmp}/sheet.pdf"),
        ("query {image} -i {index} --sheet {tmp}/sheet.svg", "{tmp}/sheet.svg"),
        ("query {image} -i {index} --sheet {tmp}/sheet.html", "{tmp}/sheet.html"),
        ("evaluate {queries} -i {index} -o {tmp}/out", "{tmp}/out/"),
        ("plan -m {model} --csv {tmp}/plan.csv", "{tmp}/plan.csv"),
        ("elasticize {corpus} -m {model} -o {tmp}/new --check 8 --limit 16", "{tmp}/new"),
    ],
)
def test_what_could_not_be_written_is_named(
    matvit: Callable,
    nearly_full: Callable,
    made_up_times: list[int],
    corpus: Path,
    queries: Path,
    index: Path,
    checkpoint: Path,
    tmp_path: Path,
    command: str,
    named: str,
) -> None:
    places = {"corpus": corpus, "queries": queries, "index": index, "model": checkpoint, "tmp": tmp_path}
    with nearly_full(700):
        done = matvit(*command.format(**places, image=files_of(corpus)[0]).split())
    assert done.code == 1, done.err
    told = [line for line in done.err.splitlines() if line.startswith("matvit: ")]
    assert len(told) == 1, done.err
    assert "Traceback" not in done.err
    assert named.format(tmp=tmp_path) in told[0]
    assert told[0].endswith("free some space there, or write elsewhere"), told


def test_training_names_its_directory(
    matvit: Callable, nearly_full: Callable, corpus: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "small.toml"
    recipe.write_text(find("digits").read_text().replace("batch_size = 48", "batch_size = 8"))
    with nearly_full(700):
        done = matvit("train", recipe, "--data", corpus, "-o", tmp_path / "run")
    assert done.code == 1
    assert f"{tmp_path / 'run'}" in done.err.splitlines()[-1]
    assert done.err.endswith(": free some space there, or write elsewhere\n")
    assert "Traceback" not in done.err


DEV_FULL = Path("/dev/full")
needs_dev_full = pytest.mark.skipif(not DEV_FULL.exists(), reason="needs /dev/full, as Linux has it")
TO_DO = ": free some space there, or write elsewhere\n"


@needs_dev_full
@pytest.mark.parametrize("suffix", ["png", "pdf", "svg", "html"])
def test_a_link_to_what_is_full(
    matvit: Callable, index: Path, corpus: Path, tmp_path: Path, suffix: str
) -> None:
    sheet = tmp_path / f"sheet.{suffix}"
    sheet.symlink_to(DEV_FULL)
    done = matvit("query", files_of(corpus)[0], "-i", index, "--sheet", sheet)
    assert done.code == 1
    assert done.err == f"matvit: {sheet}: No space left on device{TO_DO}"
    assert sheet.is_symlink()


@needs_dev_full
@pytest.mark.parametrize(
    "words, named",
    [(["notebook"], "stdout: "), (["plan", "-m", "{model}", "--json"], "stdout: "), (["--help"], "")],
)
def test_stdout_that_is_full(checkpoint: Path, words: list[str], named: str) -> None:
    entry = [sys.executable, "-c", "from cli.main import main; main()"]
    with DEV_FULL.open("w") as full:
        done = subprocess.run(
            [*entry, *(word.format(model=checkpoint) for word in words)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, f"matvit: {named}No space left on device{TO_DO}")


def test_a_pipe_is_written_into(index: Path, corpus: Path, checkpoint: Path) -> None:
    entry = [sys.executable, "-c", "from cli.main import main; main()"]
    done = subprocess.run(
        [*entry, "plan", "-m", checkpoint, "--csv", "/dev/stdout"], capture_output=True, text=True, check=True
    )
    assert "submodel,widths," in done.stdout
