"""Two commands that write to one place: the second is refused in a line, and changes nothing."""

from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest

from matvit.files.lock import exclusive, exclusive_inside


@pytest.mark.parametrize(
    "command",
    [
        "evaluate {queries} -i {index} -o {out} --budget S",
        "demo -o {out}",
        "elasticize {queries} -m {checkpoint} -o {out}",
        "notebook quickstart --execute -o {out}",
    ],
    ids=lambda command: command.split()[0],
)
@pytest.mark.parametrize("there", [False, True])
def test_the_second_is_refused(
    matvit: Callable,
    index: Path,
    queries: Path,
    checkpoint: Path,
    tmp_path: Path,
    command: str,
    there: bool,
) -> None:
    out = tmp_path / "out"
    if there:
        out.mkdir()
    place = out / "01_quickstart.ipynb" if "notebook" in command else out
    lock = exclusive if command.startswith(("elasticize", "notebook")) else exclusive_inside

    def second() -> None:
        words = [word.format(**places) for word in command.split()]
        done = matvit(*words, *([] if "notebook" in command else ["--device", "cpu"]))
        assert (done.code, done.out) == (1, "")
        (line,) = done.err.splitlines()
        assert line == f"matvit: another process is writing {place}: wait for it to end, or stop it"

    places = {"queries": queries, "index": index, "out": out, "checkpoint": checkpoint}
    with lock(place):
        before = sorted(tmp_path.rglob("*"))
        thread = Thread(target=second)
        thread.start()
        thread.join()
        assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_is_not_left_behind_by_a_mistake(matvit: Callable, index: Path, tmp_path: Path) -> None:
    done = matvit("evaluate", tmp_path / "nowhere", "-i", index, "-o", tmp_path / "deep" / "out")
    assert done.code == 2
    assert list(tmp_path.iterdir()) == []
