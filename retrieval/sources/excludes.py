"""What a walk through a folder passes over: what a storage keeps for itself, and what the user excludes."""

from collections.abc import Sequence
from functools import cached_property

from pathspec import GitIgnoreSpec

from retrieval.errors import ImageSourceError
from retrieval.sources.sample import is_utf8, printable

_NOT_THE_USERS = frozenset(
    {
        "@eadir",  # Synology's thumbnails
        "@tmp",
        "@synoresource",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "@recycle",  # QNAP's
        "@recently-snapshot",
        "$recycle.bin",  # Windows'
        "recycler",
        "system volume information",
        "lost+found",
        "network trash folder",  # macOS's, on shares
        "temporary items",
        "__macosx",
    }
)
"""Names in lower case: thumbnails, bins and snapshots would be found as copies of what is searched."""


def is_passed_over(name: str, *, is_folder: bool) -> bool:
    """Whether a file or folder of this name is hidden, or a folder the storage's own."""
    return name.startswith(".") or (is_folder and name.lower() in _NOT_THE_USERS)


class Excludes:
    """Globs that leave out files and folders, each as a line of a `.gitignore` would.

    One without a slash matches names at any depth, one with a slash paths relative to the folder, and one
    that ends in a slash folders only; ``*`` stops at slashes and ``**`` does not; ``!`` before a glob takes
    back what those before it left out. A folder that is left out is not entered.

    Args:
        globs: In order.

    Raises:
        ImageSourceError: One of them is no glob.
    """

    def __init__(self, globs: Sequence[str] = ()) -> None:
        self.globs = tuple(dict.fromkeys(globs))
        for glob in self.globs:
            if (reason := _unusable(glob)) is not None:
                raise ImageSourceError(
                    f"--exclude {printable(glob)!r}: {reason}; write it as in a .gitignore"
                )

    def __call__(self, key: str) -> bool:
        """Whether something is left out.

        Args:
            key: Its path relative to the folder that is walked, POSIX; that of a folder ends in a slash.
        """
        return bool(self.globs) and self._spec.match_file(key)

    def passes_over(self, key: str) -> bool:
        """Whether a walk never comes to a file, for its own name or for that of a folder above it."""
        *folders, name = key.split("/")
        hidden = is_passed_over(name, is_folder=False)
        return hidden or any(is_passed_over(each, is_folder=True) for each in folders) or self(key)

    @cached_property
    def _spec(self) -> GitIgnoreSpec:
        return GitIgnoreSpec.from_lines(map(_line, self.globs))


def _line(glob: str) -> str:
    return f"\\{glob}" if glob.startswith("#") else glob  # no comment here, but a bin of Synology's


def _unusable(glob: str) -> str | None:
    if not is_utf8(glob) or "\n" in glob:
        return "not a line of UTF-8"
    try:
        (pattern,) = GitIgnoreSpec.from_lines([_line(glob)]).patterns
    except ValueError:
        return "not a glob"
    return None if pattern.include is not None else "it stands for nothing"
