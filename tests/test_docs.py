"""Every command in the README and in docs/ runs as it stands there, or is at least one that there is."""

import io
import re
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer
from small_world import picture

from cli.main import app, main

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

NOT_RUN = {
    "IMAGENET": "needs ImageNet",
    "imagenet.index": "needs ImageNet",
    "SHARDS": "needs ImageNet",
    "torchvision:": "downloads a data set",
    "FILE_OR_URL": "needs a checkpoint of Scenic",
    "--engine compiled": "compiles for a minute",
    "matvit bench": "measures for minutes",
    "matvit elasticize": "downloads a model",
    "dinov2-elastic": "needs that model",
    "index relocate": "needs a folder that moved",
    "matvit notebook": "opens Jupyter, or takes minutes: see tests/notebooks",
}


def commands(page: Path) -> Iterator[str]:
    """The command lines in a page's indented blocks, without comments and continued lines joined."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in re.findall(r"^ {4,}((?:matvit|torchrun) .*)$", text, flags=re.MULTILINE):
        yield re.sub(r"\s+#.*$", "", line).strip()


def arguments_of(command: str) -> list[str]:
    words = shlex.split(command)
    start = words.index("cli.main") if words[0] == "torchrun" else 0
    end = words.index("<") if "<" in words else len(words)
    return words[start + 1 : end]


def reason_not_to_run(command: str) -> str | None:
    if command.startswith("torchrun"):
        return "starts several processes"
    return next((why for part, why in NOT_RUN.items() if part in command), None)


def parse(words: list[str]) -> None:
    """Check that there is such a command with such options; a wrong one raises."""
    command = typer.main.get_command(app)
    context = command.make_context("matvit", list(words))
    while hasattr(command, "resolve_command"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)


@pytest.fixture
def world(tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which everything that the pages speak of is there."""
    for folder in ("cat", "dog", "blurred", "2019", "test/cat", "test/dog"):
        (tmp_path / "photos" / folder).mkdir(parents=True)
        for number in range(6):
            colour = {"cat": "red", "dog": "blue"}.get(Path(folder).name, "green")
            picture(colour, 10 * len(folder) + number).save(tmp_path / "photos" / folder / f"{number}.png")
    for name in ("cat.jpg", "dog.jpg", "photos/2019/cat.jpg"):
        picture("red", 99).save(tmp_path / name)
    shutil.copytree(checkpoint, tmp_path / "CHECKPOINT")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["matvit", *words])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"cat.jpg\n")))
    with pytest.raises(SystemExit) as stop:
        main()
    assert not stop.value.code, (words, capsys.readouterr().err)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_is_one_that_there_is(page: Path) -> None:
    found = list(commands(page))
    assert found
    for command in found:
        parse(arguments_of(command))


def test_a_command_that_there_is_not_would_be_noticed() -> None:
    for wrong in ("quary cat.jpg", "query cat.jpg --bugdet M -i x", "index bild photos/"):
        with pytest.raises(Exception, match=r"No such (command|option)"):
            parse(shlex.split(wrong))


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_run_in_the_order_of_the_page(
    page: Path, world: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for year in ("2024", "2025"):
        folder = world / year / year
        folder.mkdir(parents=True)
        picture("red", int(year)).save(folder / "a.png")
        run(["index", "build", year, "-m", "CHECKPOINT", "-o", f"{year}.index"], monkeypatch, capsys)
    for command in commands(page):
        if reason_not_to_run(command) is None:
            run(arguments_of(command), monkeypatch, capsys)


def test_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:matvit|retrieval|indexes|cli)/[\w/.]*)`", text))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
