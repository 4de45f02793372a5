import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from entries import column_of, keys_of
from hypothesis import given, settings
from hypothesis import strategies as st
from small_index import ENCODER, Row, build, bytes_of, contents, expected, fill, origin, rows_of

from indexes import (
    DuplicateKeyError,
    EmptyIndexError,
    Index,
    IndexBusyError,
    IndexDamagedError,
    IndexExistsError,
    IndexKindError,
    IndexReplacedError,
    IndexWriter,
    UnknownKeyError,
    WrongEncoderError,
    verify,
)
from indexes.directory import change
from indexes.directory.numbered_rows import NumberedRows
from indexes.disk.rows import read_failures
from indexes.disk.staging import Staging, staging_of
from indexes.faiss_kinds.options import KindOptions

Choose = Callable[[NumberedRows], np.ndarray]


def keyed(*keys: str) -> Choose:
    return lambda index: index.with_keys(keys)


def remove(path: Path, choose: Choose, *, keep_out: bool = True) -> int:
    return change.remove(path, choose, keep_out=keep_out, command="remove")


def compact(path: Path) -> None:
    change.gather([path], path, command="compact")


def merge(paths: list[Path], out: Path, options: KindOptions | None = None) -> None:
    change.gather(paths, out, command="merge", options=options)


def failed_keys(path: Path) -> list[str]:
    return read_failures(path / "failures.parquet")["key"].to_pylist()


def inodes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_ino for file in (path / "vectors").iterdir()}


@contextmanager
def untouched(folder: Path) -> Iterator[None]:
    """Nothing in a folder changes, appears or goes, not even for another of the same bytes."""

    def now() -> tuple[dict[str, bytes], list[tuple[int, int]]]:
        status = [path.stat() for path in sorted(folder.rglob("*"))]
        return bytes_of(folder), [(each.st_ino, each.st_mtime_ns) for each in status]

    before = now()
    yield
    assert now() == before


# ---------------------------------------------------------------- remove


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two parts; b is a copy of a, and d the only dog."""
    rows = [
        Row("a", "/1", "cat", content="x"),
        Row("b", "/2", "cat", content="x"),
        Row("c", "/2", "cat", content="y"),
        Row("d", "/3", "dog", content="z"),
    ]
    return build(tmp_path / "photos.index", rows[:2], rows[2:], failures=[("bad", "broken")])


def test_removed_rows_are_found_by_nothing(photos: Path) -> None:
    assert Index.open(photos).duplicates == 1
    assert remove(photos, keyed("a", "d")) == 2
    index, rows = Index.open(photos), NumberedRows.open(photos)
    assert (len(index), index.manifest.ntotal, index.manifest.removed) == (2, 4, 2)
    assert rows.removed.tolist() == [0, 3]
    assert set(contents(photos)) == {"b", "c"}
    found = index.search(np.stack([Row("a", "").vector, Row("d", "").vector]), k=4)
    assert [sorted(entry.key for entry in entries) for entries in found.entries] == [["b", "c"], ["b", "c"]]
    assert not rows.matching("label = 'dog' or key = 'a'").any()
    assert rows.matching("key != ''").tolist() == [False, True, True, False]
    assert rows.from_files(pa.array(["/1", "/2", "/3"])).tolist() == [False, True, True, False]
    with pytest.raises(UnknownKeyError, match="no row with the key 'd'"):
        rows.with_keys(["b", "d"])
    assert index.manifest.classes == ["cat"]
    assert index.duplicates == 0  # what b was a copy of is gone
    assert failed_keys(photos) == ["bad"]
    assert index.manifest.command == "remove"
    assert verify(photos) == []


def test_what_a_copy_is_of_passes_to_the_next_copy(tmp_path: Path) -> None:
    rows = [Row(key, f"/{key}", content="same") for key in "abc"]
    out = build(tmp_path / "x.index", rows)
    remove(out, keyed("a"))
    assert NumberedRows.open(out).rows["duplicate_of"].to_pylist() == [None, None, "b"]
    assert Index.open(out).duplicates == 1
    remove(out, keyed("b"))
    assert NumberedRows.open(out).rows["duplicate_of"].to_pylist() == [None, None, None]


def test_rows_are_removed_by_mask_and_counted_once(photos: Path) -> None:
    assert remove(photos, lambda index: index.matching("label = 'dog'")) == 1
    assert remove(photos, lambda index: np.array([True, False, False, True])) == 1
    assert NumberedRows.open(photos).removed.tolist() == [0, 3]
    assert verify(photos) == []


def test_removing_writes_no_vectors(photos: Path) -> None:
    before, faiss = inodes(photos), (photos / "index.faiss").stat().st_ino
    remove(photos, keyed("a"))
    assert inodes(photos) == before
    assert (photos / "index.faiss").stat().st_ino == faiss


@pytest.mark.parametrize("again", [False, True])
def test_nothing_chosen_leaves_everything_as_it_is(photos: Path, again: bool) -> None:
    if again:
        remove(photos, keyed("a"))
    with untouched(photos):
        assert remove(photos, lambda index: ~index.live) == 0
    assert list(photos.parent.iterdir()) == [photos]


def test_removing_every_row_is_refused(photos: Path) -> None:
    remove(photos, keyed("a"))
    with untouched(photos), pytest.raises(EmptyIndexError, match=r"every row of .*remove the directory"):
        remove(photos, lambda index: np.ones(4, dtype=bool))
    assert list(photos.parent.iterdir()) == [photos]


@pytest.mark.parametrize("key", ["nonsense", "", os.fsdecode(b"\xff")])
def test_a_key_that_is_not_there_changes_nothing(photos: Path, key: str) -> None:
    with untouched(photos), pytest.raises(UnknownKeyError) as caught:
        remove(photos, keyed("a", key))
    assert str(caught.value).encode().endswith(b"no row with the key " + repr(key).encode())
    assert list(photos.parent.iterdir()) == [photos]


def test_a_busy_index_is_refused(photos: Path) -> None:
    with Staging(photos, replaces=True), untouched(photos.parent):
        for attempt in (lambda: remove(photos, keyed("a")), lambda: compact(photos)):
            with pytest.raises(IndexBusyError, match="wait for it to end"):
                attempt()
    assert remove(photos, keyed("a")) == 1


def test_an_index_that_is_not_there_is_refused_and_leaves_no_trace(tmp_path: Path) -> None:
    missing = tmp_path / "no" / "x.index"
    attempts: list[Callable[[], object]] = [
        lambda: remove(missing, keyed("a")),
        lambda: compact(missing),
        lambda: build(missing, rows_of("a"), extends=True),
    ]
    for attempt in attempts:
        with pytest.raises(IndexDamagedError, match=r"no index at .*matvit index build"):
            attempt()
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_an_index_stays_a_link(photos: Path, tmp_path: Path) -> None:
    link = tmp_path / "elsewhere" / "link"
    link.parent.mkdir()
    link.symlink_to(photos)
    with Staging(link, replaces=True), pytest.raises(IndexBusyError):
        remove(photos, keyed("a"))
    remove(link, keyed("a"))
    compact(link)
    build(link, rows_of("e"), extends=True)
    assert link.is_symlink()
    assert set(contents(photos)) == set(contents(link)) == {"b", "c", "d", "e:0"}
    assert verify(link) == verify(photos) == []
    assert list(link.parent.iterdir()) == [link]
    assert set(tmp_path.iterdir()) == {link.parent, photos}


def test_an_index_can_be_changed_from_inside(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(photos)
    remove(Path(), keyed("a"))
    assert set(contents(photos)) == {"b", "c", "d"}
    assert list(photos.parent.iterdir()) == [photos]


# ---------------------------------------------------------------- compact


def test_compact_equals_an_index_built_without_the_removed_rows(tmp_path: Path) -> None:
    parts = [rows_of(file, 4, label=file) for file in "abcd"]
    failures = [("bad", "broken")]
    out = build(tmp_path / "x.index", *parts, failures=failures)
    remove(out, keyed("b:1", "b:2", *(row.key for row in parts[2])), keep_out=False)
    before = inodes(out)
    compact(out)
    kept = [parts[0], [parts[1][0], parts[1][3]], parts[3]]
    fresh = build(tmp_path / "fresh.index", *kept, failures=failures)
    compacted, built = bytes_of(out), bytes_of(fresh)
    del compacted["manifest.json"], built["manifest.json"]
    assert compacted == built
    assert contents(out) == expected(*kept)
    assert verify(out) == []
    manifest, fresh_manifest = Index.open(out).manifest, Index.open(fresh).manifest
    assert manifest.removed == 0
    assert (manifest.files, manifest.classes) == (fresh_manifest.files, fresh_manifest.classes)
    after = inodes(out)
    for suffix in ("npy", "parquet"):
        assert after[f"part-00000.{suffix}"] == before[f"part-00000.{suffix}"]
        assert after[f"part-00001.{suffix}"] != before[f"part-00001.{suffix}"]
        assert after[f"part-00002.{suffix}"] == before[f"part-00003.{suffix}"]
    assert set(tmp_path.iterdir()) == {out, fresh}


def test_compact_keeps_the_kind(tmp_path: Path) -> None:
    flat, out = build(tmp_path / "flat.index", rows_of("a", 30)), tmp_path / "x.index"
    merge([flat], out, KindOptions(factory="SQ8", rerank=7, recall_target=0.8))
    remove(out, keyed("a:3"))
    compact(out)
    kind = Index.open(out).manifest.kind
    assert (kind.factory, kind.rerank, kind.recall_target) == ("SQ8", 7, 0.8)
    assert len(contents(out)) == 29


def test_compact_of_too_few_rows_for_the_kind_chooses_another(tmp_path: Path) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 100), factory="IVF2,Flat")
    remove(out, lambda _: np.arange(100) >= 30)
    compact(out)
    index = Index.open(out)
    assert (index.manifest.kind.factory, len(index)) == ("Flat", 30)


def test_compact_keeps_what_an_interrupted_add_has_done(photos: Path) -> None:
    new = [rows_of("e", 2), rows_of("f", 2)]
    with IndexWriter(photos, ENCODER, extends=True) as writer:
        fill(writer, new)
    remove(photos, keyed("a"))
    compact(photos)
    with IndexWriter(photos, ENCODER, extends=True) as writer:
        writer.plan([(f"part {i}", repr(rows)) for i, rows in enumerate(new)])
        assert writer.is_done(0)
        assert writer.is_done(1)
        writer.commit(origin())
    assert list(contents(photos)) == ["b", "c", "d", "e:0", "e:1", "f:0", "f:1"]
    assert verify(photos) == []
    assert list(photos.parent.iterdir()) == [photos]


@pytest.mark.parametrize("suffix", ["npy", "parquet"])
def test_damage_is_never_sealed_as_sound(tmp_path: Path, suffix: str) -> None:
    """What stands there is as good as any, but not what was written."""
    out = build(tmp_path / "x.index", rows_of("a", 3, label="x"), rows_of("b", 3))
    other = build(tmp_path / "other.index", rows_of("a", 3, label="y", number=1))
    name = f"vectors/part-00000.{suffix}"
    (out / name).write_bytes((other / name).read_bytes())
    [problem] = verify(out)
    remove(out, keyed("b:0"))
    assert verify(out) == [problem]
    compact(out)
    assert verify(out) == [problem]
    remove(out, keyed("a:0"))
    with untouched(tmp_path), pytest.raises(IndexDamagedError, match=rf"part-00000\.{suffix} has changed"):
        compact(out)


# ---------------------------------------------------------------- merge


@pytest.fixture
def two(tmp_path: Path) -> list[Path]:
    """Two indexes, each with a removed row; a:0 and c:1 show the same image."""
    first = build(
        tmp_path / "1.index",
        [Row("a:0", "/a", "cat", content="x"), *rows_of("b", 2, label="gone")],
        failures=[("bad 1", "broken")],
    )
    second = build(
        tmp_path / "2.index",
        [*rows_of("c", 1, label="dog"), Row("c:1", "/c", "dog", content="x")],
        rows_of("d"),
        failures=[("bad 2", "empty")],
        source="more",
    )
    remove(first, keyed("b:0", "b:1"))
    remove(second, keyed("d:0"))
    return [first, second]


def test_merged_index_has_what_both_have(two: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "both.index"
    with untouched(two[0]), untouched(two[1]):
        merge(two, out)
    index = Index.open(out)
    assert keys_of(index) == ["a:0", "c:0", "c:1"]
    assert contents(out) == contents(two[0]) | contents(two[1])
    assert (index.manifest.removed, index.manifest.classes) == (0, ["cat", "dog"])
    assert index.manifest.sources == ["photos", "more"]
    assert column_of(index, "duplicate_of") == [None, None, "a:0"]
    assert failed_keys(out) == ["bad 1", "bad 2"]
    assert verify(out) == verify(two[0]) == verify(two[1]) == []
    assert set(tmp_path.iterdir()) == {out, *two}
    for path in two:  # what they share are bytes, not fates
        shutil.rmtree(path)
    assert verify(out) == []


def test_merged_into_one_of_them(two: list[Path]) -> None:
    both = contents(two[1]) | contents(two[0])
    merge(two[::-1], two[0])
    assert list(contents(two[0])) == list(both)
    assert contents(two[0]) == both
    assert verify(two[0]) == []


def test_a_key_that_both_have_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    paths = [build(tmp_path / f"{i}.index", rows_of("a", 2)) for i in range(2)]
    with untouched(tmp_path), pytest.raises(DuplicateKeyError, match="'a:0'"):
        merge(paths, tmp_path / "out.index")
    with untouched(tmp_path), pytest.raises(DuplicateKeyError):
        merge(paths, paths[0])


def test_a_key_that_one_of_them_has_removed_is_no_obstacle(tmp_path: Path) -> None:
    paths = [build(tmp_path / f"{i}.index", rows_of("a", 2, label=str(i))) for i in range(2)]
    remove(paths[0], keyed("a:1"))
    remove(paths[1], keyed("a:0"))
    merge(paths, tmp_path / "out.index")
    assert {key: label for key, (_, label, _) in contents(tmp_path / "out.index").items()} == {
        "a:0": "0",
        "a:1": "1",
    }


def test_indexes_of_different_encoders_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    other = dataclasses.replace(ENCODER, weights_sha256="f" * 64)
    paths = [
        build(tmp_path / "1.index", rows_of("a")),
        build(tmp_path / "2.index", rows_of("b"), encoder=other),
    ]
    with untouched(tmp_path), pytest.raises(WrongEncoderError, match=r"weights 0123456789ab.*weights f{12}"):
        merge(paths, tmp_path / "out.index")


def test_merging_onto_another_index_is_refused(two: list[Path], tmp_path: Path) -> None:
    other = build(tmp_path / "other.index", rows_of("z"))
    with untouched(tmp_path), pytest.raises(IndexExistsError, match="choose another directory"):
        merge(two, other)


def test_merged_index_is_as_asked_or_as_the_first(tmp_path: Path) -> None:
    paths = [
        build(tmp_path / "1.index", rows_of("a", 20), factory="HNSW4"),
        build(tmp_path / "2.index", rows_of("b", 20)),
    ]
    merge(paths, tmp_path / "3.index")
    merge(paths, tmp_path / "4.index", KindOptions(factory="SQ8", rerank=7))
    kinds = [Index.open(tmp_path / f"{i}.index").manifest.kind for i in (3, 4)]
    assert [(kind.factory, kind.rerank) for kind in kinds] == [("HNSW4", 0), ("SQ8", 7)]


def test_a_kind_that_does_not_fit_leaves_nothing(two: list[Path], tmp_path: Path) -> None:
    with untouched(tmp_path), pytest.raises(IndexKindError):
        merge(two, tmp_path / "out.index", KindOptions(factory="IVF64,Flat"))


def test_an_index_that_is_replaced_while_it_is_merged_is_noticed(
    two: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link

    def replace_then_link(source: Path, target: Path) -> None:
        monkeypatch.undo()
        compact(two[1])
        link(source, target)

    monkeypatch.setattr("os.link", replace_then_link)
    with pytest.raises(IndexReplacedError, match="open it again"):
        merge(two[::-1], tmp_path / "out.index")
    assert set(tmp_path.iterdir()) == set(two)


# ---------------------------------------------------------------- add


def test_added_rows_join_those_that_are_there(photos: Path) -> None:
    before = contents(photos)
    new = [rows_of("e", 2, label="bird"), rows_of("f")]
    build(photos, *new, extends=True, source="more", failures=[("bad 2", "empty")])
    index = Index.open(photos)
    assert contents(photos) == before | expected(*new)
    assert keys_of(index) == ["a", "b", "c", "d", "e:0", "e:1", "f:0"]
    assert (index.manifest.classes, index.manifest.sources) == (["bird", "cat", "dog"], ["photos", "more"])
    assert failed_keys(photos) == ["bad", "bad 2"]
    assert verify(photos) == []
    assert list(photos.parent.iterdir()) == [photos]


def test_adding_writes_no_old_vectors(photos: Path) -> None:
    before = inodes(photos)
    build(photos, rows_of("e"), extends=True)
    assert {name: inodes(photos)[name] for name in before} == before


def test_rows_of_the_same_file_are_replaced(photos: Path) -> None:
    new = [Row("b", "/2", "mouse", number=1), Row("e", "/2", "mouse")]
    build(photos, new, extends=True)
    index, rows = Index.open(photos), NumberedRows.open(photos)
    assert list(contents(photos)) == ["a", "d", "b", "e"]  # c is no longer in /2
    assert contents(photos)["b"] == expected(new)["b"]
    assert rows.removed.tolist() == [1, 2]
    assert index.manifest.classes == ["cat", "dog", "mouse"]
    assert index.search(new[0].vector[None], k=1).entries == [[("b", "/2", "mouse")]]
    assert rows.matching("key = 'b'").tolist() == [False] * 4 + [True, False]
    assert verify(photos) == []


def test_a_key_of_another_file_is_refused_and_nothing_is_lost(photos: Path) -> None:
    with untouched(photos), pytest.raises(DuplicateKeyError, match="'a'"):
        build(photos, [Row("a", "/another")], extends=True)
    remove(photos, keyed("a"))
    build(photos, [Row("a", "/another")], extends=True)
    assert contents(photos)["a"][0] == "/another"


def test_failures_that_healed_are_forgotten(photos: Path) -> None:
    build(photos, [Row("bad", "/bad")], extends=True, failures=[("bad 2", "empty")])
    assert failed_keys(photos) == ["bad 2"]
    build(photos, [], extends=True, failures=[("bad 2", "still"), ("bad 3", "new")])
    assert read_failures(photos / "failures.parquet").to_pylist() == [
        {"key": "bad 2", "reason": "still"},
        {"key": "bad 3", "reason": "new"},
    ]


def test_nothing_to_add_changes_nothing_that_can_be_seen(photos: Path) -> None:
    before = contents(photos)
    build(photos, extends=True)
    assert contents(photos) == before
    assert failed_keys(photos) == ["bad"]
    assert verify(photos) == []


def test_another_encoder_may_not_add(photos: Path) -> None:
    other = dataclasses.replace(ENCODER, preprocess={"size": 256})
    with (
        untouched(photos.parent),
        pytest.raises(WrongEncoderError, match=r"preprocess\.size is 224, not 256"),
    ):
        build(photos, rows_of("e"), extends=True, encoder=other)


def test_an_index_keeps_its_kind_when_it_grows(tmp_path: Path) -> None:
    out = build(tmp_path / "x.index", rows_of("a", 40), factory="HNSW4")
    build(out, rows_of("b", 40), extends=True, factory="Flat")
    index = Index.open(out)
    assert index.manifest.kind.factory == "HNSW4"
    wanted = rows_of("b", 40)
    found = index.search(np.array([row.vector for row in wanted]), k=1).entries
    assert np.mean([one.key == row.key for [one], row in zip(found, wanted, strict=True)]) > 0.9


def test_interrupted_add_leaves_the_index_whole_and_continues(photos: Path) -> None:
    new = [rows_of("e", 2), rows_of("f", 2)]
    plan = [(f"part {i}", repr(rows)) for i, rows in enumerate(new)]
    before = contents(photos)

    def interrupted() -> None:
        with IndexWriter(photos, ENCODER, extends=True) as writer:
            fill(writer, new[:1])
            raise KeyboardInterrupt

    with untouched(photos), pytest.raises(KeyboardInterrupt):
        interrupted()
    assert contents(photos) == before
    with IndexWriter(photos, ENCODER, extends=True) as writer:
        writer.plan(plan)
        assert [writer.is_done(i) for i in range(2)] == [True, False]
        writer.write_part(
            1, np.stack([row.vector for row in new[1]]), [{"key": r.key, "path": r.path} for r in new[1]], []
        )
        writer.commit(origin())
    assert contents(photos) == before | expected(*new)


def test_writer_that_dies_between_two_renames_has_done_no_harm(photos: Path) -> None:
    before = bytes_of(photos)
    staging_of(photos).mkdir()
    (staging_of(photos) / ".matvit-lock").touch()
    photos.rename(staging_of(photos) / "previous")
    build(photos, rows_of("e"), extends=True)
    assert set(contents(photos)) == {"a", "b", "c", "d", "e:0"}
    remove(photos, keyed("e:0"))
    compact(photos)
    after = bytes_of(photos)
    del before["manifest.json"], after["manifest.json"], after["kept_out.parquet"]
    assert after == before
    assert list(photos.parent.iterdir()) == [photos]


# ---------------------------------------------------------------- all of them, in any order

FILES = [f"file {i}" for i in range(6)]
ADDED = st.dictionaries(st.sampled_from(FILES), st.tuples(st.integers(1, 3), st.integers(0, 2)), max_size=3)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("add"), ADDED, st.sets(st.sampled_from(FILES), max_size=2)),
        st.tuples(st.just("remove"), st.sets(st.integers(0, 11), max_size=6)),
        st.tuples(st.just("compact")),
        st.tuples(st.just("merge"), st.integers(1, 3), st.booleans()),
    ),
    min_size=2,
    max_size=6,
)


class Oracle:
    """What an index must hold, in a dict and a list."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.failed: list[str] = []

    def add(self, rows: list[Row], failed: list[str]) -> None:
        paths = {row.path for row in rows}
        self.rows = {key: row for key, row in self.rows.items() if row.path not in paths}
        self.rows |= {row.key: row for row in rows}
        heard = {*(row.key for row in rows), *failed}
        self.failed = [key for key in self.failed if key not in heard] + failed

    def check(self, path: Path, rng: np.random.Generator) -> None:
        assert verify(path) == []
        assert contents(path) == expected([*self.rows.values()])
        assert failed_keys(path) == self.failed
        index = Index.open(path)
        assert index.manifest.classes == sorted({row.label for row in self.rows.values() if row.label})
        corpus_ND = np.stack([row.vector for row in self.rows.values()]).astype(np.float32)
        queries_QD = rng.standard_normal((3, 8)).astype(np.float32)
        scores_QN = dict(zip(self.rows, (queries_QD @ corpus_ND.T).T, strict=True))
        for k in (1, len(self.rows), len(self.rows) + 5):
            found = index.search(queries_QD, k)
            assert found.scores.shape == (3, min(k, len(self.rows)))
            for q, (scores, entries) in enumerate(zip(found.scores, found.entries, strict=True)):
                keys = [entry.key for entry in entries]
                assert len(set(keys)) == len(keys) == len(scores)
                np.testing.assert_allclose(scores, [scores_QN[key][q] for key in keys], atol=1e-5)
                if k > 1 or index.manifest.kind.factory == "Flat":
                    best = sorted((each[q] for each in scores_QN.values()), reverse=True)[:k]
                    np.testing.assert_allclose(scores, best, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(steps=STEPS, factory=st.sampled_from(["Flat", "HNSW4"]), seed=st.integers(0, 100))
def test_any_sequence_of_changes_equals_a_dict(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]], factory: str, seed: int
) -> None:
    folder, rng = tmp_path_factory.mktemp("model"), np.random.default_rng(seed)
    oracle, first = Oracle(), rows_of(FILES[0], 3, label="first")
    path = build(folder / "x.index", first, factory=factory)
    oracle.add(first, [])
    for number, step in enumerate(steps):
        match step:
            case ("add", dict(files), set(failed)):
                rows = [
                    row
                    for file, (count, label) in files.items()
                    for row in rows_of(file, count, label=f"label {label}", number=number)
                ]
                keys = [f"{file}:9" for file in sorted(failed)]
                build(path, rows, extends=True, failures=[(key, "broken") for key in keys])
                oracle.add(rows, keys)
            case ("remove", set(places)):
                keys = [key for i, key in enumerate(oracle.rows) if i in places]
                if len(keys) == len(oracle.rows):
                    with untouched(path), pytest.raises(EmptyIndexError):
                        remove(path, keyed(*keys))
                else:
                    assert remove(path, keyed(*keys)) == len(keys)
                    oracle.rows = {key: row for key, row in oracle.rows.items() if key not in keys}
            case ("compact",):
                compact(path)
                assert Index.open(path).manifest.removed == 0
            case ("merge", int(count), bool(in_place)):
                rows = rows_of(f"other {number}", count)
                other = build(folder / f"other {number}.index", rows, failures=[(f"bad {number}", "broken")])
                out = path if in_place else folder / f"merged {number}.index"
                merge([path, other], out)
                path = out
                oracle.rows |= {row.key: row for row in rows}
                oracle.failed.append(f"bad {number}")
        oracle.check(path, rng)
    assert not list(folder.glob("*.partial"))
