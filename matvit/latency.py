"""Latency profiles: how long each submodel of the Mix'n'Match curve takes here, measured once and kept.

A time belongs to a `Setting`: this processor, number format, batch size and thread count. A profile holds
one median a submodel. Those that were not run lie between measured neighbours, on a straight line in MACs,
and say so. Profiles are kept as JSON under ``cache_dir() / "latency"``.
"""

import math
import platform
import statistics
import subprocess
import time
import warnings
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from matvit.cost import CostModel
from matvit.errors import BusyError
from matvit.latency_store import keep, kept, structure
from matvit.submodel import Submodel, SubmodelSpace

WARM_UPS = 3
"""Untimed calls before the first timed one: the first calls choose kernels and lay out their memory."""
SETTLE_SECONDS = 0.2
"""Each submodel is timed for at least so long in all: a model of microseconds needs more than a few calls."""


@dataclass(frozen=True)
class Setting:
    """All but the model that a time depends on.

    Args:
        device: Name of the processor or GPU.
        device_type: ``cpu``, ``cuda`` or ``mps``.
        dtype: Of images and weights, such as ``float32``.
        batch_size: Images a call.
        threads: Of torch on a CPU; None elsewhere.
        torch_version: Kernels change with it.
    """

    device: str
    device_type: str
    dtype: str
    batch_size: int
    threads: int | None
    torch_version: str

    @classmethod
    def here(cls, device: torch.device, dtype: torch.dtype, batch_size: int = 1) -> "Setting":
        """The setting of a model that would run on this machine now."""
        on_cpu = device.type == "cpu"
        return cls(
            device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
            device_type=device.type,
            dtype=str(dtype).removeprefix("torch."),
            batch_size=batch_size,
            threads=torch.get_num_threads() if on_cpu else None,
            torch_version=str(torch.__version__),
        )

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.device} ({self.device_type}{threads}), {self.dtype}, torch {self.torch_version}"


@dataclass(frozen=True)
class Point:
    """The time of one submodel.

    Args:
        submodel: What ran.
        ms: Median milliseconds a call, that is a batch.
        measured: False where the time was interpolated.
    """

    submodel: Submodel
    ms: float
    measured: bool


@dataclass(frozen=True)
class Profile:
    """Times along the whole Mix'n'Match curve.

    Args:
        setting: Where and how they were measured.
        points: One a submodel of the curve, cheapest (in MACs) first; noise may bend the order of times.
        cost: What a submodel costs, to place others between these.
    """

    setting: Setting
    points: tuple[Point, ...]
    cost: CostModel = field(repr=False)

    @classmethod
    def through(
        cls, measured: Mapping[Submodel, float], space: SubmodelSpace, cost: CostModel, setting: Setting
    ) -> "Profile":
        """The profile that goes through measured times (ms a call) and straight between them."""
        known = cls(setting, tuple(Point(s, measured[s], True) for s in space.curve if s in measured), cost)
        return cls(setting, tuple(map(known.point, space.curve)), cost)

    def __call__(self, submodel: Submodel) -> float:
        """Milliseconds a call: see `point`."""
        return self.point(submodel).ms

    def point(self, submodel: Submodel) -> Point:
        """The time of any submodel.

        One off the curve is taken to lie between the measured points next to it in MACs, on a straight
        line; below the first of them it gets that one's time, which is then an upper bound.
        """
        for point in self.points:
            if point.submodel == submodel:
                return point
        known = [(self.cost(point.submodel).macs, point.ms) for point in self.points if point.measured]
        return Point(submodel, _interpolate(self.cost(submodel).macs, known), False)


def profile(
    model: Any,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 1,
    between: int | None = 2,
    repeats: int = 15,
    refresh: bool = False,
    on_point: Callable[[int], None] = lambda _: None,
    on_total: Callable[[int], None] = lambda _: None,
) -> Profile:
    """Measure how long a model's submodels take, or read it back if that was measured before.

    Two models of the same `structure` share a profile, whatever their weights.

    Args:
        model: An elastic timm model in evaluation mode, already on `device` and in `dtype`.
        device: Where it runs.
        dtype: Of the images it is given.
        batch_size: Images a call.
        between: Submodels to measure between two neighbouring granularities, evenly spaced; the others
            are interpolated. None measures every one.
        repeats: Timed rounds, at least one call of every submodel in each.
        refresh: Measure again what is known.
        on_point: Called with 1 when a submodel was warmed up, and in each round when it was timed.
        on_total: Called before the first of these, with how many there will be. Not called if nothing runs.
    """
    setting = Setting.here(device, dtype, batch_size)
    known = None if refresh else lookup(model, setting, between=between)
    if known is not None:
        return known
    submodels = measured_submodels(model.space, between)
    on_total(len(submodels) * (repeats + 1))
    shape = (batch_size, model.in_chans, *model.patch_embed.img_size)
    # Random images: zeros could take short cuts.
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    measured = _measure(model, images, submodels, repeats, on_point)
    try:
        keep(_key(model, setting), measured)
    except (BusyError, OSError) as error:  # The times are good, only not for the next process.
        warnings.warn(f"this latency profile could not be kept: {error}", stacklevel=2)
    return Profile.through(measured, model.space, model.cost, setting)


def lookup(model: Any, setting: Setting, *, between: int | None = 2) -> Profile | None:
    """The profile that `profile` kept for this setting, if it measured all that is asked for; nothing is run.

    The model may be on any device, torch's meta device too.
    """
    measured = kept(_key(model, setting))
    if not measured.keys() >= set(measured_submodels(model.space, between)):
        return None
    return Profile.through(measured, model.space, model.cost, setting)


def runnable(model: Any, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Place and cast a model for measuring; one without weights, on torch's meta device, gets random ones.

    Time does not depend on the values of weights, unless they are NaN or denormal, as uninitialised memory
    may be: small random numbers stand in for them.
    """
    if any(tensor.is_meta for tensor in model.parameters()):
        model.to_empty(device="cpu")
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                if tensor.is_floating_point():
                    tensor.normal_(std=0.02)
                else:
                    tensor.zero_()
    return model.to(device=device, dtype=dtype)


def measured_submodels(space: SubmodelSpace, between: int | None) -> tuple[Submodel, ...]:
    """The granularities and `between` evenly spaced submodels between neighbours, cheapest first."""
    curve = space.curve
    if between is None or between >= space.depth - 1:
        return curve
    gaps = between + 1
    corners = range(0, len(curve), space.depth)
    steps = [low + round(i * space.depth / gaps) for low, _ in pairwise(corners) for i in range(gaps)]
    return tuple(curve[step] for step in (*steps, len(curve) - 1))


@torch.inference_mode()
def _measure(
    model: Any,
    images: torch.Tensor,
    submodels: tuple[Submodel, ...],
    repeats: int,
    on_point: Callable[[int], None],
) -> dict[Submodel, float]:
    """Median milliseconds a call of each submodel."""
    encoders = {submodel: model.extract(submodel, copy=False) for submodel in submodels}

    def seconds(submodel: Submodel) -> float:
        _wait(images.device)
        start = time.perf_counter()
        encoders[submodel](images)
        _wait(images.device)
        return time.perf_counter() - start

    calls: dict[Submodel, int] = {}
    for submodel in submodels:
        warm = min(seconds(submodel) for _ in range(WARM_UPS))
        calls[submodel] = max(1, math.ceil(SETTLE_SECONDS / (repeats * warm)))
        on_point(1)
    times: dict[Submodel, list[float]] = {submodel: [] for submodel in submodels}
    # Rounds over all of them: a processor that heats up, or a neighbour that wakes, slows all alike.
    for _ in range(repeats):
        for submodel in submodels:
            times[submodel] += (seconds(submodel) for _ in range(calls[submodel]))
            on_point(1)
    return {submodel: 1000 * statistics.median(each) for submodel, each in times.items()}


def _wait(device: torch.device) -> None:
    # A GPU's call returns before its work is done.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _interpolate(macs: int, known: list[tuple[int, float]]) -> float:
    """Milliseconds at `macs`, on the line through the known (MACs, ms) in order; level beyond its ends."""
    above = bisect_right(known, macs, key=lambda each: each[0])
    if above in (0, len(known)):
        return known[max(0, above - 1)][1]
    (left, left_ms), (right, right_ms) = known[above - 1 : above + 1]
    return left_ms + (right_ms - left_ms) * (macs - left) / (right - left)


@cache
def _processor() -> str:
    """The model name of this machine's processor, as far as the system tells it."""
    try:
        if platform.system() == "Darwin":
            command = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except (OSError, subprocess.SubprocessError):
        pass
    return platform.processor() or platform.machine()


def _key(model: Any, setting: Setting) -> dict[str, Any]:
    return {"structure": structure(model), "setting": asdict(setting)}
