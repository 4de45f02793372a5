"""What a stranger can put into an index: any value in a manifest, any table, each with a seal that fits."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from resealed import GOLDEN, GOLDEN_2, JSON, NASTY, paths_of, put, reseal
from small_index import DIM, Row, build, bytes_of, fill, origin, rows_of

from indexes import Index, IndexDamagedError, IndexWriter, Manifest, verify
from indexes.directory import change
from indexes.directory.numbered_rows import NumberedRows
from indexes.disk import rows
from indexes.disk.manifest import _sealed, read_manifest
from indexes.disk.vectors import write_vectors

QUERY = np.ones((1, DIM), np.float32)


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GOLDEN, tmp_path / "x.index"))


def body_of(path: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((path / "manifest.json").read_bytes())
    del body["manifest_sha256"]
    return body


# --- an index of format 1 stays what it was ---


def test_a_golden_index_opens_as_the_program_that_made_it_left_it(golden: Path) -> None:
    raw = (golden / "manifest.json").read_bytes()
    assert verify(golden) == []
    index, opened = Index.open(golden), NumberedRows.open(golden)
    assert opened.rows.select(["key", "path", "label"]).to_pydict() == {
        "key": ["a.tar:0", "a.tar:1", "b.tar:0"],
        "path": ["/a.tar", "/a.tar", "/b.tar"],
        "label": ["cat", "cat", "dog"],
    }
    assert opened.removed.tolist() == [1]
    assert index.entries()["key"].to_pylist() == ["a.tar:0", "b.tar:0"]
    assert {entry.key for entry in index.search(QUERY, 3).entries[0]} == {"a.tar:0", "b.tar:0"}
    assert rows.read_failures(golden / "failures.parquet").to_pylist() == [
        {"key": "b.tar:9", "reason": "truncated image"}
    ]
    body, again = json.loads(raw), json.loads(index.manifest.to_json())
    assert again["model"].pop("projection") is None  # which format 1 did not know
    assert {name: again[name] for name in body if name != "manifest_sha256"} == {
        name: value for name, value in body.items() if name != "manifest_sha256"
    }
    vectors_ND = np.array([row.vector for row in (*rows_of("a.tar", 2), *rows_of("b.tar", 1))], np.float32)
    np.testing.assert_array_equal(opened.vectors.take(np.arange(3)), vectors_ND)


@pytest.mark.parametrize(
    "lacks", [["calibration"], ["calibration", "refits"], ["files", "rows.parquet", "ends_sha256"]]
)
def test_what_older_manifests_lack_need_not_be_there(golden: Path, lacks: list[str]) -> None:
    body = place = body_of(golden)
    for name in lacks[:-1]:
        place = place[name]
    del place[lacks[-1]]
    (golden / "manifest.json").write_bytes(_sealed(body))
    assert len(Index.open(golden)) == 2
    change.remove(golden, lambda index: index.with_keys(["b.tar:0"]), command="")
    assert len(Index.open(golden)) == 1


# --- values of a manifest ---


@pytest.mark.parametrize(
    "path, value",
    [
        (("ntotal",), 3.0),
        (("ntotal",), True),
        (("ntotal",), "3"),
        (("ntotal",), -3),
        (("ntotal",), 2**70),
        (("removed",), 4),  # of three
        (("removed",), 1.0),
        (("classes",), 5),
        (("classes",), "cat"),
        (("classes",), ["cat", None]),
        (("sources",), 5),
        (("sources",), {"a": "b"}),
        (("sources",), [["photos"]]),
        (("rerank",), "5"),
        (("rerank",), -1),
        (("recall",), 1.5),
        (("recall_target",), "0.95"),
        (("query_ms",), -1),
        (("bytes_per_vector",), None),
        (("parameters",), []),
        (("factory",), None),
        (("metric",), "euclidean"),
        (("created",), 2026),
        (("command",), None),
        (("calibration",), []),
        (("calibration",), {}),
        (("calibration",), "M"),
        (("calibration",), {"submodel": "M"}),
        (("calibration", "submodel"), 5),
        (("calibration", "max_drop"), "0.5"),
        (("calibration", "rows"), 2.0),
        (("calibration", "refits"), "none"),
        (("calibration", "more"), 1),
        (("files", "rows.parquet", "bytes"), "x"),
        (("files", "rows.parquet", "bytes"), 1406.0),
        (("files", "rows.parquet", "rows"), -3),
        (("files", "rows.parquet", "sha256"), "no hex"),
        (("files", "rows.parquet", "sha256"), "0" * 63),
        (("files", "rows.parquet", "sha256"), "0" * 64 + "\n"),
        (("files", "rows.parquet", "mode"), 7),
        (("files", "rows.parquet"), [1406]),
        (("files",), []),
        (("model",), "matvit_tiny"),
        (("model", "embed_dim"), 8.0),
        (("model", "embed_dim"), 0),
        (("model", "projection"), 0),
        (("model", "projection"), 8.0),
        (("model", "projection"), "head"),
        (("model", "weights_sha256"), "x"),
        (("model", "checkpoint"), ["m"]),
        (("model", "size"), 1),
        (("preprocess",), [224]),
        (("preprocess", "size"), {"deep": {"er": 1}}),
        (("encoder",), {}),
        (("kind",), {}),
        (("more",), 1),
    ],
    ids=str,
)
def test_a_value_of_another_kind_is_damage(golden: Path, path: tuple[str, ...], value: object) -> None:
    body = body_of(golden)
    put(body, path, value)
    (golden / "manifest.json").write_bytes(_sealed(body))
    before = bytes_of(golden)
    for act in (Index.open, read_manifest, compacted):
        with pytest.raises(IndexDamagedError, match=r"x\.index: manifest\.json is damaged") as caught:
            act(golden)
        assert "\n" not in str(caught.value)
    assert len(verify(golden)) == 1
    assert bytes_of(golden) == before


@pytest.mark.parametrize("depth", [100, 500, 3_000, 100_000])
@pytest.mark.parametrize("name", ["preprocess", "calibration", "classes", "more"])
def test_nesting_without_end_is_damage(golden: Path, name: str, depth: int) -> None:
    body = body_of(golden)
    body[name] = "here"
    nested = "[" * depth + "]" * depth
    raw = _sealed(body).decode().replace('"here"', nested)
    (golden / "manifest.json").write_text(raw)
    with pytest.raises(IndexDamagedError, match="damaged"):
        Index.open(golden)


@pytest.mark.parametrize("made", [GOLDEN, GOLDEN_2], ids=["format 1", "format 2"])
def test_every_value_of_a_manifest_is_checked(made: Path) -> None:
    """Read it as a manifest or refuse it: no other error, for any of them and what is worst in its place."""
    body = body_of(made)
    tried = 0
    for path in paths_of(body):
        for value in NASTY:
            changed = json.loads(json.dumps(body))
            put(changed, path, value)
            tried += 1
            try:
                raw = _sealed(changed)
                manifest = Manifest.from_json(raw)
            except IndexDamagedError as error:
                assert "\n" not in str(error)  # noqa: PT017 - most of them are refused, and some are right
            else:
                again = json.loads(manifest.to_json())
                changed["model"].setdefault("projection", None)
                assert {name: again[name] for name in changed} == changed
    assert tried > 1000


@settings(max_examples=100, deadline=None)
@given(data=st.data())
def test_whatever_is_in_a_manifest_no_act_ends_in_an_error_that_is_not_ours(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    out = tmp_path_factory.mktemp("any") / "x.index"
    shutil.copytree(data.draw(st.sampled_from([GOLDEN, GOLDEN_2])), out)
    body = body_of(out)
    put(body, data.draw(st.sampled_from(paths_of(body))), data.draw(JSON | st.sampled_from(NASTY)))
    (out / "manifest.json").write_bytes(_sealed(body))
    for act in (verify, searched, added, compacted):
        before = bytes_of(out)
        with one_line() as failed:
            act(out)
        if failed:
            assert bytes_of(out) == before
    shutil.rmtree(out)


@contextmanager
def one_line() -> Iterator[list[Exception]]:
    """Errors of the package, in one line, are no failure; they end up in what is given."""
    failed: list[Exception] = []
    try:
        yield failed
    except (RuntimeError, ValueError) as error:
        if not type(error).__module__.startswith("indexes."):
            raise
        assert "\n" not in str(error)  # noqa: PT017
        failed.append(error)


def searched(path: Path) -> None:
    index = Index.open(path)
    index.search(QUERY, 2, "label = 'cat'")
    index.search(QUERY, 2)


def added(path: Path) -> None:
    encoder = read_manifest(path).encoder
    with IndexWriter(path, encoder, extends=True) as writer:
        fill(writer, [rows_of("c.tar", 1)])
        writer.commit(origin(encoder))


def compacted(path: Path) -> None:
    change.gather([path], path, command="")


# --- tables ---


def doubled(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.append_column(name, table["key"])


def without(name: str) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.drop_columns(name)


def empty(name: str) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        return table.set_column(
            table.column_names.index(name), name, pa.array([None] * len(table), pa.string())
        )

    return change


def typed(kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: table.append_column("more", pa.nulls(len(table), kind))


@pytest.mark.parametrize("file", ["rows.parquet", "vectors/part-00000.parquet"])
@pytest.mark.parametrize(
    "alter",
    [
        *(doubled(name) for name in ("key", "path", "label")),
        *(empty(name) for name in ("key", "path")),
        *(without(name) for name in ("key", "path", "label")),
        *(typed(kind) for kind in (pa.int64(), pa.large_string(), pa.list_(pa.string()))),
    ],
)
def test_a_table_that_is_none_of_rows(golden: Path, file: str, alter: Callable[[pa.Table], pa.Table]) -> None:
    rows.write_table(golden / file, alter(rows.read_rows(golden / file)))
    reseal(golden)
    before = bytes_of(golden)
    with pytest.raises(IndexDamagedError, match=r"\.parquet (does not hold|holds two|has rows)") as caught:
        compacted(golden)
    assert "\n" not in str(caught.value)
    assert bytes_of(golden) == before


def test_failures_without_a_reason(golden: Path) -> None:
    rows.write_table(golden / "failures.parquet", rows.failures_table([("a", None)]))  # type: ignore[list-item]
    reseal(golden)
    with pytest.raises(IndexDamagedError, match=r"failures\.parquet has rows without"):
        compacted(golden)


# --- parts whose vectors are not as many as their rows ---


def fewer_vectors(out: Path) -> None:
    write_vectors(out / "vectors" / "part-00000.npy", np.array([Row("a.tar:0", "").vector]))


def more_vectors(out: Path) -> None:
    write_vectors(out / "vectors" / "part-00001.npy", np.array([Row("a.tar:0", "").vector] * 2))


def fewer_rows(out: Path) -> None:
    file = out / "vectors" / "part-00000.parquet"
    rows.write_table(file, rows.read_rows(file).slice(1))


def one_here_one_there(out: Path) -> None:
    fewer_vectors(out)
    more_vectors(out)


def no_table(out: Path) -> None:
    (out / "vectors" / "part-00000.parquet").write_bytes(b"")


def merged(path: Path) -> None:
    other = build(path.parent / "other.index", rows_of("d", 1))
    change.gather([path, other], path.parent / "both.index", command="")


def removed(path: Path) -> None:
    change.remove(path, lambda index: index.with_keys(["b.tar:0"]), command="")


@pytest.mark.parametrize("damage", [fewer_vectors, more_vectors, fewer_rows, one_here_one_there, no_table])
@pytest.mark.parametrize("act", [compacted, merged, added, removed])
def test_no_index_is_made_of_a_part_with_fewer_vectors_or_rows(
    golden: Path, damage: Callable[[Path], None], act: Callable[[Path], None]
) -> None:
    damage(golden)
    reseal(golden)
    before = bytes_of(golden)
    with pytest.raises(IndexDamagedError) as caught:
        act(golden)
    assert "vectors" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert bytes_of(golden) == before
    assert not (golden.parent / "both.index").exists()
    assert not any(golden.parent.glob("*.partial/index"))


def test_a_part_of_a_build_that_lost_a_vector_is_named(tmp_path: Path) -> None:
    out, row = tmp_path / "x.index", rows_of("a", 2)
    with IndexWriter(out, read_manifest(GOLDEN).encoder) as writer:
        fill(writer, [row])
        part = tmp_path / "x.index.partial" / "parts" / "part-00000.npy"
        write_vectors(part, np.array([row[0].vector]))
        with pytest.raises(IndexDamagedError, match=r"parts/part-00000\.npy has 1 vectors for 2 rows"):
            writer.commit(origin())
    assert not out.exists()


def test_parts_without_their_tables_in_the_manifest_are_damage(golden: Path) -> None:
    body = body_of(golden)
    del body["files"]["vectors/part-00000.parquet"]
    (golden / "manifest.json").write_bytes(_sealed(body))
    with pytest.raises(IndexDamagedError, match=r"does not list vectors/part-00000\.parquet"):
        compacted(golden)


# --- plans of builds ---


@pytest.mark.parametrize(
    "plan",
    [
        *("", "{", "null", "5", "[]", "{}", '{"parts": 5}', "[" * 3_000 + "]" * 3_000, "[" * 100_000),
        '{"format_version": 1, "encoder": {}, "parts": []}',
        *(
            '{"format_version": 1, "encoder": ENCODER, "parts": ' + p + "}"
            for p in ("5", "[5]", '[["a"]]', '"x"')
        ),
    ],
    ids=lambda plan: plan[:60],
)
def test_a_plan_that_is_none_is_planned_anew(tmp_path: Path, plan: str) -> None:
    out = tmp_path / "x.index"
    (tmp_path / "x.index.partial").mkdir()
    body = body_of(GOLDEN)
    encoder = {
        name: body["model"][name] for name in ("architecture", "weights_sha256", "pooling", "embed_dim")
    }
    text = plan.replace("ENCODER", json.dumps(encoder | {"preprocess": body["preprocess"]}))
    (tmp_path / "x.index.partial" / "plan.json").write_text(text)
    build(out, rows_of("a", 2))
    assert verify(out) == []


def test_names_that_are_no_utf_8_do_not_spoil_a_plan(tmp_path: Path) -> None:
    odd = [("caf\udce9", "f\udcff")]
    encoder = read_manifest(GOLDEN).encoder
    for again in (False, True):
        with IndexWriter(tmp_path / "x.index", encoder) as writer:
            writer.plan(odd)
            assert writer.is_done(0) == again
            writer.write_part(0, np.array([Row("a", "b").vector]), [{"key": "a", "path": "b"}], [])
