import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from indexes import IndexBusyError, IndexDamagedError
from indexes.disk.writer_lock import exclusive

ROOT = Path(__file__).parents[3]
HOLD = """
import os, sys, time
from pathlib import Path
from indexes.disk.writer_lock import exclusive, helping

kind, folder, what = sys.argv[1:]
with {"exclusive": exclusive, "helping": helping}[kind](Path(folder)):
    child = 0
    if what == "fork":
        hear, tell = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(tell, b"!")
            time.sleep(60)
            os._exit(0)
        os.read(hear, 1)
    elif what == "fork and leave":
        child = os.fork()
        if child == 0:
            sys.exit()
        os.waitpid(child, 0)
    print(child, flush=True)
    sys.stdin.readline()
print("released", flush=True)
time.sleep(60)
"""


@contextmanager
def holding(kind: str, folder: Path, what: str = "") -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds a lock until it is told a line, and then lives on."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, kind, str(folder), what],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    with process:
        child = int(process.stdout.readline())
        try:
            yield process
        finally:
            process.kill()
            if child and what == "fork":
                os.kill(child, signal.SIGKILL)


def release(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "released\n"


def die(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()


def is_free(folder: Path) -> bool:
    try:
        with exclusive(folder):
            return True
    except IndexBusyError:
        return False


ENDS = pytest.mark.parametrize("end", [release, die])


def test_one_at_a_time_and_no_trace_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "x.partial"
    with exclusive(folder):
        with pytest.raises(IndexBusyError, match=r"another process is writing in .*wait"), exclusive(folder):
            pass
        assert not is_free(folder)
        assert is_free(tmp_path / "deep" / "y.partial")
    assert is_free(folder)
    assert list((tmp_path / "deep").iterdir()) == []


def test_what_was_written_stays(tmp_path: Path) -> None:
    with exclusive(tmp_path / "x.partial"):
        (tmp_path / "x.partial" / "work").touch()
    assert sorted(file.name for file in (tmp_path / "x.partial").iterdir()) == [".matvit-lock", "work"]
    assert is_free(tmp_path / "x.partial")


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), exclusive(tmp_path / "x.partial"):
        raise KeyboardInterrupt
    assert is_free(tmp_path / "x.partial")


@ENDS
@pytest.mark.parametrize("what", ["", "fork"])
def test_lock_ends_with_its_holder_whatever_its_children_do(
    tmp_path: Path, what: str, end: Callable[..., None]
) -> None:
    with holding("exclusive", tmp_path / "x.partial", what) as process:
        assert not is_free(tmp_path / "x.partial")
        end(process)
        assert is_free(tmp_path / "x.partial")


def test_a_forked_child_that_leaves_takes_no_lock_with_it(tmp_path: Path) -> None:
    with holding("exclusive", tmp_path / "x.partial", "fork and leave"):
        assert not is_free(tmp_path / "x.partial")


@ENDS
@pytest.mark.parametrize("what", ["", "fork"])
def test_next_writer_waits_for_helpers_of_the_last(
    tmp_path: Path, what: str, end: Callable[..., None]
) -> None:
    folder = tmp_path / "x.partial"
    with (
        holding("exclusive", folder) as writer,
        holding("helping", folder, what) as helper,
        holding("helping", folder) as another,
    ):
        release(writer)
        assert not is_free(folder)
        end(helper)
        assert not is_free(folder)
        end(another)
        assert is_free(folder)
    assert list(tmp_path.iterdir()) == []


def test_many_that_come_and_go_are_never_two_inside(tmp_path: Path) -> None:
    folder, inside, together, entered = tmp_path / "x.partial", set[int](), list[int](), list[int]()

    def come_and_go(number: int) -> None:
        while entered.count(number) < 20:
            with suppress(IndexBusyError), exclusive(folder):
                inside.add(number)
                entered.append(number)
                time.sleep(0.0005)
                together.append(len(inside))
                inside.discard(number)

    threads = [threading.Thread(target=come_and_go, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(together) == {1}
    assert set(entered) == set(range(4))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
@pytest.mark.parametrize("name", [".matvit-lock", "helpers"])
def test_what_is_no_lock_is_refused_and_left_alone(tmp_path: Path, name: str, kind: str) -> None:
    folder, secret = tmp_path / "x.partial", tmp_path / "secret"
    folder.mkdir()
    secret.write_text("secret")
    there = folder / name
    make = {
        "link": lambda: there.symlink_to(secret),
        "link to nothing": lambda: there.symlink_to(tmp_path / "nothing"),
        "pipe": lambda: os.mkfifo(there),
        "folder": there.mkdir,
    }
    make[kind]()
    with pytest.raises(IndexDamagedError, match=f"^{there} is no plain file, as a lock is: remove it$"):
        exclusive(folder).__enter__()
    assert secret.read_text() == "secret"
    assert not (tmp_path / "nothing").exists()
    assert there.is_symlink() or there.exists()
