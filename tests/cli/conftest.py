"""Commands, run in this process."""

import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from cli.main import main
from matvit import Submodel
from matvit.submodels.profile import Timing


@dataclass(frozen=True)
class Done:
    """What a command left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def matvit(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Done]]:
    """Runs the console script's entry point in this process."""
    handler = signal.getsignal(signal.SIGINT)

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["matvit", *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Done(int(stop.value.code or 0), *capfd.readouterr())

    yield run
    signal.signal(signal.SIGINT, handler)


@pytest.fixture
def nearly_full() -> Callable:
    """A block in which no file may grow beyond so many bytes, as on a disk that is nearly full."""

    @contextmanager
    def files_of_at_most(size: int) -> Iterator[None]:
        usual = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    return files_of_at_most


@pytest.fixture
def made_up_times(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """A millisecond a hidden unit: 64 for S, 512 for XL. Gives the threads of torch at each measurement."""
    measured: list[int] = []

    def measure(model: object, images: dict[Submodel, torch.Tensor], *_: object) -> dict:
        measured.append(torch.get_num_threads())
        return {submodel: Timing(sum(submodel.widths), 1.28, 0, time.time()) for submodel in images}

    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("matvit.runtime.latency._timings", measure)
    return measured
