"""Where things are kept that can be made again: imported checkpoints and latency profiles."""

import os
from pathlib import Path

from platformdirs import user_cache_path


def cache_dir() -> Path:
    """The user's cache directory for this library: `MATVIT_CACHE` if set, else the system's usual place."""
    if folder := os.environ.get("MATVIT_CACHE"):
        return Path(folder).expanduser()
    return user_cache_path("matvit", appauthor=False)
