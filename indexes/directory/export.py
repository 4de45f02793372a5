"""Vectors and rows as other tools read them: the layout of clip-retrieval, which embedding-reader opens."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from indexes.disk.durable import written_whole
from indexes.disk.rows import write_table
from indexes.disk.staging import Staging
from indexes.store import Store

ROWS_A_FILE = 1_000_000


def export(store: Store, out: Path) -> int:
    """Write the rows that can be found to a new directory.

    ``img_emb/img_emb_0.npy`` holds float16 vectors and ``metadata/metadata_0.parquet`` their rows, with the
    path as `image_path`; further files are numbered on.

    Args:
        store: What to export.
        out: The new directory.

    Returns:
        How many rows there were.

    Raises:
        IndexExistsError: `out` exists.
        IndexBusyError: Another process is writing it.
        IndexNameError: `out` is not UTF-8.
    """
    entries = store.entries()
    vectors = _in_files(store.blocks())
    with Staging(out) as staging:
        for folder in ("img_emb", "metadata"):
            (staging.index / folder).mkdir(parents=True)
        digits = len(str(len(entries) // ROWS_A_FILE))
        for number, start in enumerate(range(0, len(entries), ROWS_A_FILE)):
            name = f"{number:0{digits}d}"
            with written_whole(staging.index / "img_emb" / f"img_emb_{name}.npy") as file:
                np.lib.format.write_array(file, next(vectors), allow_pickle=False)
            table = entries.slice(start, ROWS_A_FILE)
            if "image_path" in table.column_names:  # the source's own
                table = table.drop_columns("image_path")
            names = ["image_path" if column == "path" else column for column in table.column_names]
            metadata = staging.index / "metadata" / f"metadata_{name}.parquet"
            write_table(metadata, table.rename_columns(names))
        staging.publish()
    return len(entries)


def _in_files(blocks: Iterable[NDArray[np.float32]]) -> Iterator[NDArray[np.float16]]:
    """The same vectors in blocks of as many as a file has."""
    waiting: list[NDArray[np.float16]] = []
    room = ROWS_A_FILE
    for block_ND in blocks:
        rest_ND = block_ND.astype(np.float16)
        while len(rest_ND) >= room:
            yield np.concatenate([*waiting, rest_ND[:room]])
            rest_ND, waiting, room = rest_ND[room:], [], ROWS_A_FILE
        waiting.append(rest_ND)
        room -= len(rest_ND)
    yield np.concatenate(waiting)
