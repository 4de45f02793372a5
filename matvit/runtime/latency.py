"""Measuring how long each submodel of a curve takes here, once a month: the profile is kept.

`matvit.submodels.profile` says what a profile is. They are kept as JSON under ``cache_dir() / "latency"``.
Times that were measured while other work kept the machine busy are used as long as it does.
"""

import logging
import math
import platform
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import torch

from matvit.errors import BusyError
from matvit.progress import Count, Progress, silent
from matvit.runtime.latency_store import keep, kept, structure
from matvit.runtime.stopwatch import Stopwatch, is_free
from matvit.submodels.profile import Profile, Setting, Timing, doubt
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel, SubmodelSpace

_log = logging.getLogger(__name__)
_Encoder = TypeVar("_Encoder", bound=ElasticEncoder)

WARM_UPS = 3
"""Untimed calls before the first timed one: the first calls choose kernels and lay out their memory."""
SETTLE_SECONDS = 0.2
"""Each submodel is timed for at least so long in all: a model of microseconds needs more than a few calls."""
KEPT_DAYS = 30
"""Times that are older count no more: drivers, kernels and what else runs here change."""


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
    """Measure how long a model's submodels take, or read it back if that was measured of late.

    Two models of the same `structure` share a profile, whatever their weights. What was measured while the
    machine was busy with other work is measured again once it is free. Times that vary much, or were measured
    on a busy machine, are warned of.

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
        if not (_any_busy(known.timings) and is_free()):
            day = time.strftime("%Y-%m-%d", time.localtime(min(timing.at for timing in known.timings)))
            _log.info(
                "measured before, on %s (`matvit plan -m MODEL --measure --refresh` measures again)", day
            )
            _warn(known)
            return known
        _log.info("measured before, while other work kept the machine busy; it is free now: measuring again")
    model = runnable(model, device=device, dtype=dtype)
    submodels = tuple(dict.fromkeys((*measured_submodels(model.space, between), *also)))
    count = Count(progress, "runs timed", len(submodels) * (repeats + 1))
    generator, images = torch.Generator().manual_seed(0), {}
    for submodel in submodels:
        shape = (batch_size, model.in_chans, *model.space.tokens.height_and_width(submodel))
        # Random images: zeros could take short cuts.
        images[submodel] = torch.randn(shape, generator=generator).to(device, dtype)
    measured = _timings(model, images, repeats, count)
    try:
        before = {} if refresh else _of_late(kept(_key(model, setting)))
        if not _any_busy(measured.values()):  # Those that are to be better must not stand beside the worse.
            before = {submodel: timing for submodel, timing in before.items() if not timing.was_busy}
        keep(_key(model, setting), before | measured)
    except (BusyError, OSError) as error:  # The times are good, only not for the next process.
        _log.warning("this latency profile could not be kept: %s", error)
    profile = Profile.through(measured, model.space, model.cost, setting)
    _warn(profile)
    return profile


def lookup(
    model: ElasticEncoder, setting: Setting, *, between: int | None = 2, also: Sequence[Submodel] = ()
) -> Profile | None:
    """The profile that `measure` kept for this setting, if it measured all that is asked for; nothing is run.

    That it kept one which is too old is told. The model may be on any device, torch's meta device too.
    """
    wanted = {*measured_submodels(model.space, between), *also}
    ever = kept(_key(model, setting))
    measured = _of_late(ever)
    if measured.keys() >= wanted:
        return Profile.through(measured, model.space, model.cost, setting)
    if ever.keys() >= wanted:
        _log.info("times from more than %d days ago, or of an earlier version, count no more", KEPT_DAYS)
    return None


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
def _timings(
    model: ElasticEncoder,
    images: Mapping[Submodel, torch.Tensor],
    repeats: int,
    count: Count,
) -> dict[Submodel, Timing]:
    """What calls of each submodel take with its images."""
    calls = {submodel: partial(model.cut(submodel), batch) for submodel, batch in images.items()}
    times: dict[Submodel, list[float]] = {submodel: [] for submodel in images}
    with Stopwatch(next(iter(images.values())).device) as watch:
        often: dict[Submodel, int] = {}
        for submodel, call in calls.items():
            warm = min(watch.seconds(call) for _ in range(WARM_UPS))
            often[submodel] = max(1, math.ceil(SETTLE_SECONDS / (repeats * warm)))
            count()
        # Rounds over all of them: a processor that heats up, or a neighbour that wakes, slows all alike.
        for _ in range(repeats):
            for submodel, call in calls.items():
                times[submodel] += (watch.seconds(call) for _ in range(often[submodel]))
                count()
    return {submodel: watch.timing(each) for submodel, each in times.items()}


def _of_late(measured: Mapping[Submodel, Timing]) -> dict[Submodel, Timing]:
    now, most_s = time.time(), KEPT_DAYS * 24 * 60 * 60
    return {submodel: timing for submodel, timing in measured.items() if 0 <= now - timing.at <= most_s}


def _any_busy(timings: Iterable[Timing]) -> bool:
    return any(timing.was_busy for timing in timings)


def _warn(profile: Profile) -> None:
    if why := doubt(profile.timings):
        again = (
            "once the machine is free"
            if _any_busy(profile.timings)
            else "by `matvit plan -m MODEL --measure --refresh`"
        )
        _log.warning("these times are not to be relied on: %s; they are measured again %s", why, again)


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
