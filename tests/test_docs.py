"""What the README, the pages of docs/ and the hints of commands name is there."""

import re
import tomllib
from pathlib import Path

import pytest
import typer
from pages import PAGES, ROOT, languages, name_of, words_in_text

from cli.main import app

README = ROOT / "README.md"
LOADER = ROOT / "tests" / "matvit" / "plain_timm_loader.py"
OF_OTHERS = {"--nproc-per-node", "--sort", "--strict"}  # of torchrun, tar and mkdocs
EXTRAS = re.compile(r"\.\[([a-z,]+)\]")


def options_below(command: typer.core.TyperCommand) -> set[str]:
    """The long options of a command and of all commands below it."""
    own = {"--help"} | {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    return own.union(*map(options_below, getattr(command, "commands", {}).values()))


def extras() -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


def test_the_readme_is_read_in_a_few_minutes() -> None:
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 130


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    (command,) = re.findall(r"^ {4}(.*pytest.*)$", README.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert command in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_are_commands_or_say_what_they_are(page: Path) -> None:
    assert languages(page) <= {"", "python", "toml", "text"}


def test_options_named_in_the_text_are_options_of_commands() -> None:
    known = options_below(typer.main.get_command(app)) | OF_OTHERS
    named = {
        (name_of(page), option)
        for page in PAGES
        for words in words_in_text(page)
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", words)
    }
    assert len(named) > 30
    assert {(page, option) for page, option in named if option not in known} == set()


def test_extras_named_in_pages_and_hints_are_those_of_the_project() -> None:
    code = [
        path
        for package in ("matvit", "retrieval", "indexes", "cli")
        for path in (ROOT / package).rglob("*.py")
    ]
    texts = {path: path.read_text(encoding="utf-8") for path in (*PAGES, *code)}
    named = {extra for text in texts.values() for group in EXTRAS.findall(text) for extra in group.split(",")}
    assert {"heic", "demo", "cpu", "notebooks"} <= named <= extras()
    # There is no package of that name to install yet, or it is another.
    assert [path for path, text in texts.items() if "matvit[" in text] == []


def test_files_that_the_architecture_names_are_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:matvit|retrieval|indexes|cli)/[\w/.]*)`", text))
    assert len(named) > 30
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_files_that_the_readme_links_to_are_there() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) > 5
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_loader_that_is_tested_is_the_one_that_is_printed() -> None:
    code = LOADER.read_text(encoding="utf-8").split('"""', 2)[2].strip()
    assert code in (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
