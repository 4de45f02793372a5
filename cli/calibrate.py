"""`matvit calibrate`: the curve of an index, and what its budget `auto` shall mean."""

from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.early import check_index, check_model
from cli.output import percent, print_json, print_table, say, say_failures, si
from cli.progress import progress, waiting_for

if TYPE_CHECKING:
    from retrieval.measuring.calibrate import Calibration
    from retrieval.measuring.curve import Point

_CONFIDENCE = 0.95


def calibrate(
    index: options.IndexDir,
    queries: Annotated[
        str | None,
        typer.Argument(
            metavar="QUERIES",
            help=f"{options.QUERIES_HELP} Not needed with --fit.",
            show_default=False,
        ),
    ] = None,
    fit: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGES",
            help="First measure the curve that budgets choose from, on images like those to be asked for, "
            "without labels. The index keeps it.",
            show_default=False,
        ),
    ] = None,
    check: Annotated[int, typer.Option(min=4, help="Measure on so many images of --fit at most.")] = 200,
    axis: options.Axes = None,
    max_drop: Annotated[
        float, typer.Option(help="Let the submodel lose so many points of XL's 1-NN accuracy at most.")
    ] = 0.5,
    held_out: Annotated[
        float, typer.Option(min=0, max=0.9, help="Let this share of the queries only check the choice.")
    ] = 0.5,
    model: options.ModelOverride = None,
    batch_size: options.BatchSize = 64,
    workers: options.Workers = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Measure which submodels are worth their costs on your images. The index keeps what was found.

    --fit measures the curve: the submodels that find most of what the full encoder finds, of all widths,
    image sizes and merges of tokens. Every budget chooses from it from then on. Labelled queries find the
    cheapest submodel of the curve that is promised to lose little, for the budget auto; they should be like
    those to be asked for, and others than the images of --fit. One part of them chooses, with 95 %
    confidence; the others check the choice. A drop below half a point takes 599 that choose if a submodel
    and XL never disagree, and some thousands if they often do; how many is told before the work and after.

    Example: matvit calibrate --fit photos/ -i photos.index

    Example: matvit calibrate --fit photos/ -i photos.index --axis sizes

    Example: matvit calibrate photos/test -i photos.index --max-drop 0.5
    """
    if queries is None and fit is None:
        raise typer.BadParameter("give labelled QUERIES, or --fit IMAGES")
    if not 0 < max_drop < 100:
        raise typer.BadParameter(f"--max-drop {max_drop:g}: write points of accuracy, such as 0.5")
    from retrieval.sources.open_images import open_source

    manifest = check_index(index)
    check_model(model)
    # Images that there are not, and queries that are too few, are told before a model is loaded, too.
    if fit is not None:
        with waiting_for(f"looking for images in {fit}"):
            open_source(fit)
    source = None
    if queries is not None:
        with waiting_for(f"counting the labelled queries in {queries}"):
            source = open_source(queries, labels=True)

            from retrieval.measuring.enough_queries import before_reading  # Which loads scipy.

            promise = {"max_drop": max_drop / 100, "confidence": _CONFIDENCE, "held_out": held_out}
            enough = before_reading(source, manifest.classes, **promise)
        if enough:
            say(str(enough))

    with progress() as bar, waiting_for(f"opening {index} and its model"):
        from indexes import Index
        from matvit.submodels.frontier import Axis
        from retrieval.measuring.calibrate import calibrate as run
        from retrieval.measuring.fit_curve import fit_to_images
        from retrieval.searcher import Searcher

        opened = Searcher.open(index, model=model, device=device, dtype=dtype, progress=bar)
    results: dict[str, object] = {}
    if fit is not None:
        with progress() as bar:
            fitted = fit_to_images(
                opened, fit, check=check, axes=axis or tuple(Axis), workers=workers, progress=bar
            )
        fitted.save(index)
        say_failures(fitted.failures)
        seen = fitted.curve.queries
        say(f"{index} keeps a curve of {len(fitted.cosines)} submodels, measured on {seen} images")
        results |= fitted.to_dict()
        if not json:
            print_table([_point(point) for point in fitted.curve.only(fitted.cosines).points])
        opened = Searcher(Index.open(index), opened.encoder)  # With the curve that it keeps now.
    if source is None:
        if json:
            print_json(results)
        return
    with progress() as bar:
        found = run(
            opened,
            source,
            **promise,
            batch_size=batch_size,
            workers=workers,
            progress=bar,
        )
    found.save(index)
    say_failures(found.failures)
    if found.alone:
        say(f"{found.alone} queries of whose class the corpus has no other image are left out")
    if json:
        print_json(results | found.to_dict())
    else:
        _show(found)


def _point(point: "Point") -> dict[str, object]:
    row: dict[str, object] = {
        "submodel": str(point.submodel),
        "MACs": si(point.cost.macs),
        "of XL": percent(point.share_of_full),
        "cosine to XL": f"{point['cosine'].value:.4f}",
    }
    if "equal_top1" in point.measures:
        row["same nearest"] = percent(point["equal_top1"].value)
    return row


def _show(found: "Calibration") -> None:
    if found.comparisons:
        print_table(
            [
                {
                    "submodel": str(submodel),
                    "drop": f"{100 * each.drop:+.2f}",
                    "only XL right": each.losses,
                    "only it right": each.gains,
                    "p": f"{each.p_value:.4f}",
                    "": "promised" if each.p_value <= 1 - found.confidence else "not promised",
                }
                for submodel, each in found.comparisons
            ]
        )
    if found.share_of_full == 1:
        say("auto is XL: nothing cheaper can be promised")
    else:
        say(
            f"auto is {found.submodel}, {percent(found.share_of_full)} of XL's MACs: chosen so that, "
            f"{found.confidence:.0%} of the time, 1-NN accuracy drops by less than "
            f"{100 * found.max_drop:g} points"
        )
    say(f"to go below that: {found.enough}" if found.enough.failed else str(found.enough))
    if found.checked:
        low, high = found.checked.interval
        say(
            f"{found.check_queries} other queries saw a drop of {100 * found.checked.value:.2f} points "
            f"({100 * low:.2f} to {100 * high:.2f})"
        )
