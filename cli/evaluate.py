"""`matvit evaluate`: retrieval against query compute."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.alone import alone_in_output
from cli.early import check_index, check_model
from cli.output import command_line, percent, print_json, print_table, say, say_failures, si
from cli.progress import progress
from matvit.submodels.profile import two_digits

if TYPE_CHECKING:
    from retrieval.measuring.curve import Point
    from retrieval.measuring.estimate import Share
    from retrieval.measuring.evaluation import Evaluation


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
    queries: options.Queries,
    index: options.IndexDir,
    budget: options.Budgets = None,
    output: options.Results = None,
    same_encoder: Annotated[
        bool, typer.Option("--same-encoder", help="Also embed the corpus again with every submodel.")
    ] = False,
    raw_pixels: Annotated[
        bool, typer.Option("--raw-pixels", help="Also measure 1-NN on raw pixels.")
    ] = False,
    measure: options.Measure = False,
    model: options.ModelOverride = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Measure what queries of each budget find, on labelled images.

    The corpus is embedded by the full encoder, and queries by each submodel. Measured are 1-NN accuracy by
    exact search, with 95 % intervals, and its difference to XL on the same queries; k-NN votes as in DINO,
    recall@k and mAP@k; and how much of XL's answers remains. The table shows some of it, --json and the files
    in OUTPUT all. Queries that are files of the corpus are searched without themselves; copies of them
    elsewhere are not recognised.

    Example: matvit evaluate photos/test -i photos.index

    Example: matvit evaluate photos/test -i photos.index -b S -b 60% -o results/
    """
    from retrieval.sources.open_images import open_source

    check_index(index)
    check_model(model)
    source = open_source(queries, labels=True)

    from retrieval.measuring.evaluate import evaluate as run
    from retrieval.searcher import Searcher

    with progress() as bar:
        result = run(
            Searcher.open(index, model=model, device=device, dtype=dtype, progress=bar),
            source,
            budget or ["all"],
            same_encoder=same_encoder,
            raw_pixels=raw_pixels,
            measure=measure,
            batch_size=batch_size,
            workers=workers,
            progress=bar,
        )
    if json:
        _tell(result)
        print_json(result.to_dict())
    else:
        show(result)
    if output:
        say(f"kept in {output}: {', '.join(result.save(output, command=command_line()))}")


def show(result: "Evaluation") -> None:
    """Print the curve, and the floors it stands on, as a table."""
    _tell(result)
    print_table(
        [_columns(point) for point in result.points]
        + [_floor(f"raw pixels, {name}", share) for name, share in result.raw_pixels.items()]
    )


def _tell(result: "Evaluation") -> None:
    say_failures(result.failures)
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
        "adaptive 1-NN %": str(point["adaptive_1nn"]),
    }
    if point.ms is not None:
        row["ms"] = two_digits(point.ms)
    if "same_encoder_1nn" in point.measures:
        row["same encoder 1-NN %"] = str(point["same_encoder_1nn"])
    for name, (title, text) in _SHOWN.items():
        if name in point.measures:
            row[title] = text(point.measures[name].value)
    return row


def _floor(name: str, share: "Share") -> dict[str, object]:
    return {"submodel": name, "adaptive 1-NN %": str(share)}
