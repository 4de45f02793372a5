import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from entries import keys_of, vectors_of

from indexes import (
    DuplicateKeyError,
    EmptyIndexError,
    EncoderIdentity,
    Index,
    IndexBusyError,
    IndexExistsError,
    IndexNameError,
    IndexWriter,
    verify,
)
from indexes.disk.origin import Origin

Write = Callable[..., None]
PLAN = [("a", "1"), ("b", "2"), ("c", "3")]


def done_after(writer: IndexWriter, plan: list[tuple[str, str]]) -> list[bool]:
    writer.plan(plan)
    return [writer.is_done(i) for i in range(len(plan))]


def test_finished_index_holds_its_files_and_nothing_else(small: Path) -> None:
    names = {file.relative_to(small).as_posix() for file in small.rglob("*") if file.is_file()}
    parts = {f"vectors/part-0000{i}.{suffix}" for i in range(3) for suffix in ("npy", "parquet")}
    assert (
        names == {"manifest.json", "index.faiss", "rows.parquet", "failures.parquet", "removed.npy"} | parts
    )
    assert [entry.name for entry in small.parent.iterdir()] == ["photos.index"]


def test_a_name_that_parquet_cannot_write_is_refused(tmp_path: Path, identity: EncoderIdentity) -> None:
    with pytest.raises(IndexNameError, match="is not UTF-8: choose another name"):
        IndexWriter(tmp_path / os.fsdecode(b"\xff"), identity)
    assert list(tmp_path.iterdir()) == []


def test_existing_directory_is_refused_and_untouched(small: Path, identity: EncoderIdentity) -> None:
    with (
        pytest.raises(IndexExistsError, match="choose another directory, or remove it"),
        IndexWriter(small, identity),
    ):
        pass
    assert verify(small) == []
    assert [entry.name for entry in small.parent.iterdir()] == ["photos.index"]


def test_second_writer_is_refused_while_the_first_lives(
    tmp_path: Path, identity: EncoderIdentity, write: Write
) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as first:
        first.plan(PLAN)
        with pytest.raises(IndexBusyError, match="another process"), IndexWriter(out, identity):
            pass
        write(first, 0)
    with IndexWriter(out, identity) as second:
        assert done_after(second, PLAN) == [True, False, False]
        assert second.rows_done(0) == (5, 1)


def test_changed_fingerprint_redoes_just_that_part(
    tmp_path: Path, identity: EncoderIdentity, write: Write, origin: Origin
) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan(PLAN)
        for i in range(3):
            write(writer, i)
    with IndexWriter(out, identity) as writer:
        assert done_after(writer, [("a", "1"), ("b", "changed"), ("c", "3")]) == [True, False, True]
        write(writer, 1, count=2)
        writer.commit(origin)
    index = Index.open(out)
    assert keys_of(index) == [f"0/{n}.jpg" for n in range(5)] + ["1/0.jpg", "1/1.jpg"] + [
        f"2/{n}.jpg" for n in range(5)
    ]
    assert verify(out) == []


def test_shorter_plan_leaves_no_stray_files(
    tmp_path: Path, identity: EncoderIdentity, write: Write, origin: Origin
) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan(PLAN)
        for i in range(3):
            write(writer, i)
    with IndexWriter(out, identity) as writer:
        assert done_after(writer, PLAN[:2]) == [True, True]
        writer.commit(origin)
    assert len(Index.open(out)) == 10
    assert verify(out) == []


@pytest.mark.parametrize(
    "change", [{"weights_sha256": "f" * 64}, {"pooling": "avg"}, {"preprocess": {"size": 1}}]
)
def test_other_encoder_keeps_nothing(
    tmp_path: Path, identity: EncoderIdentity, write: Write, change: dict[str, object]
) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan(PLAN)
        write(writer, 0)
    with IndexWriter(out, dataclasses.replace(identity, **change)) as writer:
        assert done_after(writer, PLAN) == [False, False, False]


def test_commit_needs_every_part(
    tmp_path: Path, identity: EncoderIdentity, write: Write, origin: Origin
) -> None:
    with IndexWriter(tmp_path / "photos.index", identity) as writer:
        writer.plan(PLAN)
        write(writer, 0)
        with pytest.raises(ValueError, match="part b is not finished"):
            writer.commit(origin)


def test_duplicate_key_across_parts_is_named(
    tmp_path: Path, identity: EncoderIdentity, vectors: Callable[..., np.ndarray], origin: Origin
) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan(PLAN[:2])
        for i in range(2):
            writer.write_part(i, vectors(1, seed=i), [{"key": "same.jpg", "path": "/"}], [])
        with pytest.raises(DuplicateKeyError, match=r"'same\.jpg'"):
            writer.commit(origin)
    assert not out.exists()


@pytest.mark.parametrize(
    "failures, message",
    [([("a.jpg", "truncated"), ("b.jpg", "empty")], r"2 failed .*a\.jpg: truncated"), ([], "no images")],
)
def test_empty_index_says_why(
    tmp_path: Path, identity: EncoderIdentity, origin: Origin, failures: list[tuple[str, str]], message: str
) -> None:
    with IndexWriter(tmp_path / "photos.index", identity) as writer:
        writer.plan(PLAN[:1])
        writer.write_part(0, np.empty((0, 8)), [], failures)
        with pytest.raises(EmptyIndexError, match=message):
            writer.commit(origin)
    assert not (tmp_path / "photos.index").exists()


def test_part_where_everything_failed_joins_the_others(
    tmp_path: Path, identity: EncoderIdentity, write: Write, origin: Origin
) -> None:
    out = tmp_path / "photos.index"
    with IndexWriter(out, identity) as writer:
        writer.plan(PLAN[:2])
        writer.write_part(0, np.empty((0, 8)), [], [("x", "broken")])
        write(writer, 1)
        manifest = writer.commit(origin)
    assert (manifest.ntotal, manifest.files["failures.parquet"].rows) == (5, 2)
    assert manifest.classes == ["class 0", "class 1", "class 2"]
    assert len(vectors_of(Index.open(out))) == 5


def test_refused_vectors_leave_the_part_unfinished(
    tmp_path: Path, identity: EncoderIdentity, vectors: Callable[..., np.ndarray]
) -> None:
    rows = [{"key": str(n), "path": str(n)} for n in range(3)]
    with_nan = vectors(3, seed=0)
    with_nan[1, 0] = np.nan
    with IndexWriter(tmp_path / "photos.index", identity) as writer:
        writer.plan(PLAN)
        with pytest.raises(ValueError, match="vector 1 has length nan"):
            writer.write_part(0, with_nan, rows, [])
        with pytest.raises(ValueError, match=r"part a: vectors are \(2, 8\), not \(3, 8\)"):
            writer.write_part(0, vectors(2, seed=0), rows, [])
        assert not writer.is_done(0)


def test_full_disk_leaves_a_build_that_continues(
    tmp_path: Path, identity: EncoderIdentity, write: Write, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "photos.index"

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    def attempt() -> None:
        with IndexWriter(out, identity) as writer:
            writer.plan(PLAN[:2])
            write(writer, 0)
            monkeypatch.setattr("os.fsync", full)
            write(writer, 1)

    with pytest.raises(OSError, match="No space left"):
        attempt()
    monkeypatch.undo()
    with IndexWriter(out, identity) as writer:
        assert done_after(writer, PLAN[:2]) == [True, False]
        write(writer, 1)
        writer.commit(origin)
    assert verify(out) == []
