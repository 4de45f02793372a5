"""What is printed is what was meant, whatever names are in it."""

import io

import pytest
from rich.console import Console

from cli import output

# The kind: what rich takes for an emoji, markup, a link, or something to highlight, and what a terminal takes
# for a command.
NAMES = [
    "s-000.tar:100:",
    ":smile:.jpg",
    "[red]x[/red].jpg",
    "[/].jpg",
    "[link=file:///x]y",
    "[bold",
    "\\[red]",
    "https://example.org/1.5",
    "\x1b[31mred",
    "a\nb",
    "\u202egpj.exe",
]


def plain(name: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


@pytest.mark.parametrize("name", NAMES)
def test_messages_and_tables_print_names_as_they_are(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    output.say(f"not readable: {name}: why")
    output.print_table([{"key": name, name: 1.5}], title=name)
    out, err = capfd.readouterr()
    assert err == f"not readable: {plain(name)}: why\n"
    assert out.count(plain(name)) == 3
    assert "\x1b" not in out


@pytest.mark.parametrize("name", NAMES)
def test_bars_print_names_as_they_are(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    terminal = output.console_on(file=screen, force_terminal=True, width=300, color_system=None)
    monkeypatch.setattr(output, "_stderr", terminal)
    with output.progress(name, 3) as advance:
        advance(2)
    with output.progress_bytes(name) as (count,):
        count.total(3)
        count.advance(2)
    with output.progress("Embedding", 1):
        output.say(name)
    assert isinstance(terminal, Console)
    assert screen.getvalue().count(plain(name)) >= 3
    assert "\x1b[31m" not in screen.getvalue()
