"""Latency profiles as values: how long each submodel of a curve takes, and where.

A time belongs to a `Setting`: a processor, number format, batch size and thread count. A profile holds one
median a submodel, and how far its calls spread. Those that were not run lie between measured neighbours, on a
straight line in MACs, and say so. `matvit.runtime.latency` measures them.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10

from matvit.submodels.cost import CostModel
from matvit.submodels.submodel import Submodel, SubmodelSpace

NOISY = 0.15
"""Times of which the middle half spreads over more than this share of the median are told of."""
BUSY = 0.1
"""So are those that were measured while other work took more than this share of the machine's processors."""


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

    def __str__(self) -> str:
        threads = "" if self.threads is None else f", {self.threads} thread{'s' * (self.threads > 1)}"
        return f"{self.device} ({self.device_type}{threads}), {self.dtype}, torch {self.torch_version}"


@dataclass(frozen=True, order=True)
class Timing:
    """What the calls of one submodel took.

    Args:
        ms: Median milliseconds a call, that is a batch.
        iqr_ms: Interquartile range: what the middle half of the calls spreads over.
        other_work: Share of the machine's processors that other processes took meanwhile, 0 to 1.
        at: When it was measured, in seconds since 1970.
    """

    ms: float
    iqr_ms: float
    other_work: float
    at: float

    @property
    def spread(self) -> float:
        """The interquartile range as a share of the median."""
        return self.iqr_ms / self.ms

    @property
    def was_busy(self) -> bool:
        """Whether the machine did other work than this."""
        return self.other_work > BUSY

    def __str__(self) -> str:
        return f"{in_ms(self.ms)} ±{self.spread:.0%}"


@dataclass(frozen=True)
class Point:
    """The time of one submodel.

    Args:
        submodel: What ran.
        ms: Median milliseconds a call, that is a batch.
        timing: As it was measured; None where the time was interpolated.
    """

    submodel: Submodel
    ms: float
    timing: Timing | None = None

    @property
    def measured(self) -> bool:
        """Whether it ran, or else was interpolated."""
        return self.timing is not None

    def __str__(self) -> str:
        return str(self.timing) if self.timing else f"~{in_ms(self.ms)}"


@dataclass(frozen=True)
class Profile:
    """Times along a whole curve.

    Args:
        setting: Where and how they were measured.
        points: One a submodel of the curve, cheapest (in MACs) first; noise may bend the order of times.
        cost: What a submodel costs, to place others between these.
        others: Measured submodels off the curve.
    """

    setting: Setting
    points: tuple[Point, ...]
    cost: CostModel = field(repr=False)
    others: tuple[Point, ...] = ()

    @classmethod
    def through(
        cls, measured: Mapping[Submodel, Timing], space: SubmodelSpace, cost: CostModel, setting: Setting
    ) -> "Profile":
        """The profile that goes through measured times and straight between them."""
        on_curve = [Point(s, measured[s].ms, measured[s]) for s in space.curve if s in measured]
        known = cls(setting, tuple(on_curve), cost)
        others = tuple(Point(s, timing.ms, timing) for s, timing in measured.items() if s not in space.curve)
        return cls(setting, tuple(map(known.point, space.curve)), cost, others)

    def __str__(self) -> str:
        interpolated = "" if all(point.measured for point in self.points) else "; ~ is interpolated"
        return (
            f"ms a batch of {self.setting.batch_size} on {self.setting}; ± is the interquartile range"
            f"{interpolated}"
        )

    @property
    def timings(self) -> tuple[Timing, ...]:
        """What was measured."""
        return tuple(point.timing for point in (*self.points, *self.others) if point.timing)

    def __call__(self, submodel: Submodel) -> float:
        """Milliseconds a call: see `point`."""
        return self.point(submodel).ms

    def point(self, submodel: Submodel) -> Point:
        """The time of any submodel.

        One that was not measured is taken to lie between the measured points next to it in MACs, on a
        straight line; below the first of them it gets that one's time, which is then an upper bound. Sizes
        and merges take other times than widths of as many MACs: have those measured.
        """
        for point in (*self.points, *self.others):
            if point.submodel == submodel:
                return point
        known = [(self.cost(point.submodel).macs, point.ms) for point in self.points if point.measured]
        return Point(submodel, _interpolate(self.cost(submodel).macs, known))


def in_ms(ms: float) -> str:
    """Milliseconds with their unit: see `two_digits`."""
    return f"{two_digits(ms)} ms"


def two_digits(measured: float) -> str:
    """A measured time with the two significant digits that hold when it is measured again: 0.43, 7.1, 150."""
    rounded = float(f"{measured:.1e}")
    return f"{rounded:.{max(0, 1 - floor(log10(rounded)))}f}" if rounded > 0 else "0"


def doubt(timings: Sequence[Timing]) -> str:
    """Why measured times are not to be relied on, in a few words; empty if nothing speaks against them."""
    reasons = []
    if busy := [timing.other_work for timing in timings if timing.was_busy]:
        reasons.append(f"other work took up to {max(busy):.0%} of the processor meanwhile")
    if noisy := [timing for timing in timings if timing.spread > NOISY]:
        reasons.append(f"{len(noisy)} of {len(timings)} spread by more than {NOISY:.0%} of the median")
    return "; ".join(reasons)


def _interpolate(macs: int, known: list[tuple[int, float]]) -> float:
    """Milliseconds at `macs`, on the line through the known (MACs, ms) in order; level beyond its ends."""
    above = bisect_right(known, macs, key=lambda each: each[0])
    if above in (0, len(known)):
        return known[max(0, above - 1)][1]
    (left, left_ms), (right, right_ms) = known[above - 1 : above + 1]
    return left_ms + (right_ms - left_ms) * (macs - left) / (right - left)
