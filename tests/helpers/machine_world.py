"""A machine whose other work is made up, for tests of what is said of times."""

import math
from dataclasses import dataclass

import pytest


@dataclass
class Machine:
    """One whose processors spend a second from each look to the next.

    Attributes:
        other_work: The share of it that other processes take.
    """

    other_work: float = 0.0
    total: float = 0.0
    others: float = 0.0

    def look(self) -> tuple[float, float]:
        self.total += 1
        self.others += self.other_work
        return self.total, self.others


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """Stands in for this one, which may be busy: it does no other work until it is told to.

    Nor is it told of times that vary, as those of this one do.
    """
    made_up = Machine()
    monkeypatch.setattr("matvit.submodels.profile.NOISY", math.inf)
    monkeypatch.setattr("matvit.runtime.stopwatch.LOOK_SECONDS", 0)
    monkeypatch.setattr("matvit.runtime.stopwatch._processor_seconds", made_up.look)
    return made_up
