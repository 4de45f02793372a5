"""Options that several commands share, so that they are spelled and explained once."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matvit.submodels.frontier import Axis
from retrieval.sources.all_sources import images_help

if TYPE_CHECKING:
    from indexes.faiss_kinds.options import KindOptions

MODEL_VARIABLE = "MATVIT_MODEL"
IMAGES_HELP = images_help()

MODEL_HELP = (
    "Checkpoint directory; timm name (pretrained weights), such as vit_base_patch14_dinov2.lvd142m, with "
    "@224px for images of that size; hf-hub: id; or matvit-b16-in1k or matvit-l16-in21k-in1k, the published "
    "MatViTs. `matvit models` lists some."
)


class LabelsFrom(StrEnum):
    """What the labels of image files are."""

    AUTO = "auto"
    FOLDERS = "folders"
    NONE = "none"

    @property
    def wanted(self) -> bool | None:
        """As `retrieval.sources.open_images.open_source` takes it."""
        return {"auto": None, "folders": True, "none": False}[self]


def _key_prefix(prefix: str | None) -> str | None:
    if prefix is not None:
        from indexes.disk.key_prefixes import check_prefix

        check_prefix(prefix)
    return prefix


Images = Annotated[str, typer.Argument(metavar="IMAGES", help=IMAGES_HELP, show_default=False)]
KeyPrefix = Annotated[
    str | None,
    typer.Option(
        help="What the keys of IMAGES begin with, such as 2024/; `add` remembers it. Default: what the index "
        "remembers of IMAGES, else nothing, or their name where others have their keys.",
        callback=_key_prefix,
        show_default=False,
    ),
]
Labels = Annotated[
    LabelsFrom,
    typer.Option(
        "--labels",
        help="Of image files: folders (the top-level folder of each), none, or auto: folders where these are "
        "laid out as for training, an image in each of two or more that are no dates, else none.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="What to leave out of the folder IMAGES, like a line of a .gitignore: thumbs/, '*.gif', /raw. "
        "Can be repeated; `add` remembers it.",
        show_default=False,
    ),
]
IndexDir = Annotated[Path, typer.Option("--index", "-i", help="Index directory.", show_default=False)]
Axes = Annotated[
    list[Axis] | None,
    typer.Option(
        "--axis",
        help="What submodels on the curve may differ in: sizes of images, merges of tokens, widths of "
        "layers. Can be repeated. Default: all of them.",
        show_default=False,
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[
    str, typer.Option(help="fp32, bf16 or auto: bf16 where the GPU or processor has it natively, else fp32.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, all else on stderr.")]
BatchSize = Annotated[int, typer.Option(min=1, max=65536, help="Images a batch.")]
Workers = Annotated[
    int | None,
    typer.Option(min=0, help="Processes that decode. Default: one a core, or none for few images."),
]
ModelOverride = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"{MODEL_HELP} Default: what the index was built with.",
        show_default=False,
    ),
]
Factory = Annotated[
    str,
    typer.Option(
        help="How to search: auto (by corpus size and memory), Flat (exact), HNSW32, 'IVF4096,PQ64' or any "
        "other FAISS factory string."
    ),
]
Rerank = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Candidates a query that are compared again by the stored vectors. Default: 100 for compressed "
        "kinds, else 0.",
    ),
]
MaxMemory = Annotated[
    str | None, typer.Option(help="What the search index may hold: 4G, 500M.", show_default=False)
]
MaxQueryMs = Annotated[
    float | None,
    typer.Option(min=0, help="What searching for one query may take, in ms.", show_default=False),
]
Recall = Annotated[
    float, typer.Option(min=0, max=1, help="Share of the true 10 nearest that tuning aims at.")
]
Where = Annotated[
    str | None,
    typer.Option(
        help="Only rows that satisfy a condition: \"label = 'cat' and year > 2019\".", show_default=False
    ),
]


def kind_options(
    factory: str, rerank: int | None, max_memory: str | None, max_query_ms: float | None, recall: float
) -> "KindOptions":
    """What the options say of how to index."""
    from indexes.faiss_kinds.options import KindOptions

    return KindOptions(
        factory=factory,
        rerank=rerank,
        max_memory_bytes=None if max_memory is None else _bytes(max_memory),
        max_query_ms=max_query_ms,
        recall_target=recall,
    )


def _bytes(text: str) -> int:
    number, unit = text[:-1], text[-1:].upper()
    if unit.isdigit():
        number, unit = text, ""
    powers = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}
    try:
        count = float(number) * 1024 ** powers[unit]
    except (KeyError, ValueError):
        count = -1
    if not 1 <= count < 2**63:
        raise typer.BadParameter(f"--max-memory {text}: write 4G, 500M or a number of bytes")
    return int(count)
