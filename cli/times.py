"""Measured times as commands show them: with a bar, and a line that says where and how."""

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from cli.output import progress, say

if TYPE_CHECKING:
    import torch

    from matvit.latency import Profile
    from matvit.submodel import Submodel
    from retrieval.encoder import Encoder


def submodel_for(encoder: "Encoder", budget: str | None) -> "Submodel":
    """The submodel for a budget; times are measured for the first one in milliseconds, if they never were."""
    from matvit.budget import resolve

    asked: list[Profile] = []

    def times() -> "Profile":
        if encoder.latency is None:
            encoder.latency = measured(encoder.model, device=encoder.device, dtype=encoder.dtype)
        asked.append(encoder.latency)
        return encoder.latency

    submodel = resolve(budget, encoder.space, encoder.cost, times)
    for profile in asked:
        point = profile.point(submodel)
        say(f"{budget}: {submodel} takes {'' if point.measured else '~'}{point.ms:.3g} ms")
    return submodel


def measured(
    encoder: Any,
    *,
    device: "torch.device",
    dtype: "torch.dtype",
    batch_size: int = 1,
    every_point: bool = False,
    refresh: bool = False,
) -> "Profile":
    """The latency profile that was kept, or a new one with a bar while it is measured; a line says which.

    Args:
        encoder: An elastic encoder, perhaps on torch's meta device.
        device: As in `matvit.latency.profile`.
        dtype: As there.
        batch_size: As there.
        every_point: Measure every submodel of the curve, interpolate none.
        refresh: As there.
    """
    from matvit.latency import Setting, lookup, profile, runnable

    setting = Setting.here(device, dtype, batch_size)
    between = None if every_point else 2
    times = None if refresh else lookup(encoder, setting, between=between)
    before = times is not None
    if times is None:
        with ExitStack() as stack:
            # A profile that could not be kept is a warning, which is told as all else is.
            stack.enter_context(warnings.catch_warnings())
            warnings.showwarning = lambda message, *_: say(f"matvit: {message}")
            bar: list[Callable[[int], None]] = []

            def start(total: int) -> None:
                bar.append(stack.enter_context(progress("Measuring", total, unit="runs")))

            def advance(count: int) -> None:
                bar[0](count)

            times = profile(
                runnable(encoder, device=device, dtype=dtype),
                device=device,
                dtype=dtype,
                batch_size=batch_size,
                between=between,
                refresh=True,
                on_total=start,
                on_point=advance,
            )
    notes = [
        f"ms a batch of {batch_size} on {setting}",
        *(["measured before (`matvit plan --measure --refresh` measures again)"] * before),
        *(["~ is interpolated"] * any(not point.measured for point in times.points)),
    ]
    say("; ".join(notes))
    return times
