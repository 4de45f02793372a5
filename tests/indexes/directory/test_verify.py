"""`verify` while the index is written: no damage is reported that is none. Real damage: `test_change.py`."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import pytest
from small_index import ENCODER, build, fill, origin, rows_of

from indexes import IndexBusyError, IndexWriter, verify
from indexes.directory import change
from indexes.directory import verify as verification
from indexes.directory.numbered_rows import generation_of


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return build(tmp_path / "x.index", *(rows_of(f"p{i}", 2) for i in range(4)))


def replace(out: Path, i: int) -> None:
    """Put another index in its place: rows come, rows go, and space is freed, in turn."""
    if i % 3 == 0:
        with IndexWriter(out, ENCODER, extends=True) as writer:
            fill(writer, [rows_of(f"n{i}", 2)])
            writer.commit(origin())
    elif i % 3 == 1:
        change.remove(out, lambda index: index.with_keys([f"n{i - 1}:0", f"n{i - 1}:1"]), command="")
    else:
        change.gather([out], out, command="")


@contextmanager
def replacing(out: Path) -> Iterator[None]:
    """A thread that keeps replacing the index, at the finest turns that Python takes."""
    end, errors = Event(), list[BaseException]()

    def go_on() -> None:
        i = 0
        try:
            while not end.is_set():
                replace(out, i)
                i += 1
        except BaseException as error:
            errors.append(error)

    thread, interval = Thread(target=go_on), sys.getswitchinterval()
    thread.start()
    try:
        sys.setswitchinterval(1e-5)
        yield
    finally:
        sys.setswitchinterval(interval)
        end.set()
        thread.join()
    assert not errors


def test_nothing_is_reported_while_the_index_is_replaced(out: Path) -> None:
    started, said = generation_of(out), 0
    with replacing(out):
        while said < 150 or generation_of(out) == started:
            try:
                assert verify(out) == []
            except IndexBusyError as error:
                assert str(error) == f"{out} is being written: verify it when that has ended"  # noqa: PT017
            said += 1
    assert verify(out) == []


@pytest.mark.parametrize("moment", ["sha256_of", "read_manifest", "restore"])
@pytest.mark.parametrize("times", [1, 2, 4])
def test_an_index_that_is_replaced_meanwhile_is_verified_again(
    out: Path, monkeypatch: pytest.MonkeyPatch, moment: str, times: int
) -> None:
    left, inside = list(range(times)), getattr(verification, moment)

    def and_replaced(path: Path) -> object:
        found = inside(path)
        if left:
            replace(out, left.pop(0))
        return found

    monkeypatch.setattr(verification, moment, and_replaced)
    assert verify(out) == []


def test_one_that_never_comes_to_rest_is_said_to_be_written(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turn = iter(range(10**6))

    def manifest_then_replaced(path: Path) -> object:
        found = read_manifest(path)
        replace(out, next(turn))
        return found

    read_manifest = verification.read_manifest
    monkeypatch.setattr(verification, "read_manifest", manifest_then_replaced)
    with pytest.raises(IndexBusyError, match="is being written"):
        verify(out)
    assert next(turn) <= 6


def vectors_change(out: Path) -> None:
    file = out / "vectors" / "part-00001.npy"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.unlink()
    file.write_bytes(bytes(raw))


def manifest_changes(out: Path) -> None:
    file = out / "manifest.json"
    raw = file.read_bytes()
    file.unlink()
    file.write_bytes(raw.replace(b"photos", b"photoz"))


@pytest.mark.parametrize(
    "damage", [vectors_change, manifest_changes, lambda out: (out / "removed.npy").unlink()]
)
def test_damage_is_still_found_and_once(out: Path, damage: Callable[[Path], None]) -> None:
    damage(out)
    assert len(verify(out)) == 1


def test_what_is_no_index_is_one_problem(out: Path, tmp_path: Path) -> None:
    shutil.rmtree(out)
    assert len(verify(out)) == 1
    assert len(verify(tmp_path)) == 1
