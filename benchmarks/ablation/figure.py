"""Accuracy against compute: every order of the same widths, and what a search found."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ablation.orders import ORDERS, Ordered
from ablation.search import Searched
from retrieval.encoding.encoder import Encoder
from retrieval.measuring.evaluation import Evaluation
from retrieval.showing.figures import COLOURS, MARKERS, add_share_axis, compute_unit
from retrieval.showing.pictures import save_figure


def plot_orders(
    path: Path,
    encoder: Encoder,
    evaluation: Evaluation,
    orders: Sequence[Ordered],
    searched: Sequence[Searched],
) -> None:
    """Draw the accuracy of orders of the same widths against compute, and what a search found.

    Args:
        path: A .png, .pdf or .svg file.
        encoder: Whose submodels they are.
        evaluation: Of all of them and of the granularities, which every order starts and ends at.
        orders: What is drawn.
        searched: Drawn as stars, by the accuracy on queries that the search did not see.
    """
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    full_gmacs = encoder.cost(encoder.space.full).gmacs
    unit, scale = compute_unit(full_gmacs)
    uniforms = [point for point in evaluation.points if point.submodel in encoder.space.uniforms()]
    ends = {
        point.submodel: (scale * point.cost.gmacs, 100 * point["adaptive_1nn"].value) for point in uniforms
    }
    for name, colour, marker in zip(ORDERS, COLOURS, MARKERS, strict=False):
        between = [
            (scale * encoder.cost(each.submodel).gmacs, 100 * each.accuracy.value)
            for each in orders
            if each.order == name
        ]
        compute, percents = zip(*sorted([*between, *ends.values()]), strict=True)
        first = name == ORDERS[0]
        axes.plot(
            compute,
            percents,
            color=colour,
            marker=marker,
            markersize=3.5,
            linewidth=2 if first else 1,
            label="increasing with depth: Mix'n'Match" if first else name,
        )
    for submodel, place in ends.items():
        axes.annotate(str(submodel), place, (0, 8), textcoords="offset points", ha="center", weight="bold")
    if searched:
        axes.scatter(
            [scale * encoder.cost(each.found).gmacs for each in searched],
            [100 * each.found_others.value for each in searched],
            marker="*",
            s=90,
            color="black",
            zorder=3,
            label=f"found by a search of {max(each.evaluations for each in searched)} submodels each, "
            f"on {searched[0].found_others.total} other queries",
        )
    axes.set(xlabel=f"query compute ({unit} an image)", ylabel="adaptive 1-NN accuracy (%)")
    axes.grid(alpha=0.25)
    axes.margins(y=0.12)
    add_share_axis(axes, scale * full_gmacs)
    axes.legend(fontsize="small", loc="lower right")
    save_figure(figure, path)
