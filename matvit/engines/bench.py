"""Ways to run a model, by its name, on this machine: what `compare` measures, and where."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from matvit.engines.compare import Result, compare, open_model, ways_on
from matvit.progress import Progress, silent
from matvit.runtime.device import pick_device
from matvit.runtime.latency import measure, setting_here
from matvit.submodels.budget import resolve
from matvit.submodels.profile import Profile, Setting, doubt
from matvit.submodels.submodel import Submodel


@dataclass(frozen=True)
class Bench:
    """What was measured, and where.

    Attributes:
        model: What was asked for.
        random_weights: Whether the model's weights are random.
        submodels: What ran.
        batch_sizes: Images a call.
        repeats: Timed rounds, of which the medians are given.
        setting: The machine.
        results: See `matvit.engines.compare.compare`.
    """

    model: str
    random_weights: bool
    submodels: tuple[Submodel, ...]
    batch_sizes: tuple[int, ...]
    repeats: int
    setting: Setting
    results: tuple[Result, ...]

    @property
    def doubt(self) -> str:
        """Why the times are not to be relied on; empty if nothing speaks against them."""
        return doubt([result.timing for result in self.results if result.timing])

    def table(self) -> list[dict[str, Any]]:
        """A row for each result, in plain values."""
        return [result.row() for result in self.results]

    def to_dict(self) -> dict[str, Any]:
        """All of it in plain values."""
        return {
            "model": self.model,
            "random_weights": self.random_weights,
            "device": self.setting.device,
            "threads": self.setting.threads,
            "torch": self.setting.torch_version,
            "repeats": self.repeats,
            "results": self.table(),
        }


def bench(
    model: str,
    *,
    budgets: Sequence[str] | None = None,
    batch_sizes: Sequence[int] | None = None,
    repeats: int = 20,
    engines: Sequence[str] | None = None,
    threads: int | None = None,
    device: str = "auto",
    progress: Progress = silent,
) -> Bench:
    """Time the submodels of a model by every engine, beside timm's eager full encoder.

    Args:
        model: As `matvit.engines.compare.open_model` takes it.
        budgets: Which submodels; None is every granularity.
        batch_sizes: Images a call; None is 1, and on a GPU 32 and 256, too.
        repeats: Timed rounds.
        engines: Names of engines beside timm; None is all.
        threads: Of torch on a CPU; None leaves them as they are.
        device: Where to run.
        progress: Told of downloads and of what is timed.

    Raises:
        UnknownModelError: There is no such model.
        BudgetError: No submodel fits one of the budgets.
        DeviceError: There is no such device here.
        EngineError: There is no such engine, or it does not run on this device.
    """
    where = pick_device(device)
    ways = ways_on(where, engines)
    if threads:
        torch.set_num_threads(threads)
    encoder, untrained = open_model(model, progress=progress)
    encoder.to(where)
    space, cost = encoder.space, encoder.cost

    def times() -> Profile:
        return measure(encoder, device=where, dtype=torch.float32, progress=progress)

    chosen = [resolve(budget, space, cost, times) for budget in budgets or space.granularities]
    submodels = tuple(dict.fromkeys(chosen))
    sizes = tuple(batch_sizes or ([1, 32, 256] if where.type == "cuda" else [1]))
    results = compare(
        encoder, ways=ways, submodels=submodels, batch_sizes=sizes, repeats=repeats, progress=progress
    )
    return Bench(model, untrained, submodels, sizes, repeats, setting_here(where, torch.float32), results)
