"""Measuring how long each submodel of a curve takes here, once: the profile is kept.

`matvit.submodels.profile` says what a profile is. They are kept as JSON under ``cache_dir() / "latency"``.
"""

import logging
import math
import platform
import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

from matvit.errors import BusyError
from matvit.progress import Count, Progress, silent
from matvit.runtime.latency_store import keep, kept, structure
from matvit.submodels.profile import Profile, Setting
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel, SubmodelSpace

_log = logging.getLogger(__name__)
_Encoder = TypeVar("_Encoder", bound=ElasticEncoder)

WARM_UPS = 3
"""Untimed calls before the first timed one: the first calls choose kernels and lay out their memory."""
SETTLE_SECONDS = 0.2
"""Each submodel is timed for at least so long in all: a model of microseconds needs more than a few calls."""


def setting_here(device: torch.device, dtype: torch.dtype, batch_size: int = 1) -> Setting:
    """The setting of a model that would run on this machine now."""
    on_cpu = device.type == "cpu"
    return Setting(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        device_type=device.type,
        dtype=str(dtype).removeprefix("torch."),
        batch_size=batch_size,
        threads=torch.get_num_threads() if on_cpu else None,
        torch_version=str(torch.__version__),
    )


def measure(
    model: ElasticEncoder,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 1,
    between: int | None = 2,
    repeats: int = 15,
    also: Sequence[Submodel] = (),
    refresh: bool = False,
    progress: Progress = silent,
) -> Profile:
    """Measure how long a model's submodels take, or read it back if that was measured before.

    Two models of the same `structure` share a profile, whatever their weights.

    Args:
        model: An elastic encoder in evaluation mode; if it must run, it is made `runnable` first.
        device: Where it runs.
        dtype: Of the images it is given.
        batch_size: Images a call.
        between: Submodels to measure between two neighbouring granularities, evenly spaced; the others
            are interpolated. None measures every one.
        also: Other submodels to measure.
        repeats: Timed rounds, at least one call of every submodel in each.
        refresh: Measure again what is known.
        progress: Told of "runs timed": one a submodel when it was warmed up, and one in each round.
    """
    setting = setting_here(device, dtype, batch_size)
    known = None if refresh else lookup(model, setting, between=between, also=also)
    if known is not None:
        _log.info("measured before (`matvit plan --measure --refresh` measures again)")
        return known
    model = runnable(model, device=device, dtype=dtype)
    submodels = tuple(dict.fromkeys((*measured_submodels(model.space, between), *also)))
    count = Count(progress, "runs timed", len(submodels) * (repeats + 1))
    generator, images = torch.Generator().manual_seed(0), {}
    for submodel in submodels:
        shape = (batch_size, model.in_chans, *model.space.tokens.height_and_width(submodel))
        # Random images: zeros could take short cuts.
        images[submodel] = torch.randn(shape, generator=generator).to(device, dtype)
    measured = _medians(model, images, repeats, count)
    try:
        before = {} if refresh else kept(_key(model, setting))
        keep(_key(model, setting), before | measured)
    except (BusyError, OSError) as error:  # The times are good, only not for the next process.
        _log.warning("this latency profile could not be kept: %s", error)
    return Profile.through(measured, model.space, model.cost, setting)


def lookup(
    model: ElasticEncoder, setting: Setting, *, between: int | None = 2, also: Sequence[Submodel] = ()
) -> Profile | None:
    """The profile that `measure` kept for this setting, if it measured all that is asked for; nothing is run.

    The model may be on any device, torch's meta device too.
    """
    measured = kept(_key(model, setting))
    if not measured.keys() >= {*measured_submodels(model.space, between), *also}:
        return None
    return Profile.through(measured, model.space, model.cost, setting)


def runnable(model: _Encoder, *, device: torch.device, dtype: torch.dtype) -> _Encoder:
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
    """The granularities and `between` evenly spaced submodels between neighbours, cheapest first.

    All of another curve than Mix'n'Match: what lies between its points is of other kinds.
    """
    curve = space.curve
    if not space.is_mixnmatch or between is None or between >= space.depth - 1:
        return curve
    gaps = between + 1
    corners = range(0, len(curve), space.depth)
    steps = [low + round(i * space.depth / gaps) for low, _ in pairwise(corners) for i in range(gaps)]
    return tuple(curve[step] for step in (*steps, len(curve) - 1))


@torch.inference_mode()
def _medians(
    model: ElasticEncoder,
    images: Mapping[Submodel, torch.Tensor],
    repeats: int,
    count: Count,
) -> dict[Submodel, float]:
    """Median milliseconds a call of each submodel with its images."""
    encoders = {submodel: model.cut(submodel) for submodel in images}
    device = next(iter(images.values())).device

    def seconds(submodel: Submodel) -> float:
        _wait(device)
        start = time.perf_counter()
        encoders[submodel](images[submodel])
        _wait(device)
        return time.perf_counter() - start

    calls: dict[Submodel, int] = {}
    for submodel in images:
        warm = min(seconds(submodel) for _ in range(WARM_UPS))
        calls[submodel] = max(1, math.ceil(SETTLE_SECONDS / (repeats * warm)))
        count()
    times: dict[Submodel, list[float]] = {submodel: [] for submodel in images}
    # Rounds over all of them: a processor that heats up, or a neighbour that wakes, slows all alike.
    for _ in range(repeats):
        for submodel in images:
            times[submodel] += (seconds(submodel) for _ in range(calls[submodel]))
            count()
    return {submodel: 1000 * statistics.median(each) for submodel, each in times.items()}


def _wait(device: torch.device) -> None:
    # A GPU's call returns before its work is done.
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


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


def _key(model: ElasticEncoder, setting: Setting) -> dict[str, Any]:
    return {"structure": structure(model), "setting": asdict(setting)}
