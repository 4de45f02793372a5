"""What no crash leaves behind: files that somebody has changed, with a manifest sealed to fit."""

import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import faiss
import numpy as np
import pytest
from entries import vectors_of
from hypothesis import given, settings
from hypothesis import strategies as st
from resealed import reseal as seal
from small_index import build, rows_of

from indexes import FileEntry, Index, IndexDamagedError, verify
from indexes.directory import change
from indexes.disk import rows
from indexes.disk.manifest import read_manifest
from indexes.disk.vectors import mapped, read_vectors


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Six rows, of which two are removed."""
    path = build(tmp_path / "x.index", rows_of("a", 3), rows_of("b", 3))
    change.remove(path, lambda index: index.with_keys(["a:1", "b:2"]), command="")
    return path


def refused(path: Path, match: str = "") -> None:
    with pytest.raises(IndexDamagedError, match=match) as caught:
        Index.open(path)
    assert "\n" not in str(caught.value)


def npy(descr: str, shape: str, data: bytes, *, version: int = 1) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    size = (len(header) + 1).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header + b"\n" + data


def test_sealing_again_is_no_damage(out: Path) -> None:
    seal(out)
    assert verify(out) == []
    assert len(Index.open(out)) == 4


def saved(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=True)


def written(raw: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        path.write_bytes(raw)

    return write


@pytest.mark.parametrize(
    "write",
    [
        saved(np.array([1], np.int64)),
        saved(np.array([1, 3, 5], np.int64)),
        saved(np.array([[1], [5]], np.int64)),
        saved(np.array(5, np.int64)),
        saved(np.array([1, 5], np.int32)),
        saved(np.array([1, 5], np.uint64)),
        saved(np.array([1, 5], ">i8")),
        saved(np.array([1.0, 5.0])),
        saved(np.array([True, True])),
        saved(np.array(["1", "5"])),
        saved(np.array([1, 5], "M8[s]")),
        saved(np.array([(1,), (5,)], [("a\nb", np.int64)])),
        saved(np.array([1, 6], np.int64)),
        saved(np.array([-1, 5], np.int64)),
        saved(np.array([-(2**63), 2**63 - 1], np.int64)),
        saved(np.array([5, 1], np.int64)),
        saved(np.array([1, 1], np.int64)),
        written(b""),
        written(npy("'<i8'", "(2,)", bytes(15))),
        written(npy("'<i8'", "(2,)", np.array([1, 5, 0], np.int64).tobytes())),
        written(npy("'<i8'", "(2)", bytes(16))),
        written(npy("'<i8'", "(-2,)", bytes(16))),
        written(npy("'<i8'", "(1000000000000,)", bytes(16))),
        written(npy("'<i8'", "(4611686018427387904,)", b"")),
        written(npy("'<i8'", f"({10**40},)", bytes(16))),
        written(npy("'|V0'", "(-1,)", bytes(80))),  # numpy's own reader ends the process
        written(npy("'<i8'", "(True,)", bytes(8))),
        written(npy("[" * 5000, "(2,)", bytes(16))),
        written(npy("'<i8'", "(2,)" + " " * 60_000, bytes(16))),
        written(npy("'<i8'", "(2,)", bytes(16), version=2)),
        written(npy("__import__('os').abort()", "(2,)", bytes(16))),
    ],
)
def test_removed_rows_that_are_none(out: Path, write: Callable[[Path], None]) -> None:
    write(out / "removed.npy")
    seal(out)
    refused(out, "removed.npy")


def test_pickle_of_removed_rows_is_not_run(out: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
            return (Path.touch, (tmp_path / "exploded",))

    np.save(out / "removed.npy", np.array([Bomb(), Bomb()], dtype=object), allow_pickle=True)
    seal(out)
    refused(out, "removed.npy")
    (out / "removed.npy").write_bytes(pickle.dumps(Bomb()))
    seal(out)
    refused(out, "removed.npy")
    assert not (tmp_path / "exploded").exists()


HEADER = npy("'<f2'", "(2, 8)", b"")


@settings(max_examples=300)
@given(data=st.data())
def test_any_other_header_is_read_as_it_says_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.npy"
    raw = bytearray(HEADER)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(6, len(raw) - 1))
        raw[place] = data.draw(
            st.one_of(st.integers(0, 255), st.sampled_from(b"()[]{}'\\#,: 0123456789-fiuOVLx"))
        )
    path.write_bytes(bytes(raw) + bytes(32))
    with suppress(IndexDamagedError):
        array = mapped(path)
        assert array.nbytes == path.stat().st_size - len(raw)
        assert array.dtype.kind in "biuf"


def test_header_of_older_and_of_column_wise_files_is_read(tmp_path: Path) -> None:
    array = np.arange(16, dtype=np.float16).reshape(2, 8)
    for name, each in {
        "c": array,
        "f": np.asfortranarray(array),
        "one": array[:1],
        "none": array[:0],
    }.items():
        with (tmp_path / name).open("wb") as file:
            np.lib.format.write_array(file, each, allow_pickle=False)
        np.testing.assert_array_equal(read_vectors(tmp_path / name, 8), each)


def test_rows_that_are_cut_short(out: Path) -> None:
    whole = (out / "rows.parquet").read_bytes()
    for length in range(0, len(whole), 13):
        (out / "rows.parquet").write_bytes(whole[:length])
        seal(out)
        refused(out, "rows.parquet")


def test_rows_of_another_index(out: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other.index", rows_of("c", 5))
    (out / "rows.parquet").write_bytes((other / "rows.parquet").read_bytes())
    seal(out)
    refused(out, "5 rows where its manifest says 6")
    rows.write_table(out / "rows.parquet", rows.failures_table([("a", "b")] * 6))
    seal(out)
    refused(out, "does not hold the columns key, path, label")


def test_faiss_file_of_another_index(out: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other.index", rows_of("c", 6))
    assert (other / "index.faiss").stat().st_size == (out / "index.faiss").stat().st_size
    (out / "index.faiss").write_bytes((other / "index.faiss").read_bytes())
    refused(out, "index.faiss is missing or damaged")


@pytest.mark.parametrize(
    "factory, dim, count, metric",
    [
        ("Flat", 8, 5, faiss.METRIC_INNER_PRODUCT),
        ("Flat", 9, 6, faiss.METRIC_INNER_PRODUCT),
        ("Flat", 8, 6, faiss.METRIC_L2),
    ],
)
def test_faiss_file_that_is_no_such_index(out: Path, factory: str, dim: int, count: int, metric: int) -> None:
    index = faiss.index_factory(dim, factory, metric)
    index.add(np.ones((count, dim), np.float32))
    faiss.write_index(index, str(out / "index.faiss"))
    seal(out)
    refused(out, "index.faiss")


@pytest.mark.parametrize("name", ["../x.index/rows.parquet", "/etc/passwd", "vectors/../../secret", "..", ""])
def test_manifest_that_leads_out_of_its_directory(out: Path, name: str) -> None:
    entry = FileEntry(bytes=1, sha256="0" * 64, rows=1)
    manifest = read_manifest(out)
    manifest.files[name] = entry
    (out / "manifest.json").write_bytes(manifest.to_json())
    refused(out, "leaves the index")
    assert len(verify(out)) == 1


@pytest.mark.parametrize(
    "name",
    [
        "index.faiss",
        "rows.parquet",
        "failures.parquet",
        "removed.npy",
    ],
)
def test_manifest_that_leaves_a_file_out(out: Path, name: str) -> None:
    manifest = read_manifest(out)
    del manifest.files[name]
    (out / "manifest.json").write_bytes(manifest.to_json())
    refused(out, f"manifest.json does not list {name}")


@pytest.mark.parametrize("number", [0, 1])
def test_manifest_that_leaves_vectors_out(out: Path, number: int) -> None:
    manifest = read_manifest(out)
    del manifest.files[f"vectors/part-0000{number}.npy"]
    (out / "manifest.json").write_bytes(manifest.to_json())
    with pytest.raises(IndexDamagedError, match="3 vectors where its manifest says 6"):
        Index.open(out).search(np.ones((1, 8)), 2)


def test_vectors_that_are_fewer_than_the_manifest_says(out: Path, tmp_path: Path) -> None:
    other = build(tmp_path / "other.index", rows_of("c", 2))
    (out / "vectors" / "part-00000.npy").write_bytes((other / "vectors" / "part-00000.npy").read_bytes())
    seal(out)
    with pytest.raises(IndexDamagedError, match="5 vectors where its manifest says 6"):
        vectors_of(Index.open(out))
