"""`matvit elasticize`: the knob for an encoder that somebody else trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.alone import alone_at_output
from cli.early import check_images, check_model
from cli.output import command_line, percent, print_json, print_table, say, say_failures, si
from cli.progress import progress
from matvit.submodels.profile import two_digits

if TYPE_CHECKING:
    from retrieval.learning.elasticize import Elasticized
    from retrieval.measuring.curve import Point


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
    axis: options.Axes = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit/--no-refit",
            help="Whether narrower layers are refitted: not, for an encoder that was trained nested.",
        ),
    ] = True,
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
            help="Images to learn from with them, at most. Default: 5000.",
            show_default=False,
        ),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Check the whole Mix'n'Match curve, not only some of it.")
    ] = False,
    measure: Annotated[
        bool, typer.Option("--measure", help="Also show milliseconds an image, measured here, once a month.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of images.")] = 0,
    workers: options.Workers = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make a pretrained Vision Transformer elastic, without labels.

    The full encoder stays the original bit for bit, so an index that the original made takes queries of every
    submodel: matvit query IMAGE -i INDEX -m DIR --budget M. Narrower layers are refitted, and embeddings of
    submodels aligned with its own. The directory also holds a report on images that were not fitted to:
    table, figure and command. The submodels that are worth most at their cost, of all widths, image sizes and
    merges of tokens, are the curve that budgets choose from; with --epochs or --minutes, that curve learns.
    What was stopped meanwhile goes on, from at most two minutes before, when the same command is given again.

    Example: matvit elasticize vit_base_patch14_dinov2.lvd142m --images photos/ -o dinov2-elastic/

    Example: matvit elasticize my-vit/ --images photos/ -o my-vit-elastic/ --minutes 30

    Example: matvit elasticize runs/matvit/checkpoint --images photos/ -o more-elastic/ --no-refit
    """
    check_model(model)
    check_images(images)

    from matvit.submodels.frontier import Axis
    from retrieval.learning.elasticize import elasticize as run

    with progress() as bar:
        done = run(
            model,
            images,
            limit=limit,
            check=check,
            axes=axis or tuple(Axis),
            refit=refit,
            sequential=sequential,
            epochs=epochs,
            minutes=minutes,
            teach=teach,
            whole_curve=curve,
            measure=measure,
            seed=seed,
            workers=workers,
            device=device,
            output=output,
            progress=bar,
        )
    report = done.save(output, command=command_line())
    say(f"kept in {output}: the model, and report/ with {', '.join(report)}")
    say_failures(done.failures)
    _tell(done, output)
    if json:
        print_json(done.to_dict())
    else:
        space = done.model.space
        widths = space.mixnmatch if curve else space.uniforms()
        print_table([_columns(point) for point in done.curve.only({*space.curve, *widths}).points])


def _tell(done: "Elasticized", output: Path) -> None:
    from retrieval.measuring.against_full import ENOUGH

    own = sum(parameter.nbytes for parameter in done.model.parameters())
    tokens = f" ({done.tokens} tokens)" if done.tokens else ""
    say(
        f"fitted to {done.images} images{tokens}, checked on {done.curve.queries} others; "
        f"{output}: {si(done.extra_bytes)}B beside the original's {si(own)}B"
    )
    if done.tokens < done.widest:
        say(
            f"{done.tokens} tokens are fewer than the {done.widest} hidden units to refit: give more images; "
            "until then the refit keeps closer to the plain slice"
        )
    for warning in done.model.poor.values():
        say(warning)
    if done.curve.queries < ENOUGH:
        say(f"{done.curve.queries} images tell nothing of neighbours: --check {ENOUGH} or more do")
    if done.tokens:
        say("narrower layers serve images like those that they were fitted to: fit again where yours change")


def _columns(point: "Point") -> dict[str, object]:
    row: dict[str, object] = {
        "submodel": str(point.submodel),
        "MACs": si(point.cost.macs),
        "parameters": si(point.cost.params),
        "of XL": percent(point.share_of_full),
    }
    if point.ms is not None:
        row["ms"] = two_digits(point.ms)
    value = {name: measure.value for name, measure in point.measures.items()}
    row |= {
        "cosine to XL": f"{value['cosine']:.4f}",
        "5th percentile": f"{value['cosine_p5']:.4f}",
        "of a slice": f"{value['slice_cosine']:.4f}" if "slice_cosine" in value else "",
    }
    if "overlap_10" in value:
        row |= {
            "same nearest": percent(value["equal_top1"]),
            "of 10 nearest": percent(value["overlap_10"]),
        }
    if "adaptive_1nn" in value:
        row |= {"1-NN %": str(point["adaptive_1nn"]), "to XL": f"{100 * value['difference']:+.2f}"}
    return row
