"""Parquet files that hold images themselves, as Hugging Face's data sets do."""

import json
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from entries import keys_of, labels_of, paths_of
from small_lists import fill, read, refused
from small_world import files_of, picture
from watched import logged

from indexes import Index
from retrieval import Encoder, build_index, open_source
from retrieval.errors import ImageSourceError
from retrieval.hits import Hit
from retrieval.showing.thumbnail import thumbnail
from retrieval.sources import folder_walk
from retrieval.sources.embedded import embedded_parts
from retrieval.sources.originals import everything, originals
from retrieval.sources.sample import Failure, Sample
from retrieval.upkeep.known_files import Known

PLAIN: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
KIND = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def held(
    place: Path, images: list[Any], *, rows_a_group: int = 2, kind: pa.DataType = KIND, **more: Any
) -> Path:
    table = pa.table({"image": pa.array(images, kind), **more})
    pq.write_table(table, place, row_group_size=rows_a_group, compression="none")
    return place


def keys(place: Path) -> list[str]:
    return [item.key for item in read(place)]


@pytest.fixture
def photos(corpus: Path, tmp_path: Path) -> Path:
    """Five images of a corpus in one file."""
    images = [
        {"bytes": file.read_bytes(), "path": f"{file.parent.name}-{file.name}"}
        for file in files_of(corpus)[:5]
    ]
    return held(tmp_path / "photos.parquet", images, label=["blue"] * 5)


def test_images_are_called_after_the_list_and_their_paths(tmp_path: Path) -> None:
    images = [
        {"bytes": b"1", "path": "a/1.jpg"},
        {"bytes": b"2", "path": "2.jpg"},
        {"bytes": b"3", "path": "é"},
    ]
    place = held(tmp_path / "x.parquet", images, label=["cat", None, ""], year=[1, None, 3])
    source = open_source(place)
    assert source.size == 3
    assert read(source) == [
        Sample("x.parquet:a/1.jpg", str(place), "cat", {"year": "1"}, b"1"),
        Sample("x.parquet:2.jpg", str(place), None, {}, b"2"),
        Sample("x.parquet:é", str(place), None, {"year": "3"}, b"3"),
    ]


def test_a_list_of_paths_holds_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"path": ["a.png"]}), tmp_path / "x.parquet")
    with pytest.raises(ImageSourceError, match="no column holds images; it is a list of files"):
        embedded_parts(tmp_path / "x.parquet")
    assert list(everything(str(tmp_path / "x.parquet"))) == []


@pytest.mark.parametrize("paths", [[None, None, None], ["a", None, "b"], ["a", "b", "a"]])
def test_or_their_numbers_where_paths_do_not_tell_them_apart(tmp_path: Path, paths: list[str | None]) -> None:
    place = held(tmp_path / "x.parquet", [{"bytes": b"1", "path": path} for path in paths])
    assert keys(place) == ["x.parquet:0", "x.parquet:1", "x.parquet:2"]


def test_or_the_list_s_own_keys(tmp_path: Path) -> None:
    images = [{"bytes": b"1", "path": "a"}, {"bytes": b"2", "path": "b"}]
    place = held(tmp_path / "x.parquet", images, key=["k", "l"], path=["p", "q"])
    assert read(place)[0] == Sample("x.parquet:k", str(place), None, {"list.path": "p"}, b"1")
    assert "the key 'x.parquet:k' comes twice" in refused(
        held(tmp_path / "x.parquet", images, key=["k", "k"])
    )
    assert "entry 2 has no key" in refused(held(tmp_path / "x.parquet", images, key=["k", None]))


@pytest.mark.parametrize(
    "kind",
    [
        pa.struct([("bytes", pa.binary())]),
        pa.struct([("bytes", pa.large_binary()), ("path", pa.large_string())]),
        pa.struct([("path", pa.string()), ("bytes", pa.binary())]),
    ],
)
def test_kinds_of_columns(tmp_path: Path, kind: pa.DataType) -> None:
    place = held(tmp_path / "x.parquet", [{"bytes": b"1"}, {"bytes": b"2"}, {"bytes": b"3"}], kind=kind)
    assert [item.data for item in read(place) if isinstance(item, Sample)] == [b"1", b"2", b"3"]


def test_the_names_of_hugging_face_s_classes(tmp_path: Path) -> None:
    features = {
        "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        "n": {"dtype": "int64", "_type": "Value"},
    }
    table = pa.table(
        {"image": pa.array([{"bytes": b"x"}] * 4, KIND), "label": [1, 0, -1, None], "n": [1, 0, 1, 0]}
    )

    def labels(metadata: bytes) -> list[str | None]:
        pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), tmp_path / "x.parquet")
        return [item.label for item in read(tmp_path / "x.parquet") if isinstance(item, Sample)]

    assert labels(json.dumps({"info": {"features": features}}).encode()) == ["dog", "cat", None, None]
    for nonsense in (
        b"",
        b"{",
        b"[]",
        b'{"info": {"features": {"label": {"names": [1], "_type": "ClassLabel"}}}}',
    ):
        assert labels(nonsense) == ["1", "0", "-1", None]


def test_what_is_no_image_fails_by_name(tmp_path: Path) -> None:
    fill(tmp_path, "there.jpg")
    images = [
        {"bytes": b"1", "path": None},
        {"bytes": b"", "path": None},
        {"bytes": None, "path": None},
        None,
        {"bytes": None, "path": "there.jpg"},
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": b"2", "path": None},
    ]
    place = held(tmp_path / "x.parquet", images)
    name = "x.parquet:"
    assert read(place) == [
        Sample(f"{name}0", str(place), None, {}, b"1"),
        Failure(f"{name}1", "empty file (0 bytes)"),
        Failure(f"{name}2", "no image in this row"),
        Failure(f"{name}3", "no image in this row"),
        Sample(f"{name}4", f"{tmp_path}/there.jpg", None, {}, b"there.jpg"),
        Failure(f"{name}5", "no such file"),
        Sample(f"{name}6", str(place), None, {}, b"2"),
    ]


def test_parts_are_whole_row_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_walk, "PART_SIZE", 5)
    place = held(tmp_path / "x.parquet", [{"bytes": bytes([n])} for n in range(17)], rows_a_group=3)
    parts = open_source(place).parts
    assert [(part.name, part.size) for part in parts] == [
        ("images 0-5", 6),
        ("images 6-11", 6),
        ("images 12-16", 5),
    ]
    assert [item.data for part in parts for item in part.read()] == [bytes([n]) for n in range(17)]
    again = pickle.loads(pickle.dumps(parts[1]))
    assert list(again.read()) == list(parts[1].read())
    before = [part.fingerprint for part in parts]
    assert len(set(before)) == 3
    assert [part.fingerprint for part in open_source(place).parts] == before
    held(place, [{"bytes": bytes([n + 1])} for n in range(17)], rows_a_group=3)
    assert {part.fingerprint for part in open_source(place).parts} & set(before) == set()


def test_a_large_row_group_is_not_held_in_memory(tmp_path: Path) -> None:
    images = [{"bytes": np.random.default_rng(n).bytes(2**20)} for n in range(96)]
    table = pa.table({"image": pa.array(images, KIND)})
    pq.write_table(table, tmp_path / "x.parquet", **PLAIN, write_batch_size=1, data_page_size=2**20)
    del images, table
    (part,) = open_source(tmp_path / "x.parquet").parts
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    most = max(pa.total_allocated_bytes() - before for _ in part.read()) + tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 24 * 2**20


def test_of_a_damaged_row_group_every_image_is_a_failure_and_the_others_are_read(tmp_path: Path) -> None:
    images = [{"bytes": bytes([n]) * 1000, "path": f"{n}"} for n in range(6)]
    place = tmp_path / "x.parquet"
    table = pa.table({"image": pa.array(images, KIND)})
    pq.write_table(table, place, row_group_size=2, **PLAIN, write_page_checksum=True)
    data = bytearray(place.read_bytes())
    data[data.index(bytes([3]) * 1000)] ^= 1
    place.write_bytes(data)
    items = read(place)
    assert [item.key for item in items] == [f"x.parquet:{n}" for n in range(6)]
    failed = [item for item in items if isinstance(item, Failure)]
    assert [item.key for item in failed] == ["x.parquet:2", "x.parquet:3"]
    assert all(item.reason.startswith("damaged parquet file (") for item in failed)


def test_a_file_that_vanishes_or_shrinks_after_it_was_opened(tmp_path: Path) -> None:
    place = held(tmp_path / "x.parquet", [{"bytes": b"1"}, {"bytes": b"2"}, {"bytes": b"3"}])
    (part,) = open_source(place).parts
    held(place, [{"bytes": b"1"}], rows_a_group=1)
    items = list(part.read())
    assert items[1] == Failure("x.parquet:1", "the row group ends before this row")
    assert isinstance(items[2], Failure)
    place.unlink()
    assert list(part.read()) == [Failure(f"x.parquet:{n}", "no such file") for n in range(3)]


# --- as rows of an index ---


def test_rows_are_found_again_and_known(photos: Path, corpus: Path, encoder: Encoder, tmp_path: Path) -> None:
    build_index(open_source(photos), encoder, tmp_path / "i")
    index, files = Index.open(tmp_path / "i"), files_of(corpus)[:5]
    assert keys_of(index) == [f"photos.parquet:{file.parent.name}-{file.name}" for file in files]
    assert labels_of(index) == ["blue"] * 5
    assert set(paths_of(index)) == {str(photos)}
    found = dict(originals(str(photos), keys_of(index)[1:3]))
    assert found == {
        key: file.read_bytes() for key, file in zip(keys_of(index)[1:3], files[1:3], strict=True)
    }
    assert [data for _, data in everything(str(photos))] == [file.read_bytes() for file in files]
    hit = Hit(keys_of(index)[4], 1.0, None, str(photos))
    assert thumbnail(hit) is not None
    assert hit.location == f"{photos}:{files[4].parent.name}-{files[4].name}"
    for check_content in (False, True):
        known = Known(index, check_content=check_content)
        assert open_source(photos, known=known.unchanged).parts == ()
        assert known.skipped == 1
    held(photos, [{"bytes": files[0].read_bytes(), "path": "x"}])
    for check_content in (False, True):
        source = open_source(photos, known=Known(index, check_content=check_content).unchanged)
        assert [item.key for part in source.parts for item in part.read()] == ["photos.parquet:x"]


BY_BOTH = pytest.mark.parametrize("check_content", [False, True])


@pytest.fixture
def mixed(corpus: Path, tmp_path: Path) -> Path:
    """Eight images of a corpus: of every group of three one is a file beside the list, called n.png."""
    images = []
    for n, file in enumerate(files_of(corpus)[:8]):
        if n % 3 == 1:
            (tmp_path / f"{n}.png").write_bytes(file.read_bytes())
        images.append({"bytes": None if n % 3 == 1 else file.read_bytes(), "path": f"{n}.png"})
    return held(tmp_path / "mixed.parquet", images, rows_a_group=3)


def changed(index: Path, place: Path, *, check_content: bool = False) -> list[str]:
    known = Known(Index.open(index), check_content=check_content)
    return [item.key for part in open_source(place, known=known.unchanged).parts for item in part.read()]


@BY_BOTH
def test_files_that_a_list_names_beside_the_images_it_holds_follow_their_own_changes(
    mixed: Path, encoder: Encoder, tmp_path: Path, check_content: bool
) -> None:
    build_index(open_source(mixed), encoder, tmp_path / "i")
    before = Index.open(tmp_path / "i").entries(["key", "path", "content"]).to_pylist()
    assert len(before) == 8
    known = Known(Index.open(tmp_path / "i"), check_content=check_content)
    assert open_source(mixed, known=known.unchanged).parts == ()
    assert known.skipped == 4  # the list, and three files
    picture("blue", 77).save(tmp_path / "4.png")
    known = Known(Index.open(tmp_path / "i"), check_content=check_content)
    source = open_source(mixed, known=known.unchanged)
    assert source.size == 1
    assert [item.key for part in source.parts for item in part.read()] == ["mixed.parquet:4.png"]
    build_index(source, encoder, tmp_path / "i", extends=True)
    after = Index.open(tmp_path / "i").entries(["key", "path", "content"]).to_pylist()
    assert [row for row in before if row not in after] == [before[4]]
    assert sorted(row["key"] for row in after) == sorted(row["key"] for row in before)
    assert changed(tmp_path / "i", mixed, check_content=check_content) == []


@BY_BOTH
def test_of_a_list_that_holds_no_image_only_what_changed_is_read_again(
    mixed: Path, encoder: Encoder, tmp_path: Path, check_content: bool
) -> None:
    files = [str(tmp_path / f"{n}.png") for n in (1, 4, 7)]
    held(mixed, [{"bytes": None, "path": file} for file in files], rows_a_group=2)
    build_index(open_source(mixed), encoder, tmp_path / "i")
    assert changed(tmp_path / "i", mixed, check_content=check_content) == []
    picture("blue", 77).save(tmp_path / "4.png")
    assert changed(tmp_path / "i", mixed, check_content=check_content) == [f"mixed.parquet:{files[1]}"]


def test_without_statistics_rows_tell_themselves_which_hold_images(
    mixed: Path, encoder: Encoder, tmp_path: Path
) -> None:
    pq.write_table(pq.read_table(mixed), mixed, row_group_size=3, **PLAIN)
    build_index(open_source(mixed), encoder, tmp_path / "i")
    assert changed(tmp_path / "i", mixed) == []
    picture("blue", 77).save(tmp_path / "4.png")
    (tmp_path / "7.png").unlink()
    assert changed(tmp_path / "i", mixed) == ["mixed.parquet:4.png", "mixed.parquet:7.png"]


def test_a_file_of_the_name_of_an_image_that_a_list_holds_is_none_of_its_own(
    mixed: Path, encoder: Encoder, tmp_path: Path
) -> None:
    build_index(open_source(mixed), encoder, tmp_path / "i")
    picture("blue", 77).save(tmp_path / "3.png")
    assert changed(tmp_path / "i", mixed) == []


@BY_BOTH
def test_all_of_a_list_that_changed_is_read_again(
    mixed: Path, encoder: Encoder, tmp_path: Path, check_content: bool
) -> None:
    """Those files, too, that did not: where images are called by numbers, they may have others now."""
    build_index(open_source(mixed), encoder, tmp_path / "i")
    images = pq.read_table(mixed)["image"].to_pylist()
    held(mixed, images[1:])
    assert len(changed(tmp_path / "i", mixed, check_content=check_content)) == 7


def test_parts_are_done_again_where_a_file_that_they_name_changed(mixed: Path, tmp_path: Path) -> None:
    before = [part.fingerprint for part in open_source(mixed).parts]
    assert [part.fingerprint for part in open_source(mixed).parts] == before
    picture("blue", 77).save(tmp_path / "4.png")
    assert [part.fingerprint for part in open_source(mixed).parts] != before


def test_what_a_list_names_is_not_among_what_it_holds(mixed: Path, tmp_path: Path) -> None:
    assert [key for key, _ in everything(str(mixed))] == [f"mixed.parquet:{n}.png" for n in (0, 2, 3, 5, 6)]
    assert [key for key, _ in originals(str(tmp_path / "4.png"), ["mixed.parquet:4.png"])] == [
        "mixed.parquet:4.png"
    ]


def test_our_own_export_is_a_list(matvit_index: Callable[[], Path], corpus: Path) -> None:
    place = matvit_index()
    items = read(place)
    assert [(item.key, item.label) for item in items if isinstance(item, Sample)] == [
        (f"{file.parent.name}/{file.name}", file.parent.name) for file in files_of(corpus)
    ]


@pytest.fixture
def matvit_index(index: Path, tmp_path: Path) -> Callable[[], Path]:
    from indexes.directory.export import export

    def exported() -> Path:
        export(Index.open(index), tmp_path / "e")
        return tmp_path / "e" / "metadata" / "metadata_0.parquet"

    return exported


def test_two_files_of_one_name(photos: Path, encoder: Encoder, tmp_path: Path) -> None:
    build_index(open_source(photos), encoder, tmp_path / "i")
    (tmp_path / "more").mkdir()
    images = [{"bytes": item.data, "path": item.key} for item in read(photos)[:2] if isinstance(item, Sample)]
    more = held(tmp_path / "more" / photos.name, images)
    with logged("retrieval") as notes:
        build_index(open_source(more), encoder, tmp_path / "i", extends=True)
    assert "from now on, keys of" in notes[0]
    index = Index.open(tmp_path / "i")
    (prefix,) = index.manifest.key_prefixes.values()
    row = paths_of(index).index(str(more))
    assert keys_of(index)[row].startswith(f"{prefix}photos.parquet:")
    hit = Hit(keys_of(index)[row], 1.0, None, str(more))
    assert thumbnail(hit) is not None
    assert hit.location == f"{more}:{images[0]['path']}"
