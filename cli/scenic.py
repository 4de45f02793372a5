"""`matvit import`: checkpoints of other projects into ours."""

from pathlib import Path
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
            "matvit-b16-in1k, matvit-l16-in21k-in1k.",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path, typer.Option("--output", "-o", help="The new checkpoint directory.", show_default=False)
    ],
    classifier: Annotated[
        str | None,
        typer.Option(
            help="Scenic's name of the model's pooling. Default: token with a class token, else gap.",
            show_default=False,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Convert a MatViT that Google's Scenic trained. Needs no JAX; the optimizer's state is left out.

    An interrupted download goes on where it stopped when the same command is run again.

    Example: matvit import scenic matvit-b16-in1k -o matvit-b16
    """
    from matvit.weights.published import obtain
    from matvit.weights.scenic.convert import facts

    with progress() as bar:
        obtain(source, out, classifier=classifier, progress=bar)
    found = facts(out)
    if json:
        print_json({"checkpoint": str(out), **found})
    else:
        print_table([{"": name.replace("_", " "), " ": fact} for name, fact in found.items()])
    say(f"saved {out}: use it wherever a command takes -m")
