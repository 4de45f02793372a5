"""`matvit import`: checkpoints of other projects into ours."""

from typing import Annotated

import typer

from cli import options
from cli.output import print_json, print_table, say
from cli.progress import progress

app = typer.Typer(help="Bring in checkpoints of other projects.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keeps the one command a subcommand."""


@app.command()
def scenic(
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_URL",
            help="A Flax checkpoint of Scenic's MatViT, an https URL of one, or the name of a published one: "
            "matvit-b16-in1k or matvit-l16-in21k-in1k.",
            show_default=False,
        ),
    ],
    output: options.Output,
    classifier: Annotated[
        str | None,
        typer.Option(
            help="Say how the model pools, by Scenic's name of it.",
            show_default="token with a class token, else gap",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Convert a MatViT that Google's Scenic trained.

    It needs no JAX, and leaves the optimizer's state out. A download that was stopped goes on when the same
    command is run again.

    Example: matvit import scenic matvit-b16-in1k -o matvit-b16
    """
    from matvit.weights.published import obtain
    from matvit.weights.scenic.convert import facts

    with progress() as bar:
        obtain(source, output, classifier=classifier, progress=bar)
    found = facts(output)
    if json:
        print_json({"checkpoint": str(output), **found})
    else:
        print_table([{"": name.replace("_", " "), " ": fact} for name, fact in found.items()])
    say(f"saved {output}: use it wherever a command takes -m")
