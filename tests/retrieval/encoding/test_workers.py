"""Processes that work for another."""

import gc
import os
import signal

import pytest
import torch

from retrieval.encoding.workers import _begin


def test_a_worker_whose_parent_died_before_it_began_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pool's own watchdog would take whoever adopted it for its parent, and wait for ever."""
    ends: list[int] = []
    monkeypatch.setattr(os, "_exit", ends.append)
    for module, name in [(gc, "freeze"), (signal, "signal"), (torch, "set_num_threads")]:
        monkeypatch.setattr(module, name, lambda *_: None)
    monkeypatch.setattr("retrieval.encoding.workers.sys.platform", "other")
    _begin(parent=os.getppid(), gives_way=False)
    assert ends == []
    _begin(parent=os.getppid() + 1, gives_way=False)
    assert ends == [1]
