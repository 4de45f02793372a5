"""`matvit plan`: every budget of a model, what it costs, and how long it takes here."""

from functools import cache
from math import floor, log10
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import options
from cli.models import fetched, remembered
from cli.output import percent, print_json, print_table, say, si
from cli.times import measured

if TYPE_CHECKING:
    from matvit.cost import CostModel
    from matvit.latency import Profile
    from matvit.submodel import Submodel

_CALIBRATING = ("max_drop", "held_out")
_PLANNING = ("budget", "measure", "batch_size", "threads", "every_point", "refresh", "csv", "figure")


def plan(
    context: typer.Context,
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
        typer.Option(help="Show only the submodel for this budget: M, 60%, 9gmacs, 50mparams, 25ms..."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Also show milliseconds a batch, measured here, once; ~ marks those interpolated between "
            "measured neighbours. A budget in ms does this too.",
        ),
    ] = False,
    index: Annotated[
        Path | None,
        typer.Option("--index", "-i", help="Plan for the model of this index.", show_default=False),
    ] = None,
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="QUERIES",
            help="Labelled images, like those to be asked for: find the cheapest submodel that they promise "
            "and keep it with the index as its budget auto.",
            show_default=False,
        ),
    ] = None,
    max_drop: Annotated[
        float, typer.Option(help="What --calibrate allows, in points of 1-NN accuracy against XL.")
    ] = 0.5,
    held_out: Annotated[
        float,
        typer.Option(min=0, max=0.9, help="Share of the QUERIES of --calibrate that only check the choice."),
    ] = 0.5,
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
    """Show the Mix'n'Match curve of a model: submodels, MACs, FLOPs, parameters, milliseconds.

    Costs are those of embedding one image, without the classifier. Vision papers print MACs and call
    them FLOPs; here FLOPs are two a MAC.

    Example: matvit plan matvit_base_patch16_224 --budget 60%

    Example: matvit plan --index photos.index --calibrate photos/test --max-drop 0.5
    """
    _refuse(context, _CALIBRATING if calibrate is None else _PLANNING, calibrate)
    if calibrate is not None:
        from cli.calibrate import calibrate as run

        if index is None:
            raise typer.BadParameter("--calibrate needs --index")
        run(
            index,
            calibrate,
            model=model,
            max_drop=max_drop,
            held_out=held_out,
            device=device,
            dtype=dtype,
            json=json,
        )
        return
    if model is None and index is not None:
        model = remembered(index)
    elif model is None or index is not None:
        raise typer.BadParameter("say which MODEL, or --index")
    import torch

    import matvit
    from matvit.budget import is_time, resolve
    from matvit.device import pick_device, pick_dtype

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
    encoder = matvit.load(fetched(model), weights=False)
    encoder.reset_classifier(0)
    space, cost = encoder.space, encoder.cost

    @cache
    def times() -> "Profile":
        place = pick_device(device)
        if threads:
            torch.set_num_threads(threads)
        return measured(
            encoder,
            device=place,
            dtype=pick_dtype(dtype, place),
            batch_size=batch_size,
            every_point=every_point,
            refresh=refresh,
        )

    chosen = space.curve if budget is None else (resolve(budget, space, cost, times),)
    profile = times() if timed else None
    records = [_record(submodel, cost, space.full, profile) for submodel in chosen]
    if json:
        print_json(records)
    else:
        print_table([_columns(record, profile) for record in records])
    if csv:
        from retrieval.tables import write_csv

        spelled = (str(matvit.Submodel(submodel.widths)) for submodel in chosen)
        write_csv(
            csv, [{**record, "widths": widths} for record, widths in zip(records, spelled, strict=True)]
        )
    if figure and profile:
        from retrieval.figures import plot_latency

        plot_latency(figure, profile, title=Path(model).name)
    if kept := [str(file) for file in (csv, figure) if file]:
        say(f"kept: {', '.join(kept)}")


def _refuse(context: typer.Context, parameters: tuple[str, ...], calibrate: str | None) -> None:
    """What would be ignored is a mistake."""
    for name in parameters:
        source = context.get_parameter_source(name)
        if source and source.name == "COMMANDLINE":
            why = "needs --calibrate" if calibrate is None else "and --calibrate do not go together"
            raise typer.BadParameter(f"--{name.replace('_', '-')} {why}")


def _check_options(timed: bool, figure: Path | None, only_timed: dict[str, bool]) -> None:
    if figure and figure.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise typer.BadParameter(f"--figure {figure}: draws .png, .pdf and .svg files")
    for name, given in {"--figure": figure is not None, **only_timed}.items():
        if given and not timed:
            raise typer.BadParameter(f"{name} needs times: add --measure")


def _record(
    submodel: "Submodel", cost: "CostModel", full: "Submodel", profile: "Profile | None"
) -> dict[str, Any]:
    """A submodel in plain values."""
    one = cost(submodel)
    record: dict[str, Any] = {
        "submodel": str(submodel),
        "widths": submodel.widths,
        "gmacs": one.gmacs,
        "gflops": one.gflops,
        "mparams": one.mparams,
        "share_of_xl": one.macs / cost(full).macs,
    }
    if profile:
        point = profile.point(submodel)
        record |= {"ms": point.ms, "ms_share_of_xl": point.ms / profile(full), "measured": point.measured}
    return record


def _columns(record: dict[str, Any], profile: "Profile | None") -> dict[str, object]:
    columns: dict[str, object] = {
        "submodel": record["submodel"],
        "MACs": si(1e9 * record["gmacs"]),
        "FLOPs": si(1e9 * record["gflops"]),
        "parameters": si(1e6 * record["mparams"]),
        "of XL": percent(record["share_of_xl"]),
    }
    if profile:
        mark = "" if record["measured"] else "~"
        columns |= {
            "ms": mark + _three_digits(record["ms"]),
            "ms of XL": mark + percent(record["ms_share_of_xl"]),
            "images/s": mark + _three_digits(1000 * profile.setting.batch_size / record["ms"]),
        }
    return columns


def _three_digits(number: float) -> str:
    return f"{number:.{max(0, 2 - floor(log10(number)))}f}"
