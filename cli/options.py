"""Options that several commands share, so that they are spelled and explained once."""

from pathlib import Path
from typing import Annotated

import typer

IMAGES_HELP = (
    "A folder of images (flat, or one subfolder a class), one image file, or WebDataset shards: "
    "x.tar, 'x-{000..009}.tar', 'x-*.tar'."
)

MODEL_HELP = (
    "Checkpoint directory; timm name (pretrained weights), such as vit_base_patch14_dinov2.lvd142m; "
    "hf-hub: id; or matvit-b16-in1k or matvit-l16-in21k-in1k, the published MatViTs."
)

Images = Annotated[str, typer.Argument(metavar="IMAGES", help=IMAGES_HELP, show_default=False)]
IndexDir = Annotated[Path, typer.Option("--index", "-i", help="Index directory.", show_default=False)]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[
    str, typer.Option(help="fp32, bf16 or auto: bf16 where the GPU or processor has it natively, else fp32.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, all else on stderr.")]
BatchSize = Annotated[int, typer.Option(min=1, max=65536, help="Images a batch.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Decoding threads. Default: one a core.")]
ModelOverride = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"{MODEL_HELP} Default: what the index was built with.",
        show_default=False,
    ),
]
