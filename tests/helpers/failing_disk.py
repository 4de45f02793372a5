"""A disk that answers with an error: what root, who may enter everything, sees of a share that sleeps."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def fail_below(place: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every look at `place`, and at what is in it, end in the error of that number."""

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def look(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            asked = "" if isinstance(path, int) else os.fsdecode(path)
            if asked == str(place) or asked.startswith(f"{place}/"):
                raise OSError(number, os.strerror(number), asked)
            return call(path, *arguments, **options)

        return look

    for name in ("stat", "lstat", "scandir", "open"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
