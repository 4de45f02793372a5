"""`matvit demo`: the whole story on images that ship with scikit-learn."""

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.alone import alone_in_output
from cli.evaluate import show
from cli.output import command_line, print_json, print_table, say, si
from cli.progress import progress
from cli.query import show_hits
from cli.train import show_epochs

BUDGETS = ("S", "50%", "XL")


@alone_in_output
def demo(
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Where to put everything. Default: a new temporary folder."),
    ] = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the model again first (some minutes).")
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Index digits, query them at three budgets, measure the curve. Offline, in under a minute.

    Example: matvit demo
    """
    from indexes.faiss_kinds.search import require_faiss
    from matvit.files.lock import INSIDE
    from matvit.runtime.device import pick_device, pick_dtype
    from matvit.weights.checkpoint import SHIPPED
    from retrieval.errors import OutputExistsError
    from retrieval.sources.digits import write_digits

    # Whatever would stop the demo halfway is better known before anything is written.
    require_faiss()
    pick_dtype(dtype, pick_device(device))
    if output and {file.name for file in output.iterdir()} - {INSIDE}:
        raise OutputExistsError(f"{output} is not empty: choose another folder")
    folder = output or Path(tempfile.mkdtemp(prefix="matvit-demo-"))
    corpus, queries = write_digits(folder / "digits")
    checkpoint = SHIPPED / "digits"
    if train:
        _train(corpus, folder / "run", device, dtype)
        checkpoint = folder / "run" / "checkpoint"
    _show(checkpoint, corpus, queries, folder, device, dtype, json)


def _train(corpus: Path, out: Path, device: str, dtype: str) -> None:
    from matvit.runtime.device import pick_device, pick_dtype
    from matvit.training.train import Execution
    from retrieval.learning.train import train

    torch_device = pick_device(device)
    execution = Execution(device=torch_device, dtype=pick_dtype(dtype, torch_device, training=True))
    with progress() as bar:
        train("digits", corpus, out, execution=execution, write=show_epochs("digits"), progress=bar)
    say(f"trained: {out / 'checkpoint'}")


def _show(
    checkpoint: Path, corpus: Path, queries: Path, folder: Path, device: str, dtype: str, json: bool
) -> None:
    from indexes import Index
    from retrieval.encoding.encoder import Encoder
    from retrieval.measuring.evaluate import evaluate
    from retrieval.searcher import Searcher
    from retrieval.showing.contact_sheet import contact_sheet
    from retrieval.sources.open_images import open_source
    from retrieval.upkeep.embed import build_index

    encoder = Encoder.open(checkpoint, device=device, dtype=dtype)
    images = open_source(corpus)
    say(f"1. The full encoder embeds {images.size} images once, into {folder / 'digits.index'}")
    with progress() as bar:
        build_index(images, encoder, folder / "digits.index", command="matvit demo", progress=bar)
    searcher = Searcher(Index.open(folder / "digits.index"), encoder)

    say("2. Each query says what it may cost; a smaller encoder inside the same weights answers")
    asked = [next(iter(sorted((queries / digit).iterdir()))) for digit in ("2", "4", "8")]
    sheet = []
    for image in asked:
        for budget in BUDGETS:
            hits = searcher.query(image, budget=budget, k=8)
            sheet.append((f"{hits.submodel}\n{si(hits.macs)} MACs", image, hits))
            if image == asked[0] and not json:
                show_hits(str(image.relative_to(folder)), hits, limit=3)
    contact_sheet(folder / "neighbours.png", sheet)

    say("3. 1-NN accuracy of the 360 held-out digits against query compute")
    with progress() as bar:
        result = evaluate(searcher, queries, raw_pixels=True, progress=bar)
    result.save(folder / "evaluation", command=command_line())
    made = {
        "images": "digits",
        "index": "digits.index",
        "neighbours": "neighbours.png",
        "curve": "evaluation/curve.png",
        "table": "evaluation/curve.csv",
    }
    paths = {what: str(folder / name) for what, name in made.items()}
    if json:
        print_json(result.to_dict() | {"made": paths})
        return
    show(result)
    print_table([{"made": what, "where": path} for what, path in paths.items()])
    example = ["matvit", "query", str(asked[0]), "-i", paths["index"], "--budget", "60%"]
    say(f"Try: {shlex.join(example)}")
