"""Models as commands are given them."""

from pathlib import Path

from cli.output import progress_bytes


def fetched(model: str) -> str:
    """The model's own name, once a published one is in the cache, which may take a long download."""
    from matvit.published import PUBLISHED, checkpoint_of

    if model in PUBLISHED and not Path(model).is_dir():
        with progress_bytes("Downloading", "Converting") as (download, convert):
            checkpoint_of(model, on_bytes=download.advance, on_total=download.total, on_read=convert.advance)
    return model


def remembered(index: Path) -> str:
    """The model that an index was made with, if it needs no download that nobody has agreed to."""
    from indexes.manifest import read_manifest
    from indexes.staging import restore
    from retrieval.searcher import remembered_model

    restore(index)
    return remembered_model(index, read_manifest(index))


def fetched_for(index: Path, model: str | None) -> str | None:
    """What `-m` says, once it is here; None for the model that the index remembers, which is here."""
    fetched(model or remembered(index))
    return model
