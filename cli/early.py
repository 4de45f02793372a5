"""Mistakes that are told before torch is loaded, which takes seconds.

The library finds all of them, too, but later.
"""

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from matvit.errors import UnknownModelError

if TYPE_CHECKING:
    from indexes.disk.manifest import Manifest

_CONFIG = "config.json"


def check_model(model: str | None, *, weights: bool = True) -> None:
    """Refuse a directory that holds no model, and a known one that is neither here nor to be had.

    What may be another name is left to timm, which has to be loaded, unless its names are remembered.

    Args:
        model: As it was asked for.
        weights: Whether they are needed.

    Raises:
        UnknownModelError: It is such a directory, or one that is not there.
        CheckpointError: It would have to be downloaded, and the hub is not reached.
    """
    from matvit.files.atomic import restore
    from matvit.weights.known_models import known_model, no_such_model, sized

    if model is None or model.startswith("hf-hub:"):
        return
    known = known_model(model)
    if known and known.repository and weights:
        from matvit.weights.hub import cached, check_reached

        if cached(known.repository, "model.safetensors") is None:
            check_reached(model)
    directory = Path(model.removeprefix("local-dir:"))
    restore(directory)
    if directory.is_dir():
        if not (directory / _CONFIG).is_file():
            raise UnknownModelError(f"{model} is no checkpoint: it has no {_CONFIG}")
        return
    if os.sep in model:
        raise UnknownModelError(f"no directory {model!r}: say where the checkpoint is, or a name")
    from matvit.weights.timm_names import is_unknown

    if known is None and is_unknown(sized(model)[0]):
        raise no_such_model(model)


def check_index(index: Path, where: str | None = None) -> "Manifest":
    """Refuse what is no index, and a condition that its rows cannot be held against.

    Returns:
        What the index says of itself.

    Raises:
        IndexDamagedError: There is no whole index.
        FilterError: The condition cannot be understood, or names a column that there is not.
    """
    from indexes.disk.manifest import read_manifest
    from indexes.disk.rows import column_names
    from indexes.disk.staging import restore
    from indexes.errors import IndexDamagedError
    from indexes.filters.syntax import parse, require_columns

    condition = None if where is None else parse(where)
    for last in (False, False, True):
        try:
            restore(index)
            manifest = read_manifest(index)
            columns = column_names(index / "rows.parquet")
            break
        except IndexDamagedError:  # It may be away for an instant, while it is replaced.
            if last:
                raise
            time.sleep(0.05)
    if condition is not None:
        require_columns(condition, columns)
    return manifest


def check_images(images: str) -> None:
    """Refuse what is no source of images, without looking into it.

    Raises:
        ImageSourceError: It is none.
    """
    from retrieval.sources.open_images import check_source

    check_source(images)
