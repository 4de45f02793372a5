"""`matvit evaluate`: retrieval against query compute."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.alone import alone_in_output
from cli.models import fetched_for
from cli.output import command_line, percent, print_json, print_table, progress, say, si
from cli.times import measured, submodel_for

if TYPE_CHECKING:
    from matvit.submodel import Submodel
    from retrieval.evaluate import Evaluation, Point
    from retrieval.intervals import Share
    from retrieval.searcher import Searcher


_SHOWN: dict[str, tuple[str, Callable[[float], str]]] = {
    "difference": ("to XL", lambda value: f"{100 * value:+.2f}"),
    "index_1nn": ("by this index", percent),
    "knn_20": ("20-NN", percent),
    "map_at_10": ("mAP@10", percent),
    "cosine": ("cosine to XL", lambda value: f"{value:.4f}"),
    "equal_top1": ("same nearest", percent),
}


@alone_in_output
def evaluate(
    queries: options.Images,
    index: options.IndexDir,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            "--budget",
            "-b",
            help="A budget, as often as you like, or all: the whole curve.",
            show_default="all",
        ),
    ] = None,
    same_encoder: Annotated[
        bool, typer.Option("--same-encoder", help="Also embed the corpus again with every submodel.")
    ] = False,
    raw_pixels: Annotated[
        bool, typer.Option("--raw-pixels", help="Also measure 1-NN on raw pixels.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also show milliseconds an image, measured here, once.")
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Keep tables (CSV), figures and command here.", show_default=False
        ),
    ] = None,
    model: options.ModelOverride = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Measure adaptive retrieval: corpus by the full encoder, labelled queries by each submodel.

    1-NN accuracy by exact search, with 95 % intervals, and its difference to XL on the same queries; k-NN
    votes as in DINO, recall@k, mAP@k; how much of XL's answers remains. The table shows some of it, --json
    and the CSV file of --output all. Queries that are files of the corpus are searched without themselves;
    copies of them elsewhere are not recognised.

    Example: matvit evaluate photos/test -i photos.index --budget all -o results/
    """
    from retrieval.errors import EvaluationError, ImageSourceError
    from retrieval.evaluate import evaluate as run
    from retrieval.images import open_source, open_sources
    from retrieval.pixels import raw_pixel_1nn
    from retrieval.searcher import Searcher

    source = open_source(queries)
    searcher = Searcher.open(index, model=fetched_for(index, model), device=device, dtype=dtype)
    encoder = searcher.encoder
    chosen: list[Submodel] = []
    for text in budget or ["all"]:
        curve = encoder.space.curve
        chosen += curve if text == "all" else [submodel_for(encoder, searcher.meaning(text))]
    if measure and encoder.latency is None:
        encoder.latency = measured(encoder.model, device=encoder.device, dtype=encoder.dtype)
    total = None if source.size is None else source.size + same_encoder * len(searcher.index)
    with progress("Evaluating", total) as advance:
        result = run(
            searcher,
            source,
            list(dict.fromkeys(chosen)),
            same_encoder=same_encoder,
            profile=encoder.latency if measure else None,
            batch_size=batch_size,
            workers=workers,
            on_images=advance,
        )
    floors: dict[str, Share] = {}
    if raw_pixels:
        try:
            manifest = searcher.index.manifest
            floors = raw_pixel_1nn(open_sources(manifest.sources, manifest.excludes), source)
        except (EvaluationError, ImageSourceError) as error:
            say(f"raw pixels not measured: {error}")
    if json:
        _tell(result)
        print_json(as_json(result, floors))
    else:
        show(result, floors)
    if output:
        keep(result, floors, output, searcher)


def show(result: "Evaluation", floors: "Mapping[str, Share]") -> None:
    """Print the curve, and the floors it stands on, as a table."""
    _tell(result)
    print_table(
        [_columns(point) for point in result.points]
        + [_floor(f"raw pixels, {name}", share) for name, share in floors.items()]
    )


def as_json(result: "Evaluation", floors: "Mapping[str, Share]") -> dict[str, object]:
    """The curve and its floors in plain values; accuracies are shares, 0 to 1."""
    return {
        "points": result.table(),
        "raw_pixels": {name: _json(share) for name, share in floors.items()},
        "queries": result.queries,
        "unlabelled": result.unlabelled,
        "alone": result.alone,
        "failures": len(result.failures),
        "left_out": result.left_out,
    }


def keep(result: "Evaluation", floors: "Mapping[str, Share]", output: Path, searcher: "Searcher") -> None:
    """Write the curve as a table, pictures and the command that measured it."""
    from matvit.atomic import write_text
    from retrieval.contact_sheet import contact_sheet
    from retrieval.disagreements import disagreements
    from retrieval.figures import (
        adaptive_series,
        plot_consistency,
        plot_curve,
        same_encoder_series,
    )
    from retrieval.tables import write_csv

    output.mkdir(parents=True, exist_ok=True)
    write_csv(output / "curve.csv", result.table())
    full_gmacs = searcher.encoder.cost(searcher.encoder.space.full).gmacs
    if floors:
        write_csv(output / "raw_pixels.csv", [{"distance": name, **_json(s)} for name, s in floors.items()])
    curves = [adaptive_series(result)]
    if any(point.same_encoder for point in result.points):
        curves.append(same_encoder_series(result))
    plot_curve(
        output / "curve.png",
        curves,
        full_gmacs=full_gmacs,
        floors={f"raw pixels, {name}": share.value for name, share in floors.items()},
    )
    plot_consistency(output / "consistency.png", result, full_gmacs=full_gmacs)
    made = ["curve.csv", "curve.png", "consistency.png"]
    if rows := disagreements(searcher, result):
        contact_sheet(output / "disagreements.png", rows, columns=5)
        made.append("disagreements.png")
    write_text(output / "command.txt", command_line() + "\n")
    say(f"kept in {output}: {', '.join(made)}")


def _tell(result: "Evaluation") -> None:
    for failure in result.failures[:20]:
        say(f"not readable: {failure.key}: {failure.reason}")
    notes = {
        "not readable": len(result.failures),
        "without a label, left out": result.unlabelled,
        "of whose class the corpus has no other image, left out": result.alone,
        "in the corpus too, searched without themselves": result.left_out,
    }
    say("; ".join([f"{result.queries} queries", *(f"{n} {what}" for what, n in notes.items() if n)]))
    lines = {str(p.submodel): p.measures["to_line"] for p in result.points if "to_line" in p.measures}
    if below := [name for name, measure in lines.items() if measure.interval[1] < 0]:
        say(f"below the line between the granularities beside them, by more than chance: {', '.join(below)}")


def _columns(point: "Point") -> dict[str, object]:
    row: dict[str, object] = {
        "submodel": str(point.submodel),
        "MACs": si(point.cost.macs),
        "parameters": si(point.cost.params),
        "of XL": percent(point.share_of_full),
        "adaptive 1-NN %": str(point.adaptive),
    }
    if point.ms is not None:
        row["ms"] = f"{point.ms:.3g}"
    if point.same_encoder is not None:
        row["same encoder 1-NN %"] = str(point.same_encoder)
    for name, (title, text) in _SHOWN.items():
        if name in point.measures:
            row[title] = text(point.measures[name].value)
    return row


def _floor(name: str, share: "Share") -> dict[str, object]:
    return {"submodel": name, "adaptive 1-NN %": str(share)}


def _json(share: "Share") -> dict[str, float]:
    low, high = share.interval
    return {"accuracy": share.value, "low": low, "high": high, "queries": share.total}
