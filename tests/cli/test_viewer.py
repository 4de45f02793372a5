"""A viewer opens what was drawn, where there is a screen; elsewhere that is said, and nothing fails."""

from pathlib import Path

import pytest

from cli.viewer import show_file

FILE = Path("/drawn/sheet.html")
NONE = "there is no screen or viewer here to open it\n"


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the system's viewer was given: a screen that nobody looks at."""
    files: list[str] = []
    monkeypatch.setattr("typer.launch", lambda file: files.append(file) or 0)
    monkeypatch.setattr("sys.platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    return files


@pytest.mark.parametrize("screen", ["DISPLAY", "WAYLAND_DISPLAY", "darwin"])
def test_a_screen_gets_the_file(
    opened: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], screen: str
) -> None:
    if screen == "darwin":
        monkeypatch.setattr("sys.platform", screen)
    else:
        monkeypatch.setenv(screen, ":0")
    show_file(FILE)
    assert (opened, capfd.readouterr().err) == ([str(FILE)], "")


def test_without_a_screen_nothing_is_started(opened: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    show_file(FILE)
    assert (opened, capfd.readouterr().err) == ([], NONE)


def test_without_a_viewer_that_is_said(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setenv("PATH", str(tmp_path))
    show_file(FILE)
    assert capfd.readouterr().err == NONE
