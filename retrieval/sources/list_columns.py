"""Which columns of a list are what, however they are called."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

PATHS = (
    *("path", "image_path", "img_path", "file_path", "filepath", "file_name", "filename", "file"),
    *("image_file", "image_name", "img_name", "image", "img"),
)
"""What a column of paths may be called, the first that is there; case, spaces and dashes are nothing."""
LABELS = ("label", "class", "class_name", "category", "target")
"""The same for labels."""


class UnusableListError(Exception):
    """What is wrong with a list, and what to do."""


@dataclass(frozen=True)
class Columns:
    """What a list says of its images, all of it text.

    Attributes:
        paths: Of their files; where `images` is set, what the list calls them, or null.
        labels: None where the list has none.
        keys: None where they are called by their paths.
        others: Further columns by name.
        images: The column of a parquet list that holds the images themselves.
        group_rows: How many rows each of its row groups has.
        group_gaps: Whether some rows of each may hold no image.
    """

    paths: pa.ChunkedArray
    labels: pa.ChunkedArray | None
    keys: pa.ChunkedArray | None
    others: Mapping[str, pa.ChunkedArray]
    images: str | None = None
    group_rows: tuple[int, ...] = ()
    group_gaps: tuple[bool, ...] = ()


def columns_named(
    columns: Mapping[str, pa.ChunkedArray],
    *,
    images: str | None = None,
    group_rows: Sequence[int] = (),
    group_gaps: Sequence[bool] = (),
) -> Columns:
    """Tell the columns of a list apart by their names.

    Args:
        columns: All of them, text.
        images: The one that stands for images which the list holds.
        group_rows: See `Columns`.
        group_gaps: See `Columns`.

    Raises:
        UnusableListError: None of them is one of paths.
    """
    spelled: dict[str, str] = {}
    for name in columns:
        spelled.setdefault(re.sub(r"[\s_-]+", "_", name.strip().lower()), name)
    paths = images or next((spelled[name] for name in PATHS if name in spelled), None)
    if paths is None:
        wanted, there = ", ".join(PATHS), ", ".join(map(repr, columns))[:200]
        raise UnusableListError(f"no column of paths among {there}; call it one of {wanted}")
    labels = next((spelled[name] for name in LABELS if name in spelled and spelled[name] != paths), None)
    keys = spelled.get("key")
    return Columns(
        paths=columns[paths],
        labels=None if labels is None else columns[labels],
        keys=None if keys is None else columns[keys],
        # A label that the list calls something else is found under that name, too.
        others={name: columns[name] for name in columns if name not in (paths, keys, "label")},
        images=images,
        group_rows=tuple(group_rows),
        group_gaps=tuple(group_gaps),
    )


def check_names(names: Sequence[str]) -> None:
    """Check that every column has a name of its own.

    Raises:
        UnusableListError: One has not.
    """
    if twice := {name for name in names if names.count(name) > 1}:
        raise UnusableListError(f"two columns are called {min(twice)!r}; rename one")
    if "" in names:
        raise UnusableListError("a column has no name; give it one")
