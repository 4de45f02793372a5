"""Opening what was drawn with the system's own viewer."""

import os
import sys
from pathlib import Path

import typer

from cli.output import say


def show_file(path: Path) -> None:
    """Open a picture or page for the person at the screen; where there is none, say so."""
    has_screen = sys.platform == "darwin" or "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if not has_screen or typer.launch(str(path)):
        say("there is no screen or viewer here to open it")
