"""All commands speak alike: the same options, whole sentences, examples that can be typed as they stand."""

import re
import shlex
from collections import defaultdict
from collections.abc import Iterator

import pytest
import typer

from cli import options
from cli.main import app

Command = typer.core.TyperCommand

SHARED = {"index": "-i", "model": "-m", "budget": "-b", "output": "-o"}
WIDTH = 76
"""Of text in a terminal of 80 columns."""


def below(command: Command, name: str) -> Iterator[tuple[str, Command]]:
    """All commands that do something, and how each is called."""
    if not hasattr(command, "commands"):
        yield name, command
        return
    for part, each in command.commands.items():
        yield from below(each, f"{name} {part}")


ROOT = typer.main.get_command(app)
COMMANDS = dict(below(ROOT, "matvit"))
PARAMETERS = [(name, each) for name, command in COMMANDS.items() for each in command.params]
OPTIONS = [(name, each) for name, each in PARAMETERS if each.param_type_name == "option"]
ARGUMENTS = [(name, each) for name, each in PARAMETERS if each.param_type_name == "argument"]


def flat(text: str | None) -> str:
    return " ".join((text or "").split())


def paragraphs(command: Command) -> list[str]:
    return [flat(paragraph) for paragraph in (command.help or "").split("\n\n")]


def examples(command: Command) -> list[str]:
    return [text.removeprefix("Example: ") for text in paragraphs(command) if text.startswith("Example: ")]


def parsed(words: list[str]) -> Command:
    """The command that is called; where there is no such command or option, this raises."""
    command, context = ROOT, ROOT.make_context("matvit", list(words))
    while hasattr(command, "commands"):
        rest = [*context._protected_args, *context.args]
        name, command, rest = command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    return command


def test_all_commands_are_looked_at() -> None:
    assert {"matvit query", "matvit index relocate", "matvit import scenic"} <= COMMANDS.keys()
    assert len(OPTIONS) > 100


@pytest.mark.parametrize("name", SHARED)
def test_what_is_shared_is_spelled_and_explained_alike(name: str) -> None:
    found = [each for _, each in OPTIONS if f"--{name}" in each.opts]
    assert len(found) >= 4
    assert {tuple(each.opts) for each in found} == {(f"--{name}", SHARED[name])}
    # What is said of it is the same; a command may add a sentence.
    common = getattr(options, f"{name.upper()}_HELP")
    assert [each.help for each in found if not flat(each.help).startswith(common)] == []
    assert len({each.help for each in found}) <= 3


def test_a_short_flag_means_one_thing() -> None:
    meanings = defaultdict(set)
    for _, option in OPTIONS:
        for flag in option.opts:
            if not flag.startswith("--"):
                meanings[flag].add(option.name)
    assert {flag for flag, names in meanings.items() if len(names) > 1} == set()


def test_no_argument_is_an_index_or_a_model_but_those_that_are_joined() -> None:
    named = {(name, each.metavar) for name, each in ARGUMENTS}
    assert {(name, what) for name, what in named if re.match("index|model|budget", what, re.IGNORECASE)} == {
        ("matvit index merge", "INDEX")
    }
    assert all(what == what.upper() for _, what in named)


def test_all_other_options_of_one_name_are_explained_alike_too() -> None:
    own = {
        "open",
        "check",
        "workers",
        "batch-size",
        "factory",
        "engine",
    }  # These are another thing elsewhere.
    texts = defaultdict(set)
    for _, option in OPTIONS:
        texts[option.opts[0].lstrip("-")].add(flat(option.help))
    assert {name for name, said in texts.items() if len(said) > 1} - SHARED.keys() == own


@pytest.mark.parametrize("name, parameter", PARAMETERS, ids=[f"{n} {p.name}" for n, p in PARAMETERS])
def test_help_is_whole_sentences(name: str, parameter: typer.core.TyperOption) -> None:
    said = flat(parameter.help)
    assert said[:1].isupper()
    assert said.endswith(".")
    assert "Default:" not in said, "is shown as the default"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_what_to_know_and_gives_examples(name: str) -> None:
    said = paragraphs(COMMANDS[name])
    are_examples = [text.startswith("Example: ") for text in said]
    assert are_examples == sorted(are_examples), "examples come last"
    assert any(are_examples)
    assert not are_examples[0]
    assert all(text[0] != text[0].lower() or text[0] == "-" for text in said)
    assert all(text.endswith(".") for text in said if not text.startswith("Example: "))


@pytest.mark.parametrize("name", COMMANDS)
def test_what_it_does_fits_into_a_line_of_the_list_of_commands(name: str) -> None:
    assert not COMMANDS[name].get_short_help_str(WIDTH - 12).endswith("...")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_can_be_typed_as_they_are_shown(name: str) -> None:
    for example in examples(COMMANDS[name]):
        assert len(f"Example: {example}") <= WIDTH, "is not broken into lines"
        words = shlex.split(example)
        assert words[: len(name.split())] == name.split()
        assert parsed(words[1:]) is COMMANDS[name]
        assert not {"--index", "--model", "--budget", "--output"} & {*words}, "the short form is shown"


def test_an_example_with_a_wrong_word_would_be_noticed() -> None:
    for wrong in ("plan MODEL", "bench -s M", "elasticize MODEL --images photos/ -o x", "index info x.index"):
        with pytest.raises(typer.BadParameter.__mro__[1]):
            parsed(wrong.split())
