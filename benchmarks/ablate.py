"""Mix'n'Match beside other orders of the same widths, and beside a search for widths.

    python benchmarks/ablate.py photos/test -i photos.index -o results/ --search 50

At every point of the curve, the same widths in another order cost the same: decreasing with depth, larger or
smaller in the middle, random. The index and the labelled queries measure adaptive 1-NN accuracy; the search
(`pip install optuna`) sees half of at most 4,000 queries, and what it found is checked on the other half.
"""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from ablation.figure import plot_orders
from ablation.orders import compare_orders, orders
from ablation.search import Queries, Searched, search_widths
from cli import options
from cli.output import percent, print_json, print_table, say, si
from cli.progress import progress
from matvit.files.atomic import write_text
from retrieval.measuring.estimate import Estimate
from retrieval.measuring.evaluate import evaluate
from retrieval.searcher import Searcher
from retrieval.showing.csv_table import write_csv
from retrieval.sources.open_images import ImageSource, open_source

SEARCH_QUERIES = 4000


def ablate(
    queries: options.Images,
    index: options.IndexDir,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Keep tables (CSV), figure and command here.", show_default=False
        ),
    ] = None,
    search: Annotated[
        int,
        typer.Option(
            min=0,
            help="Also search widths within five budgets, measuring so many submodels for each.",
        ),
    ] = 0,
    model: options.ModelOverride = None,
    seed: Annotated[int, typer.Option(min=0, help="Of random orders and of the search.")] = 0,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Compare Mix'n'Match with other orders of the same widths, and with a search."""
    if search:
        _require_optuna()
    source = open_source(queries)
    with progress() as bar:
        searcher = Searcher.open(index, model=model, device=device, dtype=dtype, progress=bar)
        space = searcher.encoder.space
        submodels = list(dict.fromkeys(submodel for _, submodel, _ in orders(space, seed)))
        result = evaluate(
            searcher,
            source,
            list(dict.fromkeys([*submodels, *space.uniforms()])),
            workers=workers,
            progress=bar,
        )
    measured, means = compare_orders(space, result, seed)
    searched = _search(searcher, source, search, seed) if search else []
    by_order = [
        {
            "order": each.order,
            "submodel": str(each.submodel),
            "gmacs": searcher.encoder.cost(each.point).gmacs,
        }
        | {"adaptive_1nn": each.accuracy.value, **_plain("to_mixnmatch", each.difference)}
        for each in measured
    ]
    summary = [{"order": order, **_plain("to_mixnmatch", mean)} for order, mean in means.items()]
    by_search = [_record(searcher, each) for each in searched]
    if json:
        print_json({"orders": by_order, "means": summary, "search": by_search, "queries": result.queries})
    else:
        print_table(
            [{"order": order, "to Mix'n'Match, points": _points(mean)} for order, mean in means.items()],
            title=f"{result.queries} queries, mean over {len(measured) // len(means)} budgets",
        )
        if searched:
            print_table([_columns(searcher, each) for each in searched])
    if output:
        write_csv(output / "orders.csv", by_order)
        write_csv(output / "means.csv", summary)
        if by_search:
            write_csv(output / "search.csv", by_search)
        plot_orders(output / "orders.png", searcher.encoder, result, measured, searched)
        command = shlex.join(["python", "benchmarks/ablate.py", *sys.argv[1:]])
        write_text(output / "command.txt", command + "\n")
        names = sorted(file.name for file in output.iterdir() if not file.name.startswith("."))
        say(f"kept in {output}: {', '.join(names)}")


def _search(searcher: Searcher, source: ImageSource, evaluations: int, seed: int) -> list[Searched]:
    with progress() as bar:
        seen, others = Queries.read(searcher, source, most=SEARCH_QUERIES, progress=bar).halves()
    curve, cost = searcher.encoder.space.mixnmatch, searcher.encoder.cost
    # Evenly spaced on the curve, without its ends, where there is nothing to choose.
    budgets = [cost(curve[round(len(curve) * i / 6)]).macs for i in range(1, 6)]
    with progress() as bar:
        return [
            search_widths(searcher, seen, others, budget, evaluations=evaluations, seed=seed, progress=bar)
            for budget in budgets
        ]


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise typer.BadParameter("--search needs optuna: run pip install optuna") from error


def _plain(name: str, estimate: Estimate) -> dict[str, float]:
    low, high = estimate.interval
    return {name: estimate.value, f"{name}_low": low, f"{name}_high": high}


def _record(searcher: Searcher, each: Searched) -> dict[str, object]:
    return {
        "budget_gmacs": each.budget_macs / 1e9,
        "evaluations": each.evaluations,
        "found": str(each.found),
        "found_gmacs": searcher.encoder.cost(each.found).gmacs,
        "mixnmatch": str(each.mixnmatch),
        "found_1nn_seen": each.found_seen.value,
        "found_1nn": each.found_others.value,
        "mixnmatch_1nn": each.mixnmatch_others.value,
        **_plain("gain", each.gain),
        "queries": each.found_others.total,
    }


def _columns(searcher: Searcher, each: Searched) -> dict[str, object]:
    full = searcher.encoder.cost(searcher.encoder.space.full).macs
    return {
        "budget": f"{si(each.budget_macs)} MACs, {percent(each.budget_macs / full)}",
        "search found": str(each.found),
        "measured": each.evaluations,
        "its 1-NN": percent(each.found_others.value),
        "Mix'n'Match": percent(each.mixnmatch_others.value),
        "gain of the search, points": _points(each.gain),
    }


def _points(estimate: Estimate) -> str:
    low, high = estimate.interval
    return f"{100 * estimate.value:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


if __name__ == "__main__":
    typer.run(ablate)
