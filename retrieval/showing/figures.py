"""Curves: accuracy, consistency and time against compute."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from matvit.submodels.profile import Profile
from retrieval.showing.pictures import save_figure
from retrieval.showing.series import Series

# Okabe and Ito's palette: told apart by colour-blind readers, and by their greys in print.
# With one marker more than colours, 56 curves look different.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")


def plot_curve(
    path: Path,
    series: Sequence[Series],
    *,
    full_gmacs: float,
    title: str = "",
    floors: Mapping[str, float] | None = None,
) -> None:
    """Draw accuracy against query compute, with the share of the full encoder's compute on a second axis.

    Args:
        path: A .png, .pdf or .svg file.
        series: The first one is the subject; its point at XL, if it has one, draws the XL line.
        full_gmacs: Cost of the full encoder.
        title: Of the figure.
        floors: Name -> accuracy (0 to 1) of methods without an encoder, drawn as lines.
    """
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    unit, scale = compute_unit(full_gmacs)
    for curve, colour, marker in zip(series, cycle(COLOURS), cycle(MARKERS), strict=False):
        compute = [scale * gmacs for gmacs in curve.gmacs]
        percent = [100 * value for value in curve.values]
        axes.fill_between(
            compute,
            [100 * low for low, _ in curve.intervals],
            [100 * high for _, high in curve.intervals],
            color=colour,
            alpha=0.15,
            linewidth=0,
        )
        axes.plot(compute, percent, color=colour, marker=marker, markersize=3.5, label=curve.name)
        if curve is series[0]:
            _name_points(axes, compute, percent, curve.labels)
    if series[0].gmacs[-1] == full_gmacs:
        best = 100 * series[0].values[-1]
        axes.axhline(best, color=COLOURS[0], linestyle=":", linewidth=1, label="XL queries")
    for (name, value), grey in zip((floors or {}).items(), ("0.35", "0.55", "0.7"), strict=False):
        axes.axhline(100 * value, color=grey, linestyle="--", linewidth=1, label=name)
    axes.set(xlabel=f"query compute ({unit} an image)", ylabel="1-NN accuracy (%)", title=title)
    axes.grid(alpha=0.25)
    axes.margins(y=0.12)
    add_share_axis(axes, scale * full_gmacs)
    axes.legend(fontsize="small", loc="best")
    save_figure(figure, path)


def plot_consistency(
    path: Path, cosines: Sequence[Series], shares: Sequence[Series], *, full_gmacs: float
) -> None:
    """Draw how much of the full encoder's answers remains, against query compute.

    Args:
        path: A .png, .pdf or .svg file.
        cosines: To the full encoder's embeddings; the first is drawn as a whole line, others dashed.
        shares: Of queries that are answered alike.
        full_gmacs: Cost of the full encoder.
    """
    figure = Figure(figsize=(7.2, 5.6), layout="constrained")
    above, below = figure.subplots(2, sharex=True, height_ratios=(2, 3))
    unit, scale = compute_unit(full_gmacs)
    for line in cosines:
        compute = [scale * gmacs for gmacs in line.gmacs]
        style = "-" if line is cosines[0] else "--"
        above.plot(compute, line.values, style, color=COLOURS[0], marker="o", markersize=3, label=line.name)
        if line is cosines[0]:
            _name_points(above, compute, line.values, line.labels)
    for line, colour, marker in zip(shares, COLOURS[1:], MARKERS[1:], strict=False):
        compute = [scale * gmacs for gmacs in line.gmacs]
        bounds = [[100 * each[end] for each in line.intervals] for end in (0, 1)]
        below.fill_between(compute, *bounds, color=colour, alpha=0.15, linewidth=0)
        percents = [100 * value for value in line.values]
        below.plot(compute, percents, color=colour, marker=marker, markersize=3.5, label=line.name)
    above.set(ylabel="cosine to XL's embedding")
    below.set(xlabel=f"query compute ({unit} an image)", ylabel="queries answered as by XL (%)")
    for axes in (above, below):
        axes.grid(alpha=0.25)
        axes.margins(y=0.15)
        if axes.lines:
            axes.legend(fontsize="small", loc="lower right")
    add_share_axis(above, scale * full_gmacs)
    save_figure(figure, path)


def plot_latency(path: Path, profile: Profile, *, title: str = "") -> None:
    """Draw the time of the Mix'n'Match curve against its compute, beside time in proportion to compute.

    Args:
        path: A .png, .pdf or .svg file.
        profile: Measured times get a marker, interpolated ones lie on the line between.
        title: Of the figure.
    """
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    full = profile.points[-1]
    full_gmacs = profile.cost(full.submodel).gmacs
    unit, scale = compute_unit(full_gmacs)
    compute = [scale * profile.cost(point.submodel).gmacs for point in profile.points]
    measured = [point.measured for point in profile.points]
    axes.plot(
        compute,
        [full.ms * each / compute[-1] for each in compute],
        color=COLOURS[1],
        linestyle="--",
        linewidth=1,
        label="if time were in proportion to MACs",
    )
    axes.plot(
        compute,
        [point.ms for point in profile.points],
        color=COLOURS[0],
        marker=MARKERS[0],
        markersize=4,
        markevery=measured,
        label="measured" if all(measured) else "measured (dots), interpolated between them",
    )
    times, labels = [point.ms for point in profile.points], [str(point.submodel) for point in profile.points]
    _name_points(axes, compute, times, labels)
    images = "an image" if profile.setting.batch_size == 1 else f"a batch of {profile.setting.batch_size}"
    axes.set(xlabel=f"compute ({unit} an image)", ylabel=f"milliseconds {images}")
    axes.set_title("\n".join(filter(None, (title, str(profile.setting)))), fontsize=9, parse_math=False)
    axes.grid(alpha=0.25)
    axes.set_ylim(0, 1.12 * max(point.ms for point in profile.points))
    add_share_axis(axes, compute[-1])
    axes.legend(fontsize="small", loc="lower right")
    save_figure(figure, path)


def _name_points(axes: Axes, xs: Sequence[float], ys: Sequence[float], labels: Sequence[str]) -> None:
    """Write the names of granularities above their points; other spellings would cover each other."""
    for x, y, label in zip(xs, ys, labels, strict=True):
        if label.isalnum():
            axes.annotate(label, (x, y), (0, 8), textcoords="offset points", ha="center", weight="bold")


def compute_unit(full_gmacs: float) -> tuple[str, int]:
    """The unit that compute up to `full_gmacs` is drawn in, and how many of it a GMAC is."""
    return ("GMACs", 1) if full_gmacs >= 0.1 else ("MMACs", 1000)


def add_share_axis(axes: Axes, full: float) -> None:
    """Put a second axis above: shares of `full`, the full encoder's compute in the unit of the first."""
    share = axes.secondary_xaxis("top", functions=(_scaled(100 / full), _scaled(full / 100)))
    share.set_xlabel("share of XL's compute (%)")


def _scaled(factor: float) -> Callable[[Any], Any]:
    return lambda values: values * factor
