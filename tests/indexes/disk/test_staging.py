import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from small_index import ENCODER, build, contents, expected, rows_of

from indexes import (
    Index,
    IndexBusyError,
    IndexDamagedError,
    IndexExistsError,
    IndexReplacedError,
    IndexWriter,
    verify,
)
from indexes.directory import change
from indexes.disk import staging
from indexes.disk.staging import Staging, restore, staging_of

ROOT = Path(__file__).parents[3]
ROWS = rows_of("a", 3)
REPLACE = """
import itertools, sys
from pathlib import Path
from small_index import build, rows_of
from indexes import IndexBusyError
from indexes.directory import change

out = Path(sys.argv[1])
print("ready", flush=True)
for number in itertools.count(1):
    try:
        build(out, rows_of("changing", 1 + number % 4, label=str(number), number=number), extends=True)
        if number % 3 == 0:
            change.gather([out], out, command="")
    except IndexBusyError:
        pass  # a reader looked whether it had to bring the index back
"""


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return build(tmp_path / "x.index", ROWS)


def replacing(out: Path) -> "subprocess.Popen[bytes]":
    """Another process that replaces an index again and again."""
    path = f"{ROOT}:{ROOT / 'tests' / 'helpers'}"
    writer = subprocess.Popen(
        [sys.executable, "-c", REPLACE, str(out)],
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"ready\n"
    return writer


def crash_while_replacing(out: Path) -> None:
    """Leave behind what a writer does that dies between its two renames."""
    (staging_of(out) / "index").mkdir(parents=True)
    (staging_of(out) / ".matvit-lock").touch()
    out.rename(staging_of(out) / "previous")


LOOKS: list[Callable[[Path], object]] = [Index.open, verify, restore]


@pytest.mark.parametrize("look", LOOKS)
def test_whoever_looks_brings_an_index_back(out: Path, look: Callable[[Path], object]) -> None:
    crash_while_replacing(out)
    look(out)
    assert out.exists()
    assert contents(out) == expected(ROWS)
    assert verify(out) == []
    assert list(out.parent.iterdir()) == [out]


def test_many_bring_it_back_at_once(out: Path) -> None:
    for _ in range(10):
        crash_while_replacing(out)
        with ThreadPoolExecutor(4) as pool:
            assert [len(index) for index in pool.map(Index.open, [out] * 8)] == [3] * 8
        assert list(out.parent.iterdir()) == [out]


def test_next_writer_brings_it_back(out: Path) -> None:
    crash_while_replacing(out)
    with pytest.raises(IndexExistsError), IndexWriter(out, ENCODER):
        pass
    assert contents(out) == expected(ROWS)
    crash_while_replacing(out)
    assert change.remove(out, lambda index: index.with_keys(["a:0"]), command="") == 1
    assert contents(out) == expected(ROWS[1:])
    assert list(out.parent.iterdir()) == [out]


def test_a_link_is_brought_back_where_it_leads_to(out: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(out)
    crash_while_replacing(out)
    assert len(Index.open(link)) == 3
    assert link.is_symlink()
    assert not out.is_symlink()


def test_what_was_replaced_never_comes_back(out: Path) -> None:
    """A writer may die after its second rename, or be unable to remove what it replaced."""
    crash_while_replacing(out)
    build(out.parent / "new.index", rows_of("new")).rename(out)
    restore(out)
    assert contents(out) == expected(rows_of("new"))
    with Staging(out, replaces=True):
        pass
    assert contents(out) == expected(rows_of("new"))
    assert list(out.parent.iterdir()) == [out]


def test_reader_waits_for_a_living_writer(out: Path) -> None:
    with Staging(out, replaces=True) as writer, ThreadPoolExecutor(1) as pool:
        out.rename(writer.folder / "previous")
        reader = pool.submit(Index.open, out)
        time.sleep(0.1)
        assert not reader.done()
        (writer.folder / "previous").rename(out)
        assert len(reader.result(timeout=10)) == 3


def test_reader_waits_no_longer_than_is_reasonable(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_PATIENCE_S", 0.05)
    with Staging(out, replaces=True) as writer:
        out.rename(writer.folder / "previous")
        with pytest.raises(IndexBusyError, match="wait for it to end, or stop it"):
            Index.open(out)
        (writer.folder / "previous").rename(out)


def test_nothing_comes_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(IndexDamagedError, match="no index at"):
        restore(tmp_path / "x.index")
    with pytest.raises(IndexDamagedError, match="no index at"), Staging(tmp_path / "x.index", replaces=True):
        pass
    assert list(tmp_path.iterdir()) == []
    staging_of(tmp_path / "x.index").mkdir()  # of a merge that was killed, say: no build that could go on
    with pytest.raises(IndexDamagedError, match="no index at"):
        Index.open(tmp_path / "x.index")


USERS = ["index/a", "previous/manifest.json", "parts/a", "scratch/a", "plan.json", "a", "lock", "helpers"]


@pytest.mark.parametrize(
    "held", [["index/a"], ["previous/manifest.json"], ["parts/a", "lock"], USERS], ids=" ".join
)
def test_a_users_folder_of_that_name_is_left_alone(tmp_path: Path, held: list[str]) -> None:
    out, users = tmp_path / "x.index", tmp_path / "x.index.partial"

    def write_users() -> None:
        for name in held:
            (users / name).parent.mkdir(parents=True, exist_ok=True)
            (users / name).write_text("mine")

    write_users()
    with pytest.raises(IndexExistsError, match=f"^{users} is in the way, .*: rename it, or the index$"):
        build(out, ROWS)
    with pytest.raises(IndexDamagedError, match="no index at"):
        Index.open(out)
    users.rename(tmp_path / "away")
    build(out, ROWS)
    write_users()
    assert len(Index.open(out)) == 3
    with pytest.raises(IndexExistsError, match="is in the way"):
        change.remove(out, lambda index: index.with_keys(["a:0"]), command="")
    assert sorted(str(f.relative_to(users)) for f in users.rglob("*") if f.is_file()) == sorted(held)
    assert {file.read_text() for file in users.rglob("*") if file.is_file()} == {"mine"}
    assert len(Index.open(out)) == 3


def test_a_users_file_of_that_name_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "x.index.partial").write_text("mine")
    with pytest.raises(IndexExistsError, match="is in the way"):
        build(tmp_path / "x.index", ROWS)
    (tmp_path / "x.index").write_text("mine")
    with pytest.raises(IndexExistsError, match=r"x\.index exists: choose another directory"):
        build(tmp_path / "x.index", ROWS)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine", "mine"]


def test_error_leaves_no_half_built_index(out: Path) -> None:
    def attempt() -> None:
        with Staging(out, replaces=True) as writer:
            writer.clear()
            (writer.index / "rows.parquet").touch()
            writer.scratch.mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt()
    assert list(out.parent.iterdir()) == [out]
    assert verify(out) == []


def test_writers_of_links_and_of_what_they_lead_to_exclude_each_other(out: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(out)
    with Staging(tmp_path / "link", replaces=True), pytest.raises(IndexBusyError):
        Staging(out, replaces=True).__enter__()


def test_readers_never_see_a_broken_index_while_it_is_replaced(out: Path) -> None:
    seen: dict[str, int] = {}
    errors: list[BaseException] = []

    def read(until: float) -> None:
        try:
            while time.monotonic() < until:
                with suppress(IndexReplacedError):
                    rows = contents(out)
                    number = max((int(label) for _, label, _ in rows.values() if label), default=0)
                    changing = rows_of("changing", 1 + number % 4, label=str(number), number=number)
                    assert rows == expected(ROWS, changing if number else [])
                    seen[str(number)] = seen.get(str(number), 0) + 1
        except BaseException as error:
            errors.append(error)

    with replacing(out) as writer:
        readers = [threading.Thread(target=read, args=(time.monotonic() + 2,)) for _ in range(2)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
        assert writer.poll() is None
        writer.kill()
    for error in errors:
        raise error
    assert len(seen) > 3, seen
    Index.open(out)
    assert verify(out) == []


def test_killed_again_and_again_it_is_always_whole(out: Path) -> None:
    rng = np.random.default_rng(0)
    for _ in range(3):
        with replacing(out) as writer:
            time.sleep(rng.uniform(0.1, 0.5))
            writer.kill()
        assert expected(ROWS).items() <= contents(out).items()
        assert verify(out) == []
