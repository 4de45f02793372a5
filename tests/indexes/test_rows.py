from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes import DuplicateKeyError, IndexDamagedError, rows

ROW = {"key": "a", "path": "/a", "label": "cat"}


def test_extra_columns_meet_as_nulls() -> None:
    joined = rows.concatenate(
        [
            rows.rows_table([ROW]),
            rows.rows_table([]),
            rows.rows_table([{"key": "b", "path": "/b", "caption": "hi"}]),
        ]
    )
    assert joined.to_pylist() == [
        {**ROW, "caption": None},
        {"key": "b", "path": "/b", "label": None, "caption": "hi"},
    ]


@pytest.mark.parametrize("row", [{"key": "a"}, {"path": "/a"}, {"key": None, "path": "/a"}])
def test_row_without_key_or_path_is_refused(row: dict[str, str | None]) -> None:
    with pytest.raises(ValueError, match="needs a key and a path"):
        rows.rows_table([row])


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=3)))
def test_duplicates_are_found_exactly(keys: list[str]) -> None:
    table = rows.rows_table([{"key": key, "path": ""} for key in keys])
    if len(set(keys)) == len(keys):
        rows.check_unique(table)
    else:
        with pytest.raises(DuplicateKeyError):
            rows.check_unique(table)


def test_reading_gives_back_what_was_written(tmp_path: Path) -> None:
    folder = tmp_path / "year=2024"  # a name that pyarrow's dataset reader would turn into a column
    folder.mkdir()
    table = rows.rows_table([ROW, {"key": "日本", "path": "/b"}])
    rows.write_table(folder / "rows.parquet", table)
    assert rows.read_rows(folder / "rows.parquet").equals(table)
    assert rows.count(folder / "rows.parquet") == 2
    assert [file.name for file in folder.iterdir()] == ["rows.parquet"]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    rows.write_table(path, rows.rows_table([ROW]))
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(IndexDamagedError, match=r"rows\.parquet is missing or damaged"):
            rows.read_rows(path)


def test_missing_file_and_wrong_table_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IndexDamagedError, match="missing"):
        rows.read_rows(tmp_path / "rows.parquet")
    rows.write_table(tmp_path / "rows.parquet", rows.failures_table([("a", "broken")]))
    with pytest.raises(IndexDamagedError, match="does not hold the columns key, path, label"):
        rows.read_rows(tmp_path / "rows.parquet")
