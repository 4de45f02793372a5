import errno
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_index import DIM, ENCODER, Row, build, bytes_of, origin, rows_of

from indexes import Index, IndexBusyError, IndexExistsError, IndexReplacedError, IndexWriter
from indexes.directory import change, export
from indexes.disk.staging import Staging

PARTS = [
    [Row("a", "/1", "cat", content="x"), Row("b", "/2", content="x")],
    rows_of("c", 3, label="dog"),
    rows_of("d", 2),
]


@pytest.fixture
def index(tmp_path: Path) -> Index:
    """Seven rows, of which c:1 and d:0 are removed."""
    out = build(tmp_path / "x.index", *PARTS)
    change.remove(out, lambda opened: opened.with_keys(["c:1", "d:0"]), command="")
    return Index.open(out)


def exported(out: Path) -> list[tuple[dict[str, str | None], bytes]]:
    """Rows and vectors, file by file in the order of their names, as embedding-reader joins them."""
    vectors, tables = sorted((out / "img_emb").iterdir()), sorted((out / "metadata").iterdir())
    rows: list[tuple[dict[str, str | None], bytes]] = []
    for file, table in zip(vectors, tables, strict=True):
        assert file.stem.removeprefix("img_emb") == table.stem.removeprefix("metadata")
        vectors_ND = np.load(file, allow_pickle=False)
        assert vectors_ND.dtype == np.float16
        assert vectors_ND.shape[1:] == (DIM,)
        assert vectors_ND.flags.c_contiguous
        some = pq.ParquetFile(table).read().to_pylist()
        rows += zip(some, [vector.tobytes() for vector in vectors_ND], strict=True)
    return rows


@pytest.mark.parametrize("rows_a_file, numbers", [(100, "0"), (5, "0"), (3, "01"), (2, "012"), (1, "01234")])
def test_rows_that_can_be_found_lie_beside_their_vectors(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows_a_file: int, numbers: str
) -> None:
    monkeypatch.setattr(export, "ROWS_A_FILE", rows_a_file)
    out = tmp_path / "deep" / "export"
    assert export.export(index, out) == 5
    assert {file.name for file in (out / "img_emb").iterdir()} == {f"img_emb_{n}.npy" for n in numbers}
    rows = exported(out)
    kept = [row for part in PARTS for row in part if row.key not in ("c:1", "d:0")]
    assert [vector for _, vector in rows] == [row.vector.tobytes() for row in kept]
    assert [row for row, _ in rows] == [
        {
            "key": row.key,
            "image_path": row.path,
            "label": row.label,
            "content": row.content,
            "duplicate_of": "a" if row.key == "b" else None,
        }
        for row in kept
    ]
    assert sorted(path.name for path in out.iterdir()) == ["img_emb", "metadata"]
    assert list(out.parent.iterdir()) == [out]


def test_names_sort_as_their_numbers(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(index.path, rows_of("e", 8), extends=True)
    monkeypatch.setattr(export, "ROWS_A_FILE", 1)
    assert export.export(Index.open(index.path), tmp_path / "out") == 13
    assert [row["key"] for row, _ in exported(tmp_path / "out")][5:] == [f"e:{n}" for n in range(8)]


def test_one_file_has_the_names_of_clip_retrieval(index: Index, tmp_path: Path) -> None:
    export.export(index, tmp_path / "out")
    assert sorted(bytes_of(tmp_path / "out")) == ["img_emb/img_emb_0.npy", "metadata/metadata_0.parquet"]


def test_what_exists_is_refused_and_untouched(index: Index, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "file").write_text("mine")
    for name in ("out", "file", "x.index"):
        with pytest.raises(IndexExistsError, match="exists: choose another directory, or remove it"):
            export.export(index, tmp_path / name)
    assert list((tmp_path / "out").iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "out", "x.index"]


def test_full_disk_leaves_nothing(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        export.export(index, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [index.path]


def test_index_replaced_before_its_vectors_were_read_leaves_nothing(index: Index, tmp_path: Path) -> None:
    change.gather([index.path], index.path, command="")
    with pytest.raises(IndexReplacedError):
        export.export(index, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [index.path]


def test_source_with_an_image_path_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "x.index"
    with IndexWriter(out, ENCODER) as writer:
        writer.plan([("a", "1")])
        row = {"key": "a", "path": "/a", "image_path": "theirs"}
        writer.write_part(0, Row("a", "/a").vector[None], [row], [])
        writer.commit(origin())
    export.export(Index.open(out), tmp_path / "out")
    assert [row for row, _ in exported(tmp_path / "out")] == [{"key": "a", "image_path": "/a", "label": None}]


def test_what_a_killed_export_left_is_removed_and_nothing_else(index: Index, tmp_path: Path) -> None:
    """A user's hidden copy of an export is not ours."""
    for name in (".out-original", ".out-a1_b2c3d", "out.partial/index"):
        for folder in ("img_emb", "metadata"):
            (tmp_path / name / folder).mkdir(parents=True)
    (tmp_path / "out.partial" / ".matvit-lock").touch()
    export.export(index, tmp_path / "out")
    left = sorted(file.name for file in tmp_path.iterdir())
    assert left == [".out-a1_b2c3d", ".out-original", "out", "x.index"]
    (tmp_path / "out.partial").mkdir()
    (tmp_path / "out.partial" / ".matvit-lock").touch()  # It was killed when all was done but this.
    with pytest.raises(IndexExistsError):
        export.export(index, tmp_path / "out")
    assert not (tmp_path / "out.partial").exists()


def test_of_two_at_once_the_second_is_refused(index: Index, tmp_path: Path) -> None:
    with Staging(tmp_path / "out"), pytest.raises(IndexBusyError, match="another process is writing"):
        export.export(index, tmp_path / "out")
    export.export(index, tmp_path / "out")
