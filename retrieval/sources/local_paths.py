"""Local paths as users write them: not those with a scheme, and one way to spell each."""

import os
import re
from pathlib import Path

from retrieval.errors import ImageSourceError, NotLocalError
from retrieval.sources.sample import is_utf8, printable

_SCHEME = re.compile(r"(?:^|::)\s*([a-z][a-z0-9+.-]+:)(?!:)", re.IGNORECASE)  # `::` separates names


def scheme_of(name: str) -> str | None:
    """What a name begins with that is no local path, such as `pipe:` or `https:`."""
    scheme = _SCHEME.search(name)
    return scheme and scheme[1]


def check_local(name: str) -> None:
    """Refuse anything with a scheme.

    Raises:
        NotLocalError: If `name` has one.
    """
    if scheme := scheme_of(name):
        raise NotLocalError(f"{printable(name)}: {scheme} is not read")


def mode_at(text: str) -> int:
    """What lies at a local path, as `stat` says it; 0 is nothing, or a text with a scheme."""
    if not text or scheme_of(text):
        return 0
    try:
        return Path(text).stat().st_mode
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a ValueError: the path holds a NUL
        return 0


def absolute_path(text: str) -> Path:
    """A path from the root on.

    Raises:
        ImageSourceError: If it is not UTF-8.
    """
    return _checked(str(Path(text).absolute()))


def real_folder(folder: Path) -> Path:
    """The folder without symlinks and `..`: an image must have one path however its folder was named.

    Raises:
        ImageSourceError: If that path is not UTF-8.
    """
    return _checked(os.path.realpath(folder))


def _checked(path: str) -> Path:
    if not is_utf8(path):
        raise ImageSourceError(f"{printable(path)}: the path is not UTF-8; rename it")
    return Path(path)
