"""Models as commands are given them."""

from cli.output import progress_bytes


def fetched(model: str) -> str:
    """The model's own name, once a published one is in the cache, which may take a long download."""
    from matvit.published import PUBLISHED, checkpoint_of

    if model in PUBLISHED:
        with progress_bytes("Downloading") as (download,):
            checkpoint_of(model, on_bytes=download.advance, on_total=download.total)
    return model
