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
    model: Annotated[
        str | None,
        typer.Argument(
            help=f"{options.MODEL_HELP} Only the last two are downloaded: the others need no weights. "
            "Not needed with --index.",
            show_default=False,
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(help="Show only the submodel for this budget: M, 60%, 9gmacs, 25ms, L@112px, XL~8..."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Also show milliseconds a batch, measured here, once a month; ± is the interquartile range, "
            "~ marks those interpolated between measured neighbours. A budget in ms does this too.",
        ),
    ] = False,
    index: Annotated[
        Path | None,
        typer.Option(
            "--index",
            "-i",
            help="Plan for the model of this index, and the curve that it keeps.",
            show_default=False,
        ),
    ] = None,
    mixnmatch: Annotated[
        bool, typer.Option("--mixnmatch", help="Show Mix'n'Match, too, where the curve is another.")
    ] = False,
    batch_size: options.BatchSize = 1,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Of torch on the CPU. Default: its own choice.")
    ] = None,
    every_point: Annotated[
        bool, typer.Option("--every-point", help="Measure every submodel, interpolate none.")
    ] = False,
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Measure again what was measured before.")
    ] = False,
    csv: Annotated[
        Path | None, typer.Option(help="Also write the table to this file.", show_default=False)
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(help="Also draw time against compute into this .png.", show_default=False),
    ] = None,
    json: options.Json = False,
) -> None:
    """Show the curve of a model that budgets choose from: submodels, MACs, FLOPs, parameters, milliseconds.

    That is what matvit elasticize or matvit calibrate --fit measured, or else Mix'n'Match, or smaller images
    where the model was not trained nested.

    Costs are those of embedding one image, without the classifier. Vision papers print MACs and call
    them FLOPs; here FLOPs are two a MAC.

    Example: matvit plan matvit_base_patch16_224 --budget 60%

    Example: matvit plan --index photos.index --measure
    """
    if index is not None:
        check_index(index)
    if index is not None and model is None:
        from retrieval.remembered_model import model_of

        model = model_of(index)
    elif model is None:
        raise typer.BadParameter("say which MODEL, or --index")
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
