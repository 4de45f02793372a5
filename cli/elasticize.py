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
from matvit.weights.known_models import DEFAULT

if TYPE_CHECKING:
    from retrieval.learning.elasticize import Elasticized
    from retrieval.measuring.curve import Point


@alone_at_output
def elasticize(
    images: options.Images,
    output: options.Output,
    model: options.Model = DEFAULT,
    axis: options.Axes = None,
    limit: Annotated[int, typer.Option(min=2, help="Fit to so many images at most.")] = 300,
    check: Annotated[int, typer.Option(min=2, help="Check on so many other images at most.")] = 200,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit/--no-refit",
            help="Refit narrower layers, or not: those of an encoder that was trained nested are good as "
            "they are.",
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
        typer.Option(
            min=0.01, help="Let them learn like this for so many minutes instead.", show_default=False
        ),
    ] = None,
    teach: Annotated[
        int | None,
        typer.Option(min=2, help="Let them learn from so many images at most.", show_default="5000"),
    ] = None,
    curve: Annotated[
        bool, typer.Option("--curve", help="Check the whole Mix'n'Match curve, not only some of it.")
    ] = False,
    measure: options.Measure = False,
    seed: Annotated[int, typer.Option(min=0, help="Draw other images by another number.")] = 0,
    workers: options.Workers = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Make a pretrained Vision Transformer elastic, without labels.

    The full encoder stays the original, bit for bit: an index that the original made takes queries of every
    submodel, by `matvit query IMAGE -i INDEX -m OUTPUT`. Narrower layers are refitted to IMAGES, and
    embeddings of submodels are aligned with those of the full encoder. Then submodels of all widths, image
    sizes and merges of tokens are measured on images that were not fitted to, and those that are worth most
    at their cost become the curve that budgets choose from. With --epochs or --minutes, that curve learns.

    The directory holds the model, and a report on it: a table, a figure and the command. What was stopped
    goes on when the same command is run again, from at most two minutes before.

    Example: matvit elasticize photos/ -o elastic/

    Example: matvit elasticize photos/ -m my-vit/ -o my-elastic/ --minutes 30

    Example: matvit elasticize photos/ -m runs/x/checkpoint -o x/ --no-refit
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
