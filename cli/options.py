"""Options that commands share: spelled and explained here, once, so that they are the same everywhere.

The grammar of all commands:

- What a command is about stands first, as arguments: images, queries, keys, places, a recipe, a notebook.
- The index is `-i`, the model `-m`, the budget `-b`, and what is written goes to `-o`.
- The help of an argument says what it is; that of an option says what to do. Both are whole sentences.
- What holds where an option is left out is shown as its default, not told in its help.
- A command's docstring says what it does, then what to know, then gives examples.
"""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from matvit.submodels.frontier import Axis
from matvit.weights.known_models import DEFAULT
from retrieval.sources.all_sources import images_help

if TYPE_CHECKING:
    from indexes.faiss_kinds.options import KindOptions

MODEL_VARIABLE = "MATVIT_MODEL"

INDEX_HELP = "Use the index in this directory."
MODEL_HELP = (
    "Use this encoder: a checkpoint directory; a name of timm, such as vit_base_patch14_dinov2.lvd142m, with "
    "@224px for images of that size; an hf-hub: id; or one of the published MatViTs, matvit-b16-in1k and "
    "matvit-l16-in21k-in1k. `matvit models` lists some."
)
BUDGET_HELP = (
    "Take the submodel for this budget: M, 60%, 9gmacs, 25ms; or one spelled out: S*5+M*7, L@112px, XL~8."
)
OUTPUT_HELP = "Write to this directory."


class LabelsFrom(StrEnum):
    """What the labels of image files are."""

    AUTO = "auto"
    FOLDERS = "folders"
    NONE = "none"

    @property
    def wanted(self) -> bool | None:
        """As `retrieval.sources.open_images.open_source` takes it."""
        return {"auto": None, "folders": True, "none": False}[self]


def default_model() -> str:
    """What is used where neither a model nor an index is named."""
    return os.environ.get(MODEL_VARIABLE) or DEFAULT


def _key_prefix(prefix: str | None) -> str | None:
    if prefix is not None:
        from indexes.disk.key_prefixes import check_prefix

        check_prefix(prefix)
    return prefix


# What a command is about.

Images = Annotated[str, typer.Argument(metavar="IMAGES", help=images_help(), show_default=False)]
QUERIES_HELP = "Labelled images, of any kind that `matvit index build` takes."
Queries = Annotated[str, typer.Argument(metavar="QUERIES", help=QUERIES_HELP, show_default=False)]

# The index, the model, the budget, and where to write.

IndexDir = Annotated[Path, typer.Option("--index", "-i", help=INDEX_HELP, show_default=False)]
PlannedIndex = Annotated[
    Path | None,
    typer.Option(
        "--index",
        "-i",
        help=f"{INDEX_HELP} Its model is planned for, and the curve that it keeps.",
        show_default=False,
    ),
]
Model = Annotated[str, typer.Option("--model", "-m", help=MODEL_HELP, envvar=MODEL_VARIABLE)]
ModelOverride = Annotated[
    str | None, typer.Option("--model", "-m", help=MODEL_HELP, show_default="what the index was built with")
]
PlannedModel = Annotated[
    str | None,
    typer.Option(
        "--model", "-m", help=MODEL_HELP, show_default=f"that of -i, else ${MODEL_VARIABLE}, else {DEFAULT}"
    ),
]
Budget = Annotated[
    str | None, typer.Option("--budget", "-b", help=BUDGET_HELP, show_default="the full encoder")
]
PlannedBudget = Annotated[
    str | None, typer.Option("--budget", "-b", help=BUDGET_HELP, show_default="all on the curve")
]
Budgets = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        "-b",
        help=f"{BUDGET_HELP} Can be repeated. The whole curve is all, and that of widths alone mixnmatch.",
        show_default="all",
    ),
]
ComparedBudgets = Annotated[
    list[str] | None,
    typer.Option("--budget", "-b", help=f"{BUDGET_HELP} Can be repeated.", show_default="every granularity"),
]
Output = Annotated[Path, typer.Option("--output", "-o", help=OUTPUT_HELP, show_default=False)]
NewIndex = Annotated[
    Path | None,
    typer.Option("--output", "-o", help=OUTPUT_HELP, show_default="NAME.index here, for the folder NAME"),
]
TemporaryOutput = Annotated[
    Path | None, typer.Option("--output", "-o", help=OUTPUT_HELP, show_default="a new temporary one")
]
Results = Annotated[
    Path | None,
    typer.Option("--output", "-o", help=OUTPUT_HELP, show_default="nothing is kept"),
]
OutputHere = Annotated[Path, typer.Option("--output", "-o", help=OUTPUT_HELP)]
Csv = Annotated[
    Path | None, typer.Option(help="Also write the table, in full, to this .csv file.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and all else on stderr.")]

# Which rows, keys and labels.

KeyPrefix = Annotated[
    str | None,
    typer.Option(
        help="Begin the keys of IMAGES with this, such as 2024/. `matvit index add` remembers it.",
        callback=_key_prefix,
        show_default="what is remembered of IMAGES; else nothing, or their name where keys are taken",
    ),
]
Labels = Annotated[
    LabelsFrom,
    typer.Option(
        "--labels",
        help="Label image files by their top-level folders, or not at all (none). auto takes folders where "
        "images are laid out as for training: in two or more of them, which are no dates.",
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        help="Leave this out of the folder IMAGES, written like a line of a .gitignore: thumbs/, '*.gif', "
        "/raw. Can be repeated. `matvit index add` remembers it.",
        show_default=False,
    ),
]
CheckContent = Annotated[
    bool, typer.Option("--check-content", help="Compare images by their bytes, not by size and time.")
]
Where = Annotated[
    str | None,
    typer.Option(
        help="Take only rows that satisfy a condition: \"label = 'cat' and year > 2019\".", show_default=False
    ),
]

# How to search.

Factory = Annotated[
    str,
    typer.Option(
        help="Search like this: auto (by corpus size and memory), Flat (exact), HNSW32, 'IVF4096,PQ64' or "
        "any other factory string of FAISS."
    ),
]
Rerank = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Compare so many candidates of a query again, by the stored vectors.",
        show_default="100 for compressed kinds, else 0",
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(help="Let the search index hold so much memory at most: 4G, 500M.", show_default=False),
]
MaxQueryMs = Annotated[
    float | None,
    typer.Option(
        min=0, help="Let the search for one query take so many milliseconds at most.", show_default=False
    ),
]
Recall = Annotated[
    float, typer.Option(min=0, max=1, help="Aim at this share of the true 10 nearest when tuning.")
]

# What to fit and to measure, and how to run.

Axes = Annotated[
    list[Axis] | None,
    typer.Option(
        "--axis",
        help="Let submodels on the curve differ in this: sizes of images, merges of tokens, or widths of "
        "layers. Can be repeated.",
        show_default="all of them",
    ),
]
Measure = Annotated[
    bool,
    typer.Option("--measure", help="Also show milliseconds, measured here and remembered for a month."),
]
BatchSize = Annotated[int, typer.Option(min=1, max=65536, help="Embed so many images at a time.")]
Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Decode images in so many processes.",
        show_default="one a core, or none for few images",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1, max=1024, help="Let torch use so many threads on the CPU.", show_default="its own choice"
    ),
]
Device = Annotated[str, typer.Option(help="Run on this: auto, cpu, cuda, cuda:1 or mps.")]
Dtype = Annotated[
    str,
    typer.Option(
        help="Compute in fp32, bf16 or auto: bf16 where the GPU or processor has it natively, else fp32."
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
