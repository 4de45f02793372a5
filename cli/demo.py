"""`matvit demo`: the whole story on images that ship with scikit-learn."""

import shlex
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from cli import options
from cli.evaluate import keep, show
from cli.output import print_table, progress, say, si
from cli.query import show_hits
from cli.train import run

BUDGETS = ("S", "50%", "XL")


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
) -> None:
    """Index digits, query them at three budgets, measure the curve. Offline, in under a minute.

    Example: matvit demo
    """
    from matvit.checkpoint import SHIPPED
    from matvit.device import pick_device
    from retrieval.digits import write_digits

    pick_device(device)  # A device that is not there is better known before anything is written.
    place = output or Path(tempfile.mkdtemp(prefix="matvit-demo-"))
    corpus, queries = write_digits(place / "digits")
    checkpoint = SHIPPED / "digits"
    if train:
        run("digits", corpus, place / "run", device=device, dtype=dtype)
        checkpoint = place / "run" / "checkpoint"
    _show(checkpoint, corpus, queries, place, device, dtype)


def _show(checkpoint: Path, corpus: Path, queries: Path, place: Path, device: str, dtype: str) -> None:
    from indexes import Index
    from retrieval.embed import build_index
    from retrieval.encoder import Encoder
    from retrieval.evaluate import evaluate
    from retrieval.figures import contact_sheet
    from retrieval.images import open_source
    from retrieval.pixels import raw_pixel_1nn
    from retrieval.searcher import Searcher

    encoder = Encoder.open(checkpoint, device=device, dtype=dtype)
    images = open_source(corpus)
    say(f"\n1. The full encoder embeds {images.size} images once, into {place / 'digits.index'}")
    with progress("Embedding", images.size) as advance:
        build_index(images, encoder, place / "digits.index", command="matvit demo", on_images=advance)
    searcher = Searcher(Index.open(place / "digits.index"), encoder)

    say("\n2. Each query says what it may cost; a smaller encoder inside the same weights answers")
    asked = [next(iter(sorted((queries / digit).iterdir()))) for digit in ("2", "4", "8")]
    sheet = []
    for image in asked:
        for budget in BUDGETS:
            hits = searcher.query(image, budget=budget, k=8)
            sheet.append((f"{hits.submodel}\n{si(hits.cost.macs)} MACs", image, hits))
            if image == asked[0]:
                show_hits(str(image.relative_to(place)), hits, limit=3)
    contact_sheet(place / "neighbours.png", sheet)

    say("\n3. 1-NN accuracy of the 360 held-out digits against query compute")
    held_out = open_source(queries)
    with progress("Evaluating", held_out.size) as advance:
        result = evaluate(searcher, held_out, encoder.space.curve, on_images=advance)
    floors = raw_pixel_1nn(images, held_out)
    show(result, floors)
    keep(result, floors, place / "evaluation", encoder)
    say("\nWhat was made:")
    print_table(
        [
            {"": what, " ": str(place / name)}
            for what, name in (
                ("images", "digits"),
                ("index", "digits.index"),
                ("neighbours", "neighbours.png"),
                ("curve", "evaluation/curve.png"),
                ("table", "evaluation/curve.csv"),
            )
        ]
    )
    example = ["matvit", "query", str(asked[0]), "-i", str(place / "digits.index"), "--budget", "60%"]
    say(f"Try: {shlex.join(example)}")
