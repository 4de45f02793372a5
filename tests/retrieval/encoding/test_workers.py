"""Processes that work for another."""

import gc
import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from retrieval.encoding.workers import _begin, in_processes


class Doubled:
    """Work on numbers."""

    def __call__(self, task: int) -> int:
        return 2 * task

    def divided(self, task: int) -> Sequence[int]:
        return [task]

    def joined(self, results: Sequence[int]) -> int:
        return sum(results)

    def lost(self, item: int) -> int:
        raise AssertionError(f"{item} ended its process")


class EndsOnce(Doubled):
    """Ends its process the first time, as another task may that is worked on at that moment."""

    def __init__(self, flag: Path) -> None:
        self._flag = flag

    def __call__(self, task: int) -> int:
        if not self._flag.exists():
            self._flag.touch()
            os._exit(1)
        return super().__call__(task)

    def divided(self, task: int) -> Sequence[int]:
        return []

    def joined(self, results: Sequence[int]) -> int:
        return results[-1]


def test_a_task_without_items_is_done_once_more_as_a_whole(tmp_path: Path) -> None:
    assert list(in_processes(EndsOnce(tmp_path / "flag"), [1, 2], workers=1, gives_way=False)) == [2, 4]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere processes begin as Python has it")
def test_work_does_not_need_the_start_method_of_the_program() -> None:
    """Of a server between them, a worker would think that its parent had died."""
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method("forkserver", force=True)
    try:
        assert list(in_processes(Doubled(), range(5), workers=2, gives_way=False)) == [0, 2, 4, 6, 8]
    finally:
        multiprocessing.set_start_method(before, force=True)


def test_a_worker_whose_parent_died_before_it_began_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool's own watchdog would take whoever adopted it for its parent, and wait for ever."""
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    for module, name in [(gc, "freeze"), (signal, "signal"), (torch, "set_num_threads")]:
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr("retrieval.encoding.workers.sys.platform", "other")
    _begin(Doubled(), parent=os.getppid(), gives_way=False)
    assert ends == []
    _begin(Doubled(), parent=os.getppid() + 1, gives_way=False)
    assert ends == [1]
