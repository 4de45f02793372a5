"""Vectors and rows as other tools read them: the layout of clip-retrieval, which embedding-reader opens."""

import re
import shutil
from glob import escape
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexes.files import written_whole
from indexes.index import Index
from indexes.rows import write_table
from indexes.staging import Staging

ROWS_A_FILE = 1_000_000


def export(index: Index, out: Path) -> int:
    """Write the rows that can be found to a new directory.

    ``img_emb/img_emb_0.npy`` holds float16 vectors and ``metadata/metadata_0.parquet`` their rows, with the
    path as `image_path`; further files are numbered on.

    Args:
        index: What to export.
        out: The new directory.

    Returns:
        How many rows there were.

    Raises:
        IndexExistsError: `out` exists.
        IndexBusyError: Another process is writing it.
        IndexNameError: `out` is not UTF-8.
    """
    rows_N = np.flatnonzero(index.live)
    with Staging(out) as staging:
        _tidy(out)
        for folder in ("img_emb", "metadata"):
            (staging.index / folder).mkdir(parents=True)
        digits = len(str(len(rows_N) // ROWS_A_FILE))
        for number, start in enumerate(range(0, len(rows_N), ROWS_A_FILE)):
            some_N = rows_N[start : start + ROWS_A_FILE]
            name = f"{number:0{digits}d}"
            with written_whole(staging.index / "img_emb" / f"img_emb_{name}.npy") as file:
                vectors_ND = index.vectors.take(some_N).astype(np.float16)
                np.lib.format.write_array(file, vectors_ND, allow_pickle=False)
            table = index.rows.take(pa.array(some_N))
            if "image_path" in table.column_names:  # the source's own
                table = table.drop_columns("image_path")
            names = ["image_path" if column == "path" else column for column in table.column_names]
            metadata = staging.index / "metadata" / f"metadata_{name}.parquet"
            write_table(metadata, table.rename_columns(names))
        staging.publish()
    return len(rows_N)


def _tidy(out: Path) -> None:
    """Remove what a killed export of an earlier version left beside its place, under a random name."""
    for left in out.parent.glob(f".{escape(out.name)}-*"):
        is_random = re.fullmatch("[a-z0-9_]{8}", left.name[len(out.name) + 2 :])
        if is_random and left.is_dir() and {file.name for file in left.iterdir()} == {"img_emb", "metadata"}:
            shutil.rmtree(left)
