"""Vectors and rows as other tools read them: the layout of clip-retrieval, which embedding-reader opens."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa

from indexes.errors import IndexExistsError
from indexes.files import sync_directory, written_whole
from indexes.index import Index
from indexes.rows import write_table

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
    """
    if out.exists():
        raise IndexExistsError(f"{out} exists: choose another directory, or remove it first")
    rows_N = np.flatnonzero(index.live)
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        for folder in ("img_emb", "metadata"):
            (beside / folder).mkdir()
        digits = len(str(len(rows_N) // ROWS_A_FILE))
        for number, start in enumerate(range(0, len(rows_N), ROWS_A_FILE)):
            some_N = rows_N[start : start + ROWS_A_FILE]
            name = f"{number:0{digits}d}"
            with written_whole(beside / "img_emb" / f"img_emb_{name}.npy") as file:
                vectors_ND = index.vectors.take(some_N).astype(np.float16)
                np.lib.format.write_array(file, vectors_ND, allow_pickle=False)
            table = index.rows.take(pa.array(some_N))
            if "image_path" in table.column_names:  # the source's own
                table = table.drop_columns("image_path")
            names = ["image_path" if column == "path" else column for column in table.column_names]
            write_table(beside / "metadata" / f"metadata_{name}.parquet", table.rename_columns(names))
        beside.chmod(0o755)
        beside.rename(out)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    sync_directory(out.parent)
    return len(rows_N)
