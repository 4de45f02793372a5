"""A directory is the old one whole or the new one whole, wherever its writer was killed."""

import os
import threading
import time
from pathlib import Path

import pytest
from kills import KILLED, die_before, in_child

from matvit.errors import BusyError
from matvit.files import atomic
from matvit.files.atomic import discard, reads_whole, restore, tidy, whole_directory, whole_file
from matvit.files.lock import exclusive

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


@pytest.fixture(params=["swap", "no swap"])
def swaps(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file system can swap two names."""
    if request.param == "no swap":
        monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    return bool(request.param == "swap")


def write(directory: Path, text: str) -> None:
    with whole_directory(directory) as staging:
        (staging / "a.txt").write_text(f"{text} a")
        (staging / "b.txt").write_text(f"{text} b")


def files(directory: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in directory.iterdir()}


def whole(text: str) -> dict[str, str]:
    return {"a.txt": f"{text} a", "b.txt": f"{text} b"}


@pytest.mark.parametrize("there", [True, False], ids=["replaced", "first"])
def test_killed_at_any_moment(tmp_path: Path, there: bool, swaps: bool) -> None:
    seen = []
    for moment in range(100):
        place = tmp_path / str(moment) / "last"
        place.parent.mkdir()
        if there:
            write(place, "old")

        def killed(place: Path = place, moment: int = moment) -> None:
            die_before(moment, place.parent)
            write(place, "new")

        status = in_child(killed)
        found = files(place) if place.exists() else None
        assert found in (None, whole("old"), whole("new")), "never a part of it"
        assert found or not there or not swaps, "always one of the two"
        restore(place)
        after = files(place) if place.exists() else None
        assert after in ((whole("old") if there else None), whole("new"))
        assert found is None or after == found, "what could be read stays"
        tidy(place)
        assert (files(place) if place.exists() else None) == after
        assert [p.name for p in place.parent.iterdir()] == (["last"] if after else [])
        write(place, "newer")
        assert files(place) == whole("newer")
        seen.append((found == whole("new"), found is None))
        if status == 0:
            break
        assert status == KILLED
    assert moment > 10
    assert seen[-1] == (True, False)
    assert ((False, True) in seen) == (not there or not swaps), (
        "the instant between two renames was among them"
    )
    assert ((False, False) in seen) == there


def test_a_writer_that_fails_changes_nothing(tmp_path: Path) -> None:
    place = tmp_path / "last"
    write(place, "old")
    with pytest.raises(FileNotFoundError), whole_directory(place) as staging:
        (staging / "a.txt").write_text((tmp_path / "absent").read_text())
    assert files(place) == whole("old")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_a_rename_that_fails_brings_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, rename = tmp_path / "last", Path.rename
    write(place, "old")

    def refuse(self: Path, target: Path) -> Path:
        if self.name == ".matvit-new-last":
            raise OSError("no")
        return rename(self, target)

    monkeypatch.setattr(atomic, "exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(OSError, match="no"):
        write(place, "new")
    assert files(place) == whole("old")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def test_others_may_read_what_was_written(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "last"
    write(place, "new")
    assert place.stat().st_mode & 0o777 == 0o755
    assert {file.stat().st_mode & 0o777 for file in place.iterdir()} == {0o644}


def test_a_link_leads_to_what_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "disk" / "last", "old")
    (tmp_path / "last").symlink_to(tmp_path / "disk" / "last")
    write(tmp_path / "last", "new")
    assert (tmp_path / "last").is_symlink()
    assert files(tmp_path / "disk" / "last") == whole("new")
    assert [p.name for p in (tmp_path / "disk").iterdir()] == ["last"]


# --- leftovers ---


@pytest.mark.parametrize("name", ["last", "a[b]c", "größer\\"])
def test_what_a_user_keeps_beside_it_is_left_alone(tmp_path: Path, name: str) -> None:
    """Whatever of a checkpoint is in it: with an umask of 077, a user's folders are private, too."""
    ours = [f".matvit-new-{name}", f".matvit-old-{name}"]
    beside = ["old-{}", "new-{}", "{}-replaced", "{}-original", "{}-a1_b2c3d", "{}.lock"]
    users = [f".{each.format(name)}" for each in beside]
    (tmp_path / name).mkdir()
    for each in (*ours, *users):
        (tmp_path / each).mkdir(mode=0o700)
        (tmp_path / each / "config.json").write_text("mine")
    tidy(tmp_path / name)
    assert {file.name for file in tmp_path.iterdir()} == {name, *users}
    write(tmp_path / name, "new")
    discard(tmp_path / name)
    restore(tmp_path / name)
    tidy(tmp_path / name)
    write_file(tmp_path / name, "new")
    (tmp_path / name).unlink()
    assert {file.name for file in tmp_path.iterdir()} == set(users)
    assert all(files(tmp_path / each) == {"config.json": "mine"} for each in users)


@pytest.mark.parametrize("users", [".old-curve.csv", ".new-curve.csv", ".curve.csv.lock"])
def test_a_users_file_is_left_alone(tmp_path: Path, users: str) -> None:
    (tmp_path / users).write_text("mine")
    write_file(tmp_path / "curve.csv", "new")
    write(tmp_path / "curve.csv-folder", "new")
    tidy(tmp_path / "curve.csv")
    assert (tmp_path / users).read_text() == "mine"


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_file_is_not_replaced_by_a_directory(tmp_path: Path, when: str, swaps: bool) -> None:
    place = tmp_path / "last"
    refused = pytest.raises(
        NotADirectoryError, match=f"^{place} is a file, where a directory is to be written: "
    )
    if when == "before":
        place.write_text("mine")
        with refused:
            write(place, "new")
    else:
        with refused, whole_directory(place) as staging:
            (staging / "a.txt").write_text("new a")
            place.write_text("mine")
    assert place.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [place]


def test_what_stepped_aside_is_brought_back(tmp_path: Path) -> None:
    """By readers and by the next writer."""
    for bring_back in (restore, tidy):
        (tmp_path / ".matvit-old-last").mkdir()
        (tmp_path / ".matvit-old-last" / "config.json").write_text("{}")
        bring_back(tmp_path / "last")
        assert files(tmp_path / "last") == {"config.json": "{}"}
        assert [file.name for file in tmp_path.iterdir()] == ["last"]
        discard(tmp_path / "last")
        assert list(tmp_path.iterdir()) == []


def test_what_is_removed_is_never_half_there(tmp_path: Path) -> None:
    for moment in range(50):
        place = tmp_path / str(moment) / "kept"
        write(place, "old")

        def killed(place: Path = place, moment: int = moment) -> None:
            die_before(moment, place.parent)
            discard(place)

        status = in_child(killed)
        assert not place.exists() or files(place) == whole("old")
        tidy(place)
        assert [file.name for file in place.parent.iterdir()] == (["kept"] if place.exists() else [])
        if status == 0:
            break
    assert moment > 5


# --- readers and writers at once ---


def test_readers_see_one_directory_though_it_be_replaced(tmp_path: Path, swaps: bool) -> None:
    place, stop = tmp_path / "last", threading.Event()
    write(place, "0")

    def write_on() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            write(place, str(number))

    @reads_whole
    def read(directory: Path) -> tuple[str, str]:
        first = (directory / "a.txt").read_text()
        time.sleep(0.002)
        return first, (directory / "b.txt").read_text()

    writer = threading.Thread(target=write_on)
    writer.start()
    try:
        for _ in range(50):
            a, b = read(place)
            assert a.split()[0] == b.split()[0]
    finally:
        stop.set()
        writer.join()


@pytest.mark.parametrize("name", ["absent", "x" * 5000, "a\0b", "loop", "file/inside"])
def test_what_is_not_there_is_said_by_the_reader(tmp_path: Path, name: str) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()

    @reads_whole
    def read(directory: Path) -> str:
        raise LookupError(directory)

    with pytest.raises(LookupError):
        read(tmp_path / name)


def test_a_second_writer_is_refused_and_disturbs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_PATIENCE_S", 0.01)
    place = tmp_path / "last"
    write(place, "old")

    def second() -> None:
        for refused in (lambda: write(place, "mine"), lambda: tidy(place), lambda: discard(place)):
            with pytest.raises(BusyError, match=f"another process is writing {place}: wait for it"):
                refused()

    with whole_directory(place) as staging:
        (staging / "a.txt").write_text("new a")
        assert in_child(second) == 0
        (staging / "b.txt").write_text("new b")
    assert files(place) == whole("new")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


# --- single files ---


def write_file(path: Path, text: str) -> None:
    with whole_file(path) as new:
        assert new.suffix == path.suffix  # which tells pictures' formats
        new.write_text(text)


def test_a_file_is_whole_wherever_its_writer_was_killed(tmp_path: Path) -> None:
    for moment in range(50):
        place = tmp_path / str(moment) / "curve.csv"
        place.parent.mkdir()
        write_file(place, "old" * 100)

        def killed(place: Path = place, moment: int = moment) -> None:
            die_before(moment, place.parent)
            write_file(place, "new" * 100)

        status = in_child(killed)
        assert place.read_text() in ("old" * 100, "new" * 100)
        write_file(place, "newer")
        assert place.read_text() == "newer"
        assert [file.name for file in place.parent.iterdir()] == ["curve.csv"]
        if status == 0:
            break
    assert moment > 5


def test_a_file_that_could_not_be_written_is_as_it_was(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "curve.csv"
    with pytest.raises(FileNotFoundError), whole_file(place) as new:
        new.write_text((tmp_path / "absent").read_text())
    assert list(place.parent.iterdir()) == []


def test_a_link_that_lies_where_a_file_is_written_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (tmp_path / ".matvit-new-curve.csv").symlink_to("secret")
    write_file(tmp_path / "curve.csv", "new")
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (tmp_path / "curve.csv").is_symlink()


def test_a_link_leads_to_the_file_that_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "curve.csv").symlink_to(tmp_path / "disk" / "curve.csv")
    for text in ("new", "newer"):
        write_file(tmp_path / "curve.csv", text)
        assert (tmp_path / "disk" / "curve.csv").read_text() == text
        assert (tmp_path / "curve.csv").is_symlink()


def test_a_pipe_is_written_itself(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "curve.csv")
    with whole_file(tmp_path / "curve.csv") as new, whole_file(Path("/dev/stdout")) as stdout:
        assert (new, stdout) == (tmp_path / "curve.csv", Path("/dev/stdout"))
    assert [file.name for file in tmp_path.iterdir()] == ["curve.csv"]


def test_another_writer_of_a_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "times.json"
    threads = [threading.Thread(target=write_file, args=(place, str(i) * 1000)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(place.read_text())) == 1
    assert len(place.read_text()) == 1000
    monkeypatch.setattr(atomic, "_PATIENCE_S", 0.01)

    def second() -> None:
        with pytest.raises(BusyError):
            write_file(place, "mine")

    with exclusive(place):
        assert in_child(second) == 0
