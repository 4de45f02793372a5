"""Images that were removed from a corpus and stay so, though their files are there or come back."""

import pyarrow as pa
import pyarrow.compute as pc

from indexes import Store
from retrieval.sources.all_sources import own_key


def kept_out(store: Store, new: pa.Table) -> list[str]:
    """The keys of new rows whose images were removed from a corpus and are to stay so.

    An image is the one that was removed if it has its bytes and either its name, or wherever it is, if the
    corpus shows these bytes nowhere else.

    Args:
        store: That gets the rows.
        new: Rows, with the keys of their source.
    """
    removed = store.kept_out()
    if "content" not in new.column_names or not len(removed):
        return []
    candidates = new.filter(pc.is_in(new["content"], removed["content"].drop_null()))
    shown = set(store.entries(["content"])["content"].to_pylist()) if len(candidates) else set()
    images = set(_images(removed))
    return [
        key
        for key, image in zip(candidates["key"].to_pylist(), _images(candidates), strict=True)
        if image[-1] not in shown or image in images
    ]


def _images(rows: pa.Table) -> list[tuple[str, str, str | None]]:
    """Path of the file, name of the image in it, and hash of its bytes."""
    columns = (rows[name].to_pylist() for name in ("path", "key", "content"))
    return [(path, own_key(path, key), content) for path, key, content in zip(*columns, strict=True)]
