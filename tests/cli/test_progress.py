"""How far long work is: bars at a terminal, elsewhere lines, and never too many of them."""

import io
import time

import pytest
from hostile_names import NAMES, plain
from rich.console import Console

from cli import output
from cli.progress import progress, waiting_for


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What a terminal would get."""
    written = io.StringIO()
    terminal = output.console_on(file=written, force_terminal=True, width=300, color_system=None)
    monkeypatch.setattr(output, "_stderr", terminal)
    return written


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which tests set."""
    now = [0.0]
    monkeypatch.setattr("cli.progress.time.monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize("name", NAMES)
def test_bars_print_names_as_they_are(name: str, screen: io.StringIO) -> None:
    with progress() as bar:
        bar(f"images of {name}", 2, 3)
        bar(f"bytes of {name}", 2, None)
        output.say(name)
    assert isinstance(output.stderr(), Console)
    assert screen.getvalue().count(plain(name)) >= 3
    assert "\x1b[31m" not in screen.getvalue()


def test_every_step_has_a_bar_with_its_unit(screen: io.StringIO) -> None:
    with progress() as bar:
        for done in range(4):
            bar("bytes downloaded", 1000 * done, 3000)
        bar("images embedded", 5, 40)
    lines = screen.getvalue().splitlines()
    assert any("bytes downloaded" in line and "3.0 kB/3.0 kB" in line for line in lines)
    assert any("images embedded" in line and "5/40" in line for line in lines)
    assert "/100" not in screen.getvalue()  # which rich takes for the total of what has none


def test_lines_now_and_then(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        for second in range(26):
            clock[0] = second
            bar("images embedded", 100 + 10 * second, 1000)  # 100 of which were there before
        bar("settings tried", 1, 60)
    assert capfd.readouterr().err.splitlines() == [
        "images embedded: 200/1000, 10.0 images/s, 80 s left",
        "images embedded: 300/1000, 10.0 images/s, 70 s left",
        "images embedded: 350/1000, 10.0 images/s, 65 s left",
    ]


def test_what_is_over_at_once_is_no_line(clock: list[float], capfd: pytest.CaptureFixture[str]) -> None:
    with progress() as bar:
        for done in range(100):
            bar("images embedded", done, 100)
        clock[0] = 1.9
    assert capfd.readouterr().err == ""


def test_a_step_whose_first_images_take_long_is_told_of_before_they_are_done(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("cli.progress._MOMENT_SECONDS", 0.05)
    with progress() as bar:
        bar("images embedded", 0, 600)
        time.sleep(0.3)
        bar("images embedded", 64, 600)
        bar("axes measured", 0, None)
        bar("axes measured", 1, None)  # and so the step goes on
        time.sleep(0.3)
    assert capfd.readouterr().err.splitlines() == ["images embedded: 0/600"]


def test_what_is_waited_for_is_told_only_if_it_takes_a_moment(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with waiting_for("opening the index"):
        pass
    monkeypatch.setattr("cli.progress._MOMENT_SECONDS", 0.05)
    with waiting_for("opening the model"):
        time.sleep(0.3)
    assert capfd.readouterr().err == "opening the model\n"


def test_bytes_are_told_in_units_and_a_step_may_begin_again(
    clock: list[float], capfd: pytest.CaptureFixture[str]
) -> None:
    with progress() as bar:
        bar("bytes downloaded", 2_000_000, 5_000_000)
        clock[0] = 4
        bar("bytes downloaded", 0, 5_000_000)  # another file is there now
        clock[0] = 8
        bar("bytes downloaded", 4_000_000, None)
    assert capfd.readouterr().err.splitlines() == [
        "bytes downloaded: 2.0 MB/5.0 MB, 0 bytes/s",
        "bytes downloaded: 4.0 MB, 1.0 MB/s",
    ]
