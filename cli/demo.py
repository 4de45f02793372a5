"""`matvit demo`: the whole story on images that ship with scikit-learn."""

import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.alone import alone_in_output
from cli.output import Ends, command_line, from_here, percent, print_json, print_table, say, si
from cli.progress import progress
from cli.train import show_epochs
from cli.viewer import show_file
from matvit.submodels.profile import two_digits

if TYPE_CHECKING:
    from retrieval.encoding.encoder import Encoder
    from retrieval.hits import Hit, Hits
    from retrieval.measuring.curve import Point
    from retrieval.measuring.estimate import Estimate
    from retrieval.measuring.evaluation import Evaluation

BUDGETS = ("S", "60%", "XL")
_TOGETHER = 64
_ROUNDS = 30


@alone_in_output
def demo(
    output: options.TemporaryOutput = None,
    train: Annotated[
        bool, typer.Option("--train", help="Train the model again first, for some minutes.")
    ] = False,
    open_: Annotated[
        bool, typer.Option("--open", help="Open the picture of neighbours with the system's viewer.")
    ] = False,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    json: options.Json = False,
) -> None:
    """Show the whole story on handwritten digits, in about a minute.

    They are indexed, queried at three budgets, and the whole curve is measured, without a network or a GPU.
    In the end it says where index, tables and pictures are.

    Example: matvit demo

    Example: matvit demo -o demo/ --open
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
    made = _show(checkpoint, corpus, queries, folder, device, dtype, json)
    if open_:
        show_file(Path(made["neighbours"]))


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
) -> dict[str, str]:
    from indexes import Index
    from retrieval.encoding.encoder import Encoder
    from retrieval.measuring.evaluate import evaluate
    from retrieval.searcher import Searcher
    from retrieval.showing.contact_sheet import contact_sheet
    from retrieval.sources.digits import write_off_centre
    from retrieval.sources.open_images import open_source
    from retrieval.upkeep.embed import build_index

    encoder = Encoder.open(checkpoint, device=device, dtype=dtype)
    images = open_source(corpus)
    say(f"1. The full encoder, XL, embeds {images.size} handwritten digits once")
    with progress() as bar:
        build_index(images, encoder, folder / "digits.index", command="matvit demo", progress=bar)
    searcher = Searcher(Index.open(folder / "digits.index"), encoder)

    say("2. Other digits, each moved off its centre, look for their like; each query says what it may cost")
    hard = open_source(write_off_centre(queries, folder / "digits" / "off-centre"))
    with progress() as bar:
        measured = evaluate(searcher, hard, BUDGETS, progress=bar)
    by_digit = _by_digit(measured)
    alone, together = (_milliseconds(encoder, measured, size) for size in (1, _TOGETHER))
    budgets = [
        _Budget(*all_of_it) for all_of_it in zip(measured.points, *by_digit, alone, together, strict=True)
    ]
    if not json:
        print_table([budget.columns() for budget in budgets])
        _tell(measured, budgets)

    sheet = [
        (
            f"{point.submodel}\n{si(point.cost.macs)} MACs",
            asked,
            searcher.query(asked.path, budget=point.submodel),
        )
        for asked in _disputed(measured)
        for point in measured.points
    ]
    contact_sheet(folder / "neighbours.png", sheet)
    asked = sheet[0][1]
    if not json:
        only_xl, only_cheapest = (len(numbers) for numbers in _only(measured))
        say(
            f"3. XL alone gets {only_xl} queries right, {measured.points[0].submodel} alone {only_cheapest}: "
            "one of them, and its five nearest"
        )
        found = [_found(asked, hits) for _, _, hits in sheet[: len(BUDGETS)]]
        print_table(found, title=f"{from_here(asked.path)}, a {asked.label}")

    say("4. The whole curve of budgets, on the same digits as they are, is kept in a table and a figure")
    with progress() as bar:
        curve = evaluate(searcher, queries, raw_pixels=True, progress=bar)
    curve.save(folder / "evaluation", command=command_line())
    if not json:
        _tell_curve(curve)
    made = {
        "images": "digits",
        "index": "digits.index",
        "neighbours": "neighbours.png",
        "curve": "evaluation/curve.png",
        "table": "evaluation/curve.csv",
    }
    paths = {what: str(folder / name) for what, name in made.items()}
    if json:
        off_centre = [budget.to_dict() for budget in budgets]
        print_json(curve.to_dict() | {"off_centre": off_centre, "made": paths})
        return paths
    print_table([{"made": what, "where": Ends(path)} for what, path in paths.items()])
    example = ["matvit", "query", asked.path, "-i", paths["index"], "--budget", "60%"]
    say(f"Try: {shlex.join(example)}")
    return paths


@dataclass(frozen=True)
class _Budget:
    """What a budget is worth on the hard queries: accuracy, what it has above XL's, milliseconds a query."""

    point: "Point"
    right: "Estimate"
    to_xl: "Estimate"
    ms: float
    ms_together: float

    def columns(self) -> dict[str, object]:
        return {
            "submodel": str(self.point.submodel),
            "MACs": si(self.point.cost.macs),
            "of XL": percent(self.point.share_of_full),
            "ms": two_digits(self.ms),
            "nearest is right %": _percents(self.right, ""),
            "points to XL": _percents(self.to_xl, "+") if self.point.share_of_full < 1 else "",
        }

    def to_dict(self) -> dict[str, object]:
        return {
            "submodel": str(self.point.submodel),
            "gmacs": self.point.cost.gmacs,
            "ms": self.ms,
            f"ms_of_{_TOGETHER}": self.ms_together,
            "accuracy": vars(self.right),
            "to_xl": vars(self.to_xl),
        }


def _by_digit(measured: "Evaluation") -> tuple[list["Estimate"], list["Estimate"]]:
    """Accuracies, and how far they are above XL's; copies of one digit count as one query of it."""
    from retrieval.measuring.estimate import means_of_groups

    digits, right_QB = _digits(measured), measured.right.T.astype(float)
    return means_of_groups(right_QB, digits), means_of_groups(right_QB - right_QB[:, -1:], digits)


def _digits(measured: "Evaluation") -> list[str]:
    return [sample.key.partition("-")[0] for sample in measured.samples]


def _milliseconds(encoder: "Encoder", measured: "Evaluation", batch_size: int) -> list[float]:
    """Median times of encoding a query in a batch of some, taken in turns: what else runs slows all alike."""
    import torch

    images = torch.stack([encoder.preprocess(s.path) for s in measured.samples[:batch_size]])
    times: list[list[float]] = [[] for _ in measured.points]
    for _ in range(_ROUNDS):
        for point, taken in zip(measured.points, times, strict=True):
            start = perf_counter()
            encoder.embed(images, point.submodel)
            taken.append(1000 * (perf_counter() - start) / len(images))
    return [median(taken) for taken in times]


def _percents(estimate: "Estimate", sign: str) -> str:
    value, low, high = (f"{100 * number:{sign}.1f}" for number in (estimate.value, *estimate.interval))
    return f"{value} ({low} to {high})"


def _tell(measured: "Evaluation", budgets: Sequence[_Budget]) -> None:
    digits, cheapest, name = len(set(_digits(measured))), budgets[0], measured.points[0].submodel
    is_worse = cheapest.to_xl.interval[1] < 0
    found = "right less often than XL, by more than chance" if is_worse else "not told apart from XL"
    say(f"{measured.queries} queries, {digits} digits; 95 % intervals over digits: {name} is {found}")
    times = ", ".join(two_digits(budget.ms_together) for budget in budgets)
    say(f"ms: one query alone, where so small a model mostly waits; {_TOGETHER} at once take {times} each")
    say("(a ViT-B/16 in bf16 on a processor answers 1.7 times as fast with S: see the README)")


def _tell_curve(curve: "Evaluation") -> None:
    shares = {str(point.submodel): point["adaptive_1nn"] for point in (curve.points[0], curve.points[-1])}
    shares["raw pixels"] = max(curve.raw_pixels.values(), key=lambda share: share.value)
    found = ", ".join(f"{name} {share} %" for name, share in shares.items())
    say(f"these {curve.queries} are easy: {found}")


def _only(measured: "Evaluation") -> tuple[list[int], list[int]]:
    """Numbers of the queries that XL gets right and the cheapest budget does not, and the other way round."""
    by_cheapest, by_xl = measured.right[0], measured.right[-1]
    return (by_xl & ~by_cheapest).nonzero()[0].tolist(), (by_cheapest & ~by_xl).nonzero()[0].tolist()


def _disputed(measured: "Evaluation") -> list["Hit"]:
    """Two queries that only XL gets right, and one that only the cheapest budget does, if there are any."""
    from retrieval.hits import Hit

    only_xl, only_cheapest = _only(measured)
    chosen = dict.fromkeys([*only_xl[:1], *only_xl[-1:], *only_cheapest[:1]] or [0])
    samples = [measured.samples[number] for number in chosen]
    return [Hit(sample.key, 1.0, sample.label, sample.path) for sample in samples]


def _found(asked: "Hit", hits: "Hits") -> dict[str, object]:
    nearest = (f"{hit.label}{'' if hit.label == asked.label else ' (wrong)'}" for hit in hits[:5])
    return {"submodel": str(hits.submodel), "MACs": si(hits.macs), "nearest": ", ".join(nearest)}
