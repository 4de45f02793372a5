"""`matvit elasticize`: the knob for an encoder that somebody else trained."""

from collections.abc import Mapping
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.alone import alone_at_output
from cli.models import fetched
from cli.output import command_line, percent, print_json, print_table, progress, say, si, steps
from cli.times import measured

if TYPE_CHECKING:
    from matvit.elastic_vit import Elastic
    from matvit.elasticize import Elasticized
    from retrieval.elasticize import Checked, Report
    from retrieval.encoder import Encoder

TAUGHT = 5000
"""Images to learn from, unless one says how many."""


@alone_at_output
def elasticize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help=options.MODEL_HELP, show_default=False)],
    images: Annotated[
        str, typer.Option("--images", metavar="IMAGES", help=options.IMAGES_HELP, show_default=False)
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The checkpoint directory.", show_default=False)
    ],
    limit: Annotated[int, typer.Option(min=2, help="Images to fit to, at most.")] = 300,
    check: Annotated[int, typer.Option(min=2, help="Other images to check on, at most.")] = 200,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Refit each granularity once more, layer by layer, to put right what its layers before left "
            "out: better at S, for some more minutes.",
        ),
    ] = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Then let the submodels learn the full encoder's embeddings, seeing each image so often.",
            show_default=False,
        ),
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="The same, for so long.", show_default=False),
    ] = None,
    teach: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Images to learn from with them, at most; all stay in memory. Default: 5000.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Check the whole Mix'n'Match curve, not only some of it.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also show milliseconds an image, measured here, once.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of images.")] = 0,
    workers: options.Workers = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make a pretrained Vision Transformer elastic, without labels.

    The full encoder stays the original bit for bit, so an index that the original made takes queries of every
    submodel: matvit query IMAGE -i INDEX -m DIR --budget M. The directory also holds a report on images that
    were not fitted to: table, figure and command. What was stopped while submodels learnt goes on, from at
    most two minutes before, when the same command is given again.

    Example: matvit elasticize vit_base_patch14_dinov2.lvd142m --images photos/ -o dinov2-elastic/

    Example: matvit elasticize my-vit/ --images photos/ -o my-vit-elastic/ --minutes 30
    """
    if epochs and minutes:
        raise typer.BadParameter("give --epochs or --minutes, not both")
    if minutes and not isfinite(minutes):
        raise typer.BadParameter(f"--minutes {minutes} have no end")
    if teach and not (epochs or minutes):
        raise typer.BadParameter("--teach needs --epochs or --minutes")
    import matvit
    from matvit.atomic import discard
    from matvit.checkpoint import REPORT, check_place, notes_of, saved
    from matvit.device import pick_device
    from matvit.distil import Lessons, distil
    from matvit.elasticize import elasticize as run
    from matvit.elasticize import ready
    from matvit.sequential import refit_along_paths
    from retrieval.elasticize import Images
    from retrieval.elasticize import check as compare

    check_place(output)  # If it cannot be written to, better now than after the work.
    place = pick_device(device)
    original = ready(matvit.load(fetched(model))).to(place)
    sliced = _encoder(original, model)
    lessons = Lessons(epochs=epochs, minutes=minutes, seed=seed) if epochs or minutes else None
    taught = (teach or TAUGHT) if lessons else 0
    wanted = max(limit, taught)
    with progress("Reading", wanted + check) as advance:
        chosen = Images.read(
            images, sliced, fit=wanted, check=check, seed=seed, workers=workers, on_images=advance
        )
    done = run(original, chosen.first(limit), on_step=steps())
    if sequential:
        done = replace(done, model=refit_along_paths(done.model, chosen.first(limit), on_step=steps()))
    kept = output.with_name(f"{output.name}.partial")
    if lessons:
        model_taught = distil(
            done.model,
            chosen.first(taught),
            lessons,
            held_out=chosen.check,
            kept=kept,
            on_resume=lambda step: say(f"{kept}: going on after {step} steps"),
            on_step=steps(),
            on_epoch=_say_cosines,
        )
        done = replace(done, model=model_taught)
    encoder = _encoder(done.model, str(output))
    space = encoder.space
    some = space.curve if curve else space.curve[:: max(1, space.depth // 2)]
    submodels = list(dict.fromkeys([*some, *space.uniforms()]))
    times = measured(encoder.model, device=place, dtype=encoder.dtype) if measure else None
    total = (len(submodels) + len(space.granularities) - 1) * sum(map(len, chosen.check))
    with progress("Checking", total) as advance:
        report = compare(encoder, sliced, chosen, submodels, profile=times, on_images=advance)
    with saved(done.model, output, **notes_of(model)) as folder:
        _keep(report, encoder, folder / REPORT)
    if lessons:  # Not before: what they taught is the dearest of all this.
        discard(kept)
    say(f"kept in {output}: the model, and {REPORT}/ with report.csv, report.png, command.txt")
    for failure in chosen.failures[:20]:
        say(f"not readable: {failure.key}: {failure.reason}")
    _tell(done, report, output)
    if json:
        print_json(
            {
                "points": report.table(),
                "warnings": report.warnings,
                "images": done.images,
                "checked": report.images,
                "tokens": done.tokens,
                "extra_bytes": done.model.refits.memory_bytes if done.model.refits else 0,
                "failures": len(chosen.failures),
            }
        )
    else:
        print_table([_columns(point) for point in report.points])


def _encoder(model: "Elastic", location: str) -> "Encoder":
    import torch

    from retrieval.encoder import Encoder

    device = next(model.parameters()).device
    return Encoder(model, device=device, dtype=torch.float32, location=location)


def _say_cosines(epoch: int, cosines: Mapping[str, float]) -> None:
    said = ", ".join(f"{name} {value:.4f}" for name, value in cosines.items())
    say(f"epoch {epoch}: mean cosine to XL on images held out: {said}")


def _tell(done: "Elasticized", report: "Report", output: Path) -> None:
    refits = done.model.refits
    own = sum(parameter.nbytes for parameter in done.model.parameters())
    say(
        f"fitted to {done.images} images ({done.tokens} tokens), checked on {report.images} others; "
        f"{output}: {si(refits.memory_bytes if refits else 0)}B beside the original's {si(own)}B"
    )
    if done.tokens < done.widest:
        say(
            f"{done.tokens} tokens are fewer than the {done.widest} hidden units to refit: give more images; "
            "until then the refit keeps closer to the plain slice"
        )
    for warning in report.warnings:
        say(warning)


def _columns(point: "Checked") -> dict[str, object]:
    row: dict[str, object] = {
        "submodel": str(point.submodel),
        "MACs": si(point.cost.macs),
        "parameters": si(point.cost.params),
        "of XL": percent(point.share_of_full),
    }
    if point.ms is not None:
        row["ms"] = f"{point.ms:.3g}"
    value = {name: measure.value for name, measure in point.measures.items()}
    row |= {
        "cosine to XL": f"{value['cosine']:.4f}",
        "5th percentile": f"{value['cosine_p5']:.4f}",
        "of a slice": f"{value['slice_cosine']:.4f}" if "slice_cosine" in value else "",
        "same nearest": percent(value["equal_top1"]),
    }
    if "overlap_10" in value:
        row["of 10 nearest"] = percent(value["overlap_10"])
    if "one_nn" in value:
        row |= {"1-NN %": str(point.measures["one_nn"]), "to XL": f"{100 * value['difference']:+.2f}"}
    return row


def _keep(report: "Report", encoder: "Encoder", folder: Path) -> None:
    from matvit.atomic import write_text
    from retrieval.figures import plot_consistency
    from retrieval.tables import write_csv

    folder.mkdir()
    write_csv(folder / "report.csv", report.table())
    full_gmacs = encoder.cost(encoder.space.full).gmacs
    plot_consistency(folder / "report.png", report, full_gmacs=full_gmacs)
    write_text(folder / "command.txt", command_line() + "\n")
