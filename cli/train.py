"""`matvit train`: nested training from a recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import options
from cli.output import print_json, progress, say


def train(
    recipe: Annotated[
        str,
        typer.Argument(help="A .toml file, or a recipe of the package: digits, fashion_mnist, caltech101."),
    ],
    data: Annotated[
        Path,
        typer.Option(
            help="ImageFolder, or a folder with train/ and, for 1-NN after every epoch, val/.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="The new run directory.", show_default=False)],
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and augment images.")] = 0,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Train a MatViT: every granularity at once, on labelled images.

    The run directory holds config.toml, metrics.jsonl and, after every epoch, checkpoint/.

    Example: matvit train fashion_mnist --data fashion_mnist/ -o runs/fashion
    """
    run(recipe, data, out, workers=workers, device=device, dtype=dtype, json=json)


def run(
    recipe: str,
    data: Path,
    out: Path,
    *,
    workers: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    json: bool = False,
) -> None:
    """Train with progress on screen; arguments as those of the command."""
    from matvit import recipe as recipes
    from matvit.device import pick_device, pick_dtype
    from matvit.train import Hooks
    from matvit.train import train as run_recipe
    from retrieval.training import FolderImages, one_nn_evaluation, split_folders

    place = pick_device(device)
    number_format = pick_dtype(dtype, place, training=True)
    file = recipes.find(recipe)
    settings = recipes.read(file)
    folder, held_out = split_folders(data)
    images = FolderImages(folder, settings)
    evaluate = None
    if held_out:
        evaluate = one_nn_evaluation(folder, held_out, settings, device=place, dtype=number_format)
    steps = len(images) // settings.batch_size * settings.epochs

    def tell(line: Mapping[str, Any]) -> None:
        say(_summary(line, settings.epochs))
        if json:
            print_json(line)

    with progress("Training", steps * settings.batch_size) as advance:
        run_recipe(
            file,
            images,
            out,
            device=place,
            dtype=number_format,
            workers=workers,
            hooks=Hooks(evaluate=evaluate, on_step=advance, on_epoch=tell),
        )
    say(f"trained: {out / 'checkpoint'}")


def _summary(line: Mapping[str, Any], epochs: int) -> str:
    measures = (f"{name} {value:.4f}" for name, value in line.items() if "loss" in name or "1nn" in name)
    return f"epoch {line['epoch']}/{epochs}: " + ", ".join(measures)
