"""What is printed is what was meant, whatever names are in it, and at a terminal it fits."""

import io
import re
import sys
from pathlib import Path

import pytest
from hostile_names import NAMES, plain
from rich.cells import cell_len

from cli import output
from cli.output import Ends, from_here, print_table
from matvit.submodels.profile import two_digits


@pytest.mark.parametrize("name", NAMES)
def test_messages_and_tables_print_names_as_they_are(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    output.say(f"not readable: {name}: why")
    print_table([{"key": name, name: 1.5, "path": Ends(name, "file:///x")}], title=name)
    out, err = capfd.readouterr()
    assert err == f"not readable: {plain(name)}: why\n"
    assert out.count(plain(name)) == 4
    assert "\x1b" not in out


class Terminal(io.StringIO):
    """A terminal, and what is on it."""

    def isatty(self) -> bool:
        return True


def at_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """80 columns in place of stdout; no fixture, for pytest puts its own stdout back before a test begins."""
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    screen = Terminal()
    monkeypatch.setattr(sys, "stdout", screen)
    return screen


LINK = re.compile(r"\x1b]8;[^;]*;([^\x1b]*)\x1b\\([^\x1b]*)\x1b]8;;\x1b\\")


@pytest.mark.parametrize("letter", ["x", "犬", "[bold]"])
def test_at_a_terminal_a_long_cell_shows_its_ends_and_links_to_the_whole(
    monkeypatch: pytest.MonkeyPatch, letter: str
) -> None:
    terminal = at_terminal(monkeypatch)
    path = f"/begins/{letter * 200}/ends.jpg"
    print_table([{"score": "0.998", "label": "violet", "path": Ends(path, "file:///whole")}])
    [line] = terminal.getvalue().splitlines()[1:]
    assert LINK.findall(line) == [("file:///whole", LINK.findall(line)[0][1])]
    shown = LINK.sub(r"\2", line)
    assert re.fullmatch(r"0\.998  violet  /begins/.*….*/ends\.jpg", shown.rstrip())
    assert 70 < cell_len(shown) <= 80


def test_what_fits_is_shown_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = at_terminal(monkeypatch)
    print_table([{"path": Ends("a/b.jpg", "file:///a/b.jpg"), "note": Ends("kept")}])
    assert LINK.findall(terminal.getvalue()) == [("file:///a/b.jpg", "a/b.jpg")]
    assert "…" not in terminal.getvalue()
    assert "kept" in terminal.getvalue()


@pytest.mark.parametrize("variable", ["FORCE_COLOR", "TTY_COMPATIBLE"])
def test_elsewhere_every_cell_is_whole_and_nothing_is_a_link(
    variable: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(variable, "1")
    monkeypatch.setenv("COLUMNS", "80")
    path = f"/begins/{'x' * 200}/ends.jpg"
    print_table([{"path": Ends(path, "file:///whole")}])
    assert capfd.readouterr().out.split() == ["path", path]


def test_paths_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert from_here(f"{tmp_path}/a/b.jpg") == "a/b.jpg"
    assert from_here(f"{tmp_path}/x.tar:b") == "x.tar:b"
    for other in (f"{tmp_path}-2/b.jpg", f"{tmp_path.parent}/b.jpg", "torchvision:/x"):
        assert from_here(other) == other
    monkeypatch.chdir("/")
    assert from_here("/a/b.jpg") == "a/b.jpg"


@pytest.mark.parametrize(
    "number, text",
    [
        *((0.0, "0"), (0.00456, "0.0046"), (0.5, "0.50"), (0.996, "1.0"), (1.24e-5, "0.000012")),
        *((7.149, "7.1"), (9.96, "10"), (42.4, "42"), (149.0, "150"), (1234.5, "1200")),
    ],
)
def test_times_have_two_digits(number: float, text: str) -> None:
    assert two_digits(number) == text
