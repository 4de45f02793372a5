"""`matvit train`: nested training from a recipe."""

from collections.abc import Mapping
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import options
from cli.output import print_json, say
from cli.progress import progress


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A .toml file, or a recipe of the package: b16_in1k, caltech101, cifar10, digits, "
            "fashion_mnist, l16_in1k_finetune, s16_in1k.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="ImageFolder or shards, or a folder with train/ and, to measure accuracy, val/ of either "
            "kind; or torchvision:NAME, such as torchvision:fashion_mnist.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", help="The run directory.", show_default=False)],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in -o; start it if there is none.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(
            help=f"Weights to start from, position embeddings resized. {options.MODEL_HELP}",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that read and augment images.")] = 0,
    accumulate: Annotated[
        int, typer.Option(min=1, help="Forward passes that a step is divided into, to save memory.")
    ] = 1,
    grad_checkpointing: Annotated[
        bool, typer.Option("--grad-checkpointing", help="Save memory by computing activations twice.")
    ] = False,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the model with torch.compile.")] = False,
    save_minutes: Annotated[
        float, typer.Option(min=0, help="Time from one state that can be resumed to the next.")
    ] = 10.0,
    log_every: Annotated[int, typer.Option(min=1, help="Steps from one line of metrics to the next.")] = 50,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write metrics for TensorBoard, too, into -o/tensorboard.")
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Train a MatViT: nested granularities at once, on labelled images.

    The run directory holds config.toml, metrics.jsonl, checkpoint/, best/ and last/, which --resume goes on
    from. Under torchrun, processes share every batch of the recipe.

    Example: matvit train fashion_mnist --data torchvision:fashion_mnist -o runs/fashion

    On many GPUs: torchrun --nproc-per-node 8 -m cli.main train b16_in1k --data imagenet -o runs/b16 --resume
    """
    run(
        recipe,
        data,
        out,
        resume=resume,
        init=init,
        workers=workers,
        accumulate=accumulate,
        grad_checkpointing=grad_checkpointing,
        compile=compile,
        save_minutes=save_minutes,
        log_every=log_every,
        tensorboard=tensorboard,
        device=device,
        dtype=dtype,
        json=json,
    )


def run(
    recipe: str,
    data: str | Path,
    out: Path,
    *,
    resume: bool = False,
    init: str | None = None,
    tensorboard: bool = False,
    device: str = "auto",
    dtype: str = "auto",
    json: bool = False,
    **how: Any,
) -> None:
    """Train with progress on screen; arguments as those of the command."""
    from matvit.progress import silent
    from matvit.runtime import processes as distributed
    from matvit.runtime.device import pick_dtype
    from matvit.training import recipe as recipes
    from matvit.training.train import Execution, Hooks
    from matvit.training.train import train as run_recipe
    from retrieval.measuring.during_training import accuracy_evaluation, open_data

    file = recipes.find(recipe)
    settings = recipes.read(file)
    with distributed.joined(device) as (processes, place):
        number_format = pick_dtype(dtype, place, training=True)
        execution = Execution(device=place, dtype=number_format, processes=processes, **how)
        images, held_out = open_data(str(data), settings)
        evaluate = None
        if held_out and processes.is_first:
            evaluate = accuracy_evaluation(
                images, held_out, settings, device=place, dtype=number_format, workers=execution.workers
            )
        draw = _scalars(out) if tensorboard and processes.is_first else None

        def tell(line: Mapping[str, Any]) -> None:
            if "epoch" in line:
                say(_summary(line, settings.epochs))
            if draw:
                draw(line)
            if json:
                print_json(line)

        with progress() if processes.is_first else nullcontext(silent) as bar:
            run_recipe(
                file,
                images,
                out,
                how=execution,
                hooks=Hooks(evaluate=evaluate, progress=bar, write=tell),
                init=init,
                resume=resume,
            )
    if processes.is_first:
        say(f"trained: {out / 'checkpoint'}")


def _summary(line: Mapping[str, Any], epochs: int) -> str:
    measures = (
        f"{name} {value:.4f}" for name, value in line.items() if name.startswith(("loss", "top1", "adaptive"))
    )
    return f"epoch {line['epoch']}/{epochs}: " + ", ".join(measures)


def _scalars(out: Path) -> Any:
    """What writes a line of metrics for TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise typer.BadParameter("--tensorboard needs: pip install 'matvit[tensorboard]'") from error

    @cache
    def writer() -> Any:  # Not before the run has made its directory.
        return SummaryWriter(str(out / "tensorboard"))

    def write(line: Mapping[str, Any]) -> None:
        for name, value in line.items():
            if name not in ("epoch", "step"):
                writer().add_scalar(name, value, line["step"])
        writer().flush()

    return write
