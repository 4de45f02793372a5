"""The names of timm's models, remembered: to load it only to learn that there is no such name takes seconds.

They are kept as text under ``cache_dir()``, by timm's version.
"""

import logging
from importlib.metadata import version
from pathlib import Path

from matvit.errors import BusyError
from matvit.files.atomic import write_text
from matvit.files.cache import cache_dir

_log = logging.getLogger(__name__)


def remember() -> None:
    """Keep the names, unless they are kept: for a process that has loaded timm anyway."""
    import timm

    if not _file().exists():
        try:
            _file().parent.mkdir(parents=True, exist_ok=True)
            write_text(_file(), "\n".join(timm.list_models()))
        except (BusyError, OSError) as error:  # They are found out again next time.
            _log.debug("names of timm's models could not be kept: %s", error)


def is_unknown(name: str) -> bool:
    """Whether timm has no model of a name, as far as is remembered; a tag behind a dot is not looked at."""
    try:
        names = set(_file().read_text(encoding="utf-8").split())
    except (OSError, UnicodeDecodeError):
        return False
    return bool(names) and name.partition(".")[0] not in names


def _file() -> Path:
    return cache_dir() / "timm_names" / f"{version('timm')}.txt"
