"""Lists of image files, parquet and text: what they say, and everything that can be wrong with them."""

import contextlib
import datetime
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_lists import extras, fill, parquet, read, refused, text

from retrieval.errors import ImageSourceError
from retrieval.sources import folder_walk
from retrieval.sources.open_images import open_source
from retrieval.sources.sample import Failure, Sample

# --- what a list says ---


@pytest.mark.parametrize("name", ["all.txt", "all.LST"])
def test_a_text_list_in_its_own_order(tmp_path: Path, name: str) -> None:
    fill(tmp_path, "b.jpg", "sub/a é.png", " c ", "d:e.jpg")
    written = f"b.jpg\n\nsub/a é.png\r\n   \n{tmp_path}/b.jpg\n c \n./d:e.jpg\nd:e.jpg"
    assert read(text(tmp_path / name, written)) == [
        Sample("b.jpg", f"{tmp_path}/b.jpg", None, {}, b"b.jpg"),
        Sample("sub/a é.png", f"{tmp_path}/sub/a é.png", None, {}, "sub/a é.png".encode()),
        Sample(f"{tmp_path}/b.jpg", f"{tmp_path}/b.jpg", None, {}, b"b.jpg"),
        Sample(" c ", f"{tmp_path}/ c ", None, {}, b" c "),
        Sample("./d:e.jpg", f"{tmp_path}/d:e.jpg", None, {}, b"d:e.jpg"),
        Sample("d:e.jpg", f"{tmp_path}/d:e.jpg", None, {}, b"d:e.jpg"),
    ]


def test_a_list_that_windows_wrote(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg")
    assert [s.key for s in read(text(tmp_path / "x.txt", b"\xef\xbb\xbfa.jpg\r\nb.jpg\r\n"))] == [
        "a.jpg",
        "b.jpg",
    ]


def test_a_parquet_list_with_everything(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", "b.jpg", "c.jpg")
    place = parquet(
        tmp_path / "all.parquet",
        year=[2019, None, 2021],
        path=["b.jpg", "sub/../a.jpg", "nowhere.jpg"],
        label=["x", None, "y"],
        key=["first", "second", "third"],
        who=["Zoë", "", "lost"],
    )
    (tmp_path / "sub").mkdir()
    source = open_source(place)
    assert source.size == 3
    assert read(source) == [
        Sample("first", f"{tmp_path}/b.jpg", "x", {"year": "2019", "who": "Zoë"}, b"b.jpg"),
        Sample("second", f"{tmp_path}/sub/../a.jpg", None, {"who": ""}, b"a.jpg"),
        Failure("third", "no such file"),
    ]


def test_paths_are_relative_to_the_list_wherever_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path / "lists", "a.jpg")
    fill(tmp_path / "elsewhere", "a.jpg")
    text(tmp_path / "lists" / "x.txt", "a.jpg")
    (tmp_path / "link").symlink_to("lists")
    monkeypatch.chdir(tmp_path / "elsewhere")
    for named in ("../lists/x.txt", "../link/x.txt", str(tmp_path / "elsewhere" / ".." / "lists" / "x.txt")):
        (sample,) = read(named)
        assert isinstance(sample, Sample)
        assert (sample.key, sample.path) == ("a.jpg", str(tmp_path / "lists" / "a.jpg"))


@pytest.mark.parametrize(
    "column, texts",
    [
        (pa.array([2**64 - 1, None], pa.uint64()), ["18446744073709551615", None]),
        (pa.array([0.1, float("inf")], pa.float32()), ["0.1", "inf"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([datetime.date(2024, 1, 2), None]), ["2024-01-02", None]),
        (
            pa.array([1, 0], pa.timestamp("ns")),
            ["1970-01-01 00:00:00.000000001", "1970-01-01 00:00:00.000000000"],
        ),
        (pa.array(["cat", None]).dictionary_encode(), ["cat", None]),
        (pa.array([3, None]).dictionary_encode(), ["3", None]),
        (pa.array([b"what old writers write", b""]), ["what old writers write", ""]),
        (pa.array([None, None]), [None, None]),
        (pa.array([[1, 2], None]), ["[1, 2]", None]),
        (
            pa.array([{"a": "é", "b": [None]}, {"a": None, "b": []}]),
            ['{"a": "é", "b": [null]}', '{"a": null, "b": []}'],
        ),
        (pa.array([[datetime.date(2024, 1, 2)], []]), ['["2024-01-02"]', "[]"]),
        (pa.array([UUID(int=7).bytes, None], pa.uuid()), [str(UUID(int=7)), None]),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_every_kind_of_column_becomes_text(
    tmp_path: Path, column: pa.Array, texts: Sequence[str | None]
) -> None:
    fill(tmp_path, "a", "b")
    place = parquet(tmp_path / "x.parquet", path=["a", "b"], extra=column)
    assert extras(place) == [{} if one is None else {"extra": one} for one in texts]


def test_numbers_may_be_keys_labels_and_paths(tmp_path: Path) -> None:
    fill(tmp_path, "10", "11")
    place = parquet(tmp_path / "x.parquet", path=[10, 11], key=[0.5, 2.5], label=[0, None])
    assert [(s.key, s.path, s.label) for s in read(place) if isinstance(s, Sample)] == [
        ("0.5", f"{tmp_path}/10", "0"),
        ("2.5", f"{tmp_path}/11", None),
    ]


def test_columns_never_take_the_place_of_an_index_s_own(tmp_path: Path) -> None:
    fill(tmp_path, "a")
    names = ["content", "state", "list.state", "list.list.state", "caption", "json", "listed"]
    place = parquet(tmp_path / "x.parquet", path=["a"], **{name: [f"of {name}"] for name in names})
    renamed = ("content", "state", "list.state", "list.list.state")
    assert extras(place) == [{f"list.{n}" if n in renamed else n: f"of {n}" for n in names}]


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="/\0\r\n:"), min_size=1, max_size=40)
ROWS = st.lists(
    st.tuples(
        NAMES, st.none() | st.text(max_size=5), st.none() | st.text(max_size=5), st.none() | st.integers(0, 9)
    ),
    min_size=1,
    unique_by=lambda row: row[0],
)


@given(ROWS, st.integers(1, 5))
def test_any_rows_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str | None, str | None, int | None]],
    size: int,
) -> None:
    place = tmp_path_factory.mktemp("list")
    paths, labels, whos, years = map(list, zip(*rows, strict=True))
    columns = {
        "path": pa.array(paths),
        "label": pa.array(labels, pa.string()),
        "who": pa.array(whos, pa.string()),
        "year": pa.array(years, pa.int8()),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(folder_walk, "PART_SIZE", size)
        source = open_source(parquet(place / "x.parquet", **columns))
    assert [part.size for part in source.parts[:-1]] == [size] * (len(source.parts) - 1)
    for i, item in enumerate(read(pickle.loads(pickle.dumps(source)))):
        assert item.key == paths[i]  # Not one of these files is there.
        assert isinstance(item, Failure)
    existing = [path for path in paths if path not in (".", "..") and len(path.encode()) < 200]
    for path in existing:
        (place / path).write_bytes(b"x")
    found = [item for item in read(source) if isinstance(item, Sample)]
    assert [item.key for item in found] == existing
    for item in found:
        _, label, who, year = rows[paths.index(item.key)]
        said = {"who": who, "year": None if year is None else str(year)}
        assert (item.label, item.extra) == (label or None, {k: v for k, v in said.items() if v is not None})
        assert item.data == b"x"


@given(st.lists(NAMES.filter(str.strip), min_size=1, unique=True), st.sampled_from(["\n", "\r\n", "\n\n \n"]))
def test_any_lines_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], end: str
) -> None:
    """Whatever else Unicode takes for the end of a line."""
    place = text(tmp_path_factory.mktemp("list") / "x.txt", end.join(["\ufeff" + lines[0], *lines[1:]]))
    assert [item.key for item in read(place)] == lines


# --- parts ---


def test_parts_are_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 3)
    names = ["4", "2", "6", "0", "5", "1", "3"]
    fill(tmp_path, *names)
    parts = open_source(text(tmp_path / "x.txt", "\n".join(names))).parts
    assert [(part.name, part.size) for part in parts] == [
        ("images 0-2", 3),
        ("images 3-5", 3),
        ("images 6-6", 1),
    ]
    assert [[item.key for item in part.read()] for part in parts] == [names[:3], names[3:6], names[6:]]
    assert list(parts[0].read()) == list(parts[0].read())


def test_a_part_that_is_sent_to_a_worker_takes_its_own_rows_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 10)
    place = parquet(tmp_path / "x.parquet", path=[f"{i:0100}" for i in range(1000)])
    parts = open_source(place).parts
    assert len(pickle.dumps(parts[0])) < 10_000
    assert list(pickle.loads(pickle.dumps(parts[50])).read()) == list(parts[50].read())


def test_fingerprints_change_with_rows_and_files_of_their_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 2)
    fill(tmp_path, "a", "b", "c")
    columns: dict[str, list[Any]] = {
        "path": ["a", "b", "c"],
        "key": ["0", "1", "2"],
        "label": ["x", "y", None],
        "year": [1, None, 3],
    }

    def prints(**changes: list[Any]) -> list[str]:
        return [
            p.fingerprint for p in open_source(parquet(tmp_path / "x.parquet", **columns | changes)).parts
        ]

    first, second = prints()
    assert prints() == [first, second]
    assert prints(more=[None, None, None]) != [first, second]
    seen = {first}
    for changes in (
        {"path": ["a", "c", "c"]},
        {"path": ["a", "./b", "c"]},
        {"key": ["0", "1b", "2"]},
        {"label": ["x", "z", None]},
        {"label": ["x", None, None]},
        {"year": [1, 2, 3]},
        {"year": [None, 1, 3]},
    ):
        one, other = prints(**changes)
        assert one not in seen
        assert other == second
        seen.add(one)
    os.utime(tmp_path / "c", ns=(0, 1))
    assert prints()[0] == first
    assert prints()[1] != second
    (tmp_path / "b").unlink()
    assert prints()[0] not in seen


def test_what_cannot_be_read_stops_nothing(tmp_path: Path) -> None:
    fill(tmp_path, "good.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "broken.jpg").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo.jpg")
    names = [
        "empty.jpg",
        "folder.jpg",
        "broken.jpg",
        "fifo.jpg",
        "a\0b",
        "n" * 300,
        ".",
        "good.jpg/x",
        "good.jpg",
    ]
    *failures, good = read(parquet(tmp_path / "x.parquet", path=names))
    assert [(item.key, item.reason) for item in failures if isinstance(item, Failure)] == [
        ("empty.jpg", "empty file (0 bytes)"),
        ("folder.jpg", "is a directory"),
        ("broken.jpg", "broken symlink"),
        ("fifo.jpg", "not a regular file (FIFO)"),
        ("a\0b", "embedded null byte"),
        ("n" * 300, "cannot be opened: File name too long"),
        (".", "is a directory"),
        ("good.jpg/x", "cannot be opened: Not a directory"),
    ]
    assert isinstance(good, Sample)


# --- lists that are none ---


@pytest.mark.parametrize("content", [b"", b"\n\r\n  \n", b"\xef\xbb\xbf", b"\t\n"])
def test_text_without_entries(tmp_path: Path, content: bytes) -> None:
    assert "no entries" in refused(text(tmp_path / "x.txt", content))


@pytest.mark.parametrize(
    "content",
    [
        b"\x89PNG\r\n\x1a\n\0\0",
        b"a.jpg\ncaf\xe9.jpg",
        "a.jpg".encode("utf-16"),
        b"a" * 9000 + b"\0",
        b"\xed\xa0\x80",
    ],
)
def test_text_that_is_none(tmp_path: Path, content: bytes) -> None:
    assert "not UTF-8 text; a text list holds one path a line" in refused(text(tmp_path / "x.lst", content))


@pytest.mark.parametrize(
    "columns, message",
    [
        (
            {"file_": ["a"], "id": [1]},
            "no column of paths among 'file_', 'id'; call it one of path, image_path,",
        ),
        (
            {"url": ["a"]},
            "file_path, filepath, file_name, filename, file, image_file, image_name, img_name, image",
        ),
        ({"path": pa.array([], pa.string())}, "no entries"),
        ({"path": pa.nulls(0)}, "no entries"),
        ({"path": ["a", None]}, "entry 2 has no path"),
        ({"path": ["", "a"]}, "entry 1 has no path"),
        ({"path": ["a", "b"], "key": ["x", None]}, "entry 2 has no key"),
        ({"path": ["a", "b"], "key": ["", "x"]}, "entry 1 has no key"),
        ({"path": ["a", "b", "a"]}, "the key 'a' comes twice"),
        ({"path": ["a", "b", "c"], "key": [1, 2, 2]}, "the key '2' comes twice"),
        ({"path": ["a"], "": ["b"]}, "a column has no name"),
        ({"path": ["a"], "pixels": [b"\xff\xd8"]}, "column 'pixels' holds what has no form as text"),
        ({"path": ["a"], "x": [{"bytes": b"", "id": 1}]}, "column 'x' holds what has no form as text"),
        ({"path": ["a"], "hash": pa.array([b"abcd"], pa.binary(4))}, "column 'hash' holds what has no form"),
        (
            {"path": ["a"], "t": pa.array([[2**60]], pa.list_(pa.timestamp("ms")))},
            "column 't' holds what has no",
        ),
    ],
    ids=range(15),
)
def test_parquet_that_is_no_list(tmp_path: Path, columns: dict[str, Any], message: str) -> None:
    assert message in refused(parquet(tmp_path / "x.parquet", **columns))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["path", "b", "b"])
    pq.write_table(table, tmp_path / "x.parquet")
    assert "two columns are called 'b'" in refused(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    "path",
    [
        "pipe:touch marker",
        " pipe:touch marker",
        "https://example.org/a.jpg",
        "s3://b/a.jpg",
        "file:a.jpg",
        "a::pipe:x",
        "torchvision:cifar10",
        "pipe:a\nb",
    ],
)
def test_a_scheme_anywhere_refuses_the_list(
    tmp_path: Path, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fill(tmp_path, "a.jpg")
    assert "is not read; understood are" in refused(parquet(tmp_path / "x.parquet", path=["a.jpg", path]))
    assert "is not read; understood are" in refused(text(tmp_path / "x.txt", f"a.jpg\n{path}\n"))
    assert not (tmp_path / "marker").exists()


def test_a_list_that_is_not_there_or_no_file(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "x.parquet")
    os.mkfifo(tmp_path / "x.txt")
    assert "not a regular file (FIFO)" in refused(tmp_path / "x.txt")
    (tmp_path / "y.lst").symlink_to("nowhere")
    assert "no such file or folder" in refused(tmp_path / "y.lst")


def test_damaged_parquet_is_refused_or_read_never_anything_else(tmp_path: Path) -> None:
    """Every length that it can be cut to, and every byte of it flipped."""
    place = tmp_path / "x.parquet"
    columns = {"path": ["a", "b"], "year": [1, None], "deep": [[{"a": "x"}], []]}
    pq.write_table(pa.table(columns), place, write_page_checksum=True, store_schema=False)
    whole = place.read_bytes()
    for length in range(len(whole)):
        place.write_bytes(whole[:length])
        assert "not a parquet file, or a damaged one" in refused(place)
    random = np.random.default_rng(0)
    for at in range(len(whole)):
        place.write_bytes(whole[:at] + bytes([whole[at] ^ int(random.integers(1, 256))]) + whole[at + 1 :])
        with contextlib.suppress(ImageSourceError):
            assert all(item.key.encode() for item in read(place))
