"""`matvit plan`: every budget of a model, what it costs, and how long it takes here."""

from pathlib import Path
from typing import Annotated, Any

import typer

from cli import options
from cli.early import check_index, check_model
from cli.output import percent, print_json, print_table, say, si
from cli.progress import progress
from matvit.submodels.profile import two_digits


def plan(
    model: options.PlannedModel = None,
    index: options.PlannedIndex = None,
    budget: options.PlannedBudget = None,
    mixnmatch: Annotated[
        bool, typer.Option("--mixnmatch", help="Show Mix'n'Match, too, where the curve is another.")
    ] = False,
    measure: options.Measure = False,
    every_point: Annotated[
        bool, typer.Option("--every-point", help="Measure every submodel, and interpolate none.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Measure again what was measured before.")
    ] = False,
    csv: options.Csv = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            help="Also draw time against compute into this .png, .pdf or .svg file.", show_default=False
        ),
    ] = None,
    batch_size: options.BatchSize = 1,
    threads: options.Threads = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Show the submodels that budgets choose from, and their costs.

    This curve is what `matvit elasticize` or `matvit calibrate --fit` measured, or else Mix'n'Match, or
    smaller images where the model was not trained nested. For a name of timm, no weights are downloaded.

    Costs are those of embedding one image, without the classifier. Vision papers print MACs and call them
    FLOPs; here FLOPs are two a MAC. Times are those of a batch; ± is the interquartile range, and ~ marks
    what is interpolated between measured neighbours. A budget in ms is measured, too.

    Example: matvit plan

    Example: matvit plan -m matvit_base_patch16_224 -b 60%

    Example: matvit plan -i photos.index --measure
    """
    if index is not None:
        check_index(index)
    if model is None and index is not None:
        from retrieval.remembered_model import model_of

        model = model_of(index)
    model = model or options.default_model()
    check_model(model, weights=False)

    from matvit.submodels.budget import is_time
    from retrieval.measuring.plan import plan as run

    timed = measure or (budget is not None and is_time(budget))
    only_timed = {
        "--every-point": every_point,
        "--refresh": refresh,
        "--batch-size": batch_size != 1,
        "--threads": threads is not None,
    }
    _check_options(timed, figure, only_timed)
    for file in filter(None, (csv, figure)):
        file.parent.mkdir(parents=True, exist_ok=True)  # If that cannot be, better now than after the work.
    with progress() as bar:
        found = run(
            model,
            budget=budget,
            index=index,
            mixnmatch=mixnmatch,
            measure=measure,
            batch_size=batch_size,
            every_point=every_point,
            refresh=refresh,
            threads=threads,
            device=device,
            dtype=dtype,
            progress=bar,
        )
    if found.profile:
        say(str(found.profile))
    rows = found.to_dicts()
    if json:
        print_json(rows)
    else:
        print_table([_columns(row, batch_size) for row in rows])
    if csv:
        found.save_table(csv)
    if figure:
        found.save_figure(figure)
    if kept := [str(file) for file in (csv, figure) if file]:
        say(f"kept: {', '.join(kept)}")


def _check_options(timed: bool, figure: Path | None, only_timed: dict[str, bool]) -> None:
    if figure and figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise typer.BadParameter(f"--figure {figure}: draws .png, .pdf and .svg files")
    for name, given in {"--figure": figure is not None, **only_timed}.items():
        if given and not timed:
            raise typer.BadParameter(f"{name} needs times: add --measure")


def _columns(record: dict[str, Any], batch_size: int) -> dict[str, object]:
    columns: dict[str, object] = {
        "submodel": record["submodel"],
        "MACs": si(1e9 * record["gmacs"]),
        "FLOPs": si(1e9 * record["gflops"]),
        "parameters": si(1e6 * record["mparams"]),
        "of XL": percent(record["share_of_xl"]),
    }
    if "cosine" in record:
        columns["cosine to XL"] = "" if record["cosine"] is None else f"{record['cosine']:.4f}"
    if "ms" in record:
        mark = "" if record["measured"] else "~"
        spread = f" ±{record['iqr_ms'] / record['ms']:.0%}" if record["measured"] else ""
        columns |= {
            "ms": mark + two_digits(record["ms"]) + spread,
            "ms of XL": mark + percent(record["ms_share_of_xl"]),
            "images/s": mark + two_digits(1000 * batch_size / record["ms"]),
        }
    return columns
