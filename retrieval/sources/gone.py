"""Whether files are gone, or whether that cannot be told: a sleeping disk looks like an emptied one."""

import os
import stat
from pathlib import Path

from retrieval.sources.excludes import is_passed_over
from retrieval.sources.file_bytes import why_closed

_NOT_THERE = (FileNotFoundError, NotADirectoryError)


def is_gone(path: str) -> bool:
    """Whether a file is certainly no longer there, wherever it was; sets of torchvision's have no path."""
    return Path(path).is_absolute() and Missing("/").is_missing(path) == (True, None)


class Missing:
    """Tells of files below a folder which are certainly gone.

    Those are whose name is no longer in a folder that could be listed and has something in it, or whose
    folder is gone in that way. A disk that is not mounted leaves an empty folder or a link to nowhere, a
    share that sleeps answers with errors: what was on them is not gone.

    Args:
        root: The folder, itself never taken for gone.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._doubts: dict[str, str | None] = {}

    def is_missing(self, path: str) -> tuple[bool, str | None]:
        """Whether a file is not to be had, and, if it is so, why it may be there all the same; None is gone.

        Args:
            path: Below the root.
        """
        try:
            os.stat(path)  # noqa: PTH116 (Path.exists hides some errors, and others from one Python to the next)
        except _NOT_THERE:
            return True, _doubt_of_name(path) or self._doubt_of_folder(str(Path(path).parent))
        except (OSError, ValueError) as error:
            return True, why_closed(Path(path), error)
        return False, None

    def _doubt_of_folder(self, folder: str) -> str | None:
        """Why files that are not in a folder may be there all the same, None if they are gone."""
        if folder not in self._doubts:
            self._doubts[folder] = self._looked_at(folder)
        return self._doubts[folder]

    def _looked_at(self, folder: str) -> str | None:
        try:
            status = os.stat(folder)  # noqa: PTH116
            if not stat.S_ISDIR(status.st_mode):
                return None
            with os.scandir(folder) as entries:
                is_empty = all(is_passed_over(entry.name, is_folder=True) for entry in entries)
        except _NOT_THERE:
            if folder == self._root:
                return "their folder is not there"
            return _doubt_of_name(folder) or self._doubt_of_folder(str(Path(folder).parent))
        except OSError as error:
            return why_closed(Path(folder), error)
        return f"{folder} is empty, as where a disk is not mounted" if is_empty else None


def _doubt_of_name(path: str) -> str | None:
    """Why what was found missing may be there: a link of that name leads to it, or its folder cannot tell."""
    try:
        os.lstat(path)
    except _NOT_THERE:
        return None
    except OSError as error:
        return why_closed(Path(path), error)
    return "broken symlink"
