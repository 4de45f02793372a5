"""`matvit train`: nested training from a recipe."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from cli import options
from cli.early import check_images
from cli.output import print_json, say
from cli.progress import progress


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A .toml file, or a recipe of the package: b16_in1k, caltech101, cifar10, digits, "
            "fashion_mnist, l16_in1k_finetune or s16_in1k.",
            show_default=False,
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Train on this: an ImageFolder or shards; a folder with train/ and, to measure accuracy, "
            "val/ of either kind; or torchvision:NAME, such as torchvision:fashion_mnist.",
            show_default=False,
        ),
    ],
    output: options.Output,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in OUTPUT, or start it if there is none.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help="Start from these weights, named as for -m of other commands. Position embeddings are "
            "resized.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Read and augment images in so many processes.")] = 0,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Divide a step into so many forward passes, to save memory.")
    ] = 1,
    grad_checkpointing: Annotated[
        bool, typer.Option("--grad-checkpointing", help="Save memory by computing activations twice.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    save_minutes: Annotated[
        float, typer.Option(min=0, help="Save a state that can be resumed every so many minutes.")
    ] = 10.0,
    log_every: Annotated[int, typer.Option(min=1, help="Write a line of metrics every so many steps.")] = 50,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write metrics for TensorBoard, to OUTPUT/tensorboard.")
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Train a MatViT on labelled images, all granularities at once.

    The run directory OUTPUT holds config.toml, metrics.jsonl, checkpoint/, best/ and last/, which --resume
    goes on from. On many GPUs, the processes of `torchrun --nproc-per-node 8 -m cli.main train ...` share
    every batch of the recipe.

    Example: matvit train cifar10 --data torchvision:cifar10 -o runs/cifar10

    Example: matvit train b16_in1k --data IMAGENET -o runs/b16 --resume
    """
    show = show_epochs(recipe)
    check_images(data)

    from matvit.runtime.device import pick_dtype
    from matvit.runtime.processes import joined
    from matvit.training.train import Execution
    from retrieval.learning.train import train as run

    def tell(line: Mapping[str, Any]) -> None:
        show(line)
        if json:
            print_json(line)

    with joined(device) as (processes, torch_device), progress(shown=processes.is_first) as bar:
        run(
            recipe,
            data,
            output,
            execution=Execution(
                device=torch_device,
                dtype=pick_dtype(dtype, torch_device, training=True),
                workers=workers,
                accumulate=accumulate,
                grad_checkpointing=grad_checkpointing,
                compile=compile,
                save_minutes=save_minutes,
                log_every=log_every,
                processes=processes,
            ),
            init=init,
            resume=resume,
            tensorboard=tensorboard,
            write=tell,
            progress=bar,
        )
    if processes.is_first:
        say(f"trained: {output / 'checkpoint'}")


def show_epochs(recipe: str) -> Callable[[Mapping[str, Any]], None]:
    """A function that prints what was measured, for each line of metrics that ends an epoch."""
    from matvit.training import recipe as recipes

    epochs = recipes.read(recipes.find(recipe)).epochs

    def show(line: Mapping[str, Any]) -> None:
        if "epoch" in line:
            measured = (
                f"{name} {value:.4f}"
                for name, value in line.items()
                if name.startswith(("loss", "top1", "adaptive"))
            )
            say(f"epoch {line['epoch']}/{epochs}: " + ", ".join(measured))

    return show
