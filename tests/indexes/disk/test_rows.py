from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from indexes import DuplicateKeyError, IndexDamagedError
from indexes.disk import rows

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


def first_of_each(contents: list[str | None], found: list[bool]) -> list[str | None]:
    """Ten lines that say what `mark_duplicates` must find; a row's key is its number."""
    firsts: dict[str, str] = {}
    marks: list[str | None] = []
    for number, (content, is_found) in enumerate(zip(contents, found, strict=True)):
        if content is None or not is_found:
            marks.append(None)
        else:
            marks.append(firsts.get(content))
            firsts.setdefault(content, str(number))
    return marks


ROWS = st.tuples(st.sampled_from([None, "", "x", "y", "z"]), st.booleans())


@given(st.lists(st.lists(ROWS, max_size=6), min_size=1, max_size=3))
@example([[]])
@example([[(None, True), (None, True)]])
@example([[("x", False), ("x", True)], [("x", True), ("x", False)]])
def test_copies_are_marked_with_the_first_that_can_be_found(
    parts: list[list[tuple[str | None, bool]]],
) -> None:
    tables, number = [], 0
    for part in parts:
        keyed = [{"key": str(number + i), "path": "", "content": row[0]} for i, row in enumerate(part)]
        tables.append(rows.rows_table(keyed))
        number += len(part)
    flat = [row for part in parts for row in part]
    table = rows.concatenate(tables)
    found_N = np.array([is_found for _, is_found in flat], dtype=bool)
    marked = rows.mark_duplicates(table, found_N)
    if not flat:
        assert marked.num_rows == 0
        return
    expected = first_of_each([content for content, _ in flat], found_N.tolist())
    assert marked["duplicate_of"].to_pylist() == expected
    assert marked.drop_columns("duplicate_of").equals(table)
    assert rows.mark_duplicates(marked, found_N).equals(marked)


def test_marks_follow_what_can_be_found() -> None:
    table = rows.rows_table([{"key": key, "path": "", "content": "x"} for key in "abc"])
    marked = rows.mark_duplicates(table, np.array([True, True, True]))
    assert marked["duplicate_of"].to_pylist() == [None, "a", "a"]
    marked = rows.mark_duplicates(marked, np.array([False, True, True]))
    assert marked["duplicate_of"].to_pylist() == [None, None, "b"]


def test_without_hashes_nothing_is_marked() -> None:
    table = rows.rows_table([ROW])
    assert rows.mark_duplicates(table, np.array([True])) is table
