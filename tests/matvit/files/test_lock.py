"""One writer at a time, whatever becomes of it and of its children."""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import pytest
from kills import in_child, start, wait

from matvit.errors import BusyError
from matvit.files.lock import exclusive, exclusive_inside

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

Lock = Callable[[Path], AbstractContextManager[None]]


@pytest.fixture(params=[exclusive, exclusive_inside])
def lock(request: pytest.FixtureRequest) -> Lock:
    return request.param  # type: ignore[no-any-return]


def is_free(lock: Lock, place: Path) -> bool:
    """Whether another process may write there."""

    def try_it() -> None:
        try:
            with lock(place):
                pass
        except BusyError:
            os._exit(3)

    return in_child(try_it) == 0


def test_one_at_a_time_and_no_trace_of_it(lock: Lock, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "run"
    with lock(place):
        assert not is_free(lock, place)
        assert is_free(lock, tmp_path / "deep" / "other")
        with lock(place):  # Whoever holds it may take it again.
            pass
        assert not is_free(lock, place)
    assert is_free(lock, place)
    assert list((tmp_path / "deep").iterdir() if lock is exclusive else tmp_path.iterdir()) == []


def test_it_is_refused_in_a_line(lock: Lock, tmp_path: Path) -> None:
    def refused() -> None:
        with pytest.raises(BusyError, match=f"^another process is writing {tmp_path / 'run'}: wait for") as e:
            lock(tmp_path / "run").__enter__()
        assert "\n" not in str(e.value)

    with lock(tmp_path / "run"):
        assert in_child(refused) == 0
        thread = threading.Thread(target=refused)
        thread.start()
        thread.join()


def test_what_came_into_a_folder_stays_and_what_was_there_is_not_removed(tmp_path: Path) -> None:
    with exclusive_inside(tmp_path / "deep" / "results"):
        (tmp_path / "deep" / "results" / "curve.csv").touch()
    assert [file.name for file in (tmp_path / "deep" / "results").iterdir()] == ["curve.csv"]
    (tmp_path / "empty").mkdir()
    with exclusive_inside(tmp_path / "empty"):
        pass
    assert (tmp_path / "empty").is_dir()


def test_an_error_inside_lets_go(lock: Lock, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock(tmp_path / "run"):
        raise KeyboardInterrupt
    assert is_free(lock, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_it_ends_with_its_holder_though_children_live_on(lock: Lock, tmp_path: Path) -> None:
    """Such as the processes that decode images, which outlive the one that is killed."""
    heard, told = os.pipe()

    def hold() -> None:
        with lock(tmp_path / "run"):
            child = start(lambda: (os.write(told, b"%d\n" % os.getpid()), time.sleep(60)))
            wait(child)

    holder = start(hold)
    child = int(os.read(heard, 20))
    assert not is_free(lock, tmp_path / "run")
    os.kill(holder, signal.SIGKILL)
    wait(holder)
    assert is_free(lock, tmp_path / "run")
    os.kill(child, signal.SIGKILL)
    assert not any(tmp_path.iterdir()) or lock is exclusive_inside  # It was there before the last to take it.


def test_a_child_that_leaves_takes_no_lock_with_it(lock: Lock, tmp_path: Path) -> None:
    owner = os.getpid()
    try:
        with lock(tmp_path / "run"):
            if (child := os.fork()) == 0:
                raise SystemExit
            wait(child)
            assert not is_free(lock, tmp_path / "run")
    finally:
        if os.getpid() != owner:
            os._exit(0)


def test_waiting(tmp_path: Path) -> None:
    def wait_for_it() -> None:
        with exclusive(tmp_path / "run", patience_s=-1):
            pass

    with exclusive(tmp_path / "run"):
        child = start(wait_for_it)
        assert not is_free(exclusive, tmp_path / "run")
    assert wait(child) == 0


def test_many_that_come_and_go_are_never_two_inside(lock: Lock, tmp_path: Path) -> None:
    place, inside, together, entered = tmp_path / "run", set[int](), list[int](), list[int]()

    def come_and_go(number: int) -> None:
        while entered.count(number) < 20:
            with suppress(BusyError), lock(place):
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
    assert [path.name for path in tmp_path.rglob("*") if path.name != "run"] == []


@pytest.mark.parametrize("place", ["file", "file/run", "nowhere", "nowhere/run", "nowhere/deep/run"])
def test_a_place_that_cannot_be_made_says_so(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    with pytest.raises(OSError, match=r"File exists|Not a directory|No such file"):
        exclusive_inside(tmp_path / place).__enter__()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "nowhere"]


@pytest.mark.parametrize("kind", ["link", "link to nothing", "pipe", "folder"])
def test_what_is_no_lock_is_refused_and_left_alone(lock: Lock, tmp_path: Path, kind: str) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "run").mkdir()
    there = tmp_path / (".matvit-lock-run" if lock is exclusive else "run/.matvit-lock")
    make = {
        "link": lambda: there.symlink_to(tmp_path / "secret"),
        "link to nothing": lambda: there.symlink_to(tmp_path / "nothing"),
        "pipe": lambda: os.mkfifo(there),
        "folder": there.mkdir,
    }
    make[kind]()
    with pytest.raises(OSError, match=f"^{there} is no plain file, as a lock is: remove it$"):
        lock(tmp_path / "run").__enter__()
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "nothing").exists()
    assert there.is_symlink() or there.exists()
