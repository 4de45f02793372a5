"""`matvit bench`: ways of running one encoder, side by side on this machine."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.early import check_model
from cli.output import percent, print_json, print_table, say
from cli.progress import progress
from matvit.weights.known_models import DEFAULT

if TYPE_CHECKING:
    from matvit.engines.compare import Result
    from matvit.submodels.submodel import Submodel


def bench(
    model: options.Model = DEFAULT,
    budget: options.ComparedBudgets = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=65536,
            help="Embed so many images a call. Can be repeated.",
            show_default="1; on a GPU 1, 32 and 256",
        ),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Time so many rounds; medians are shown.")] = 20,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="Compare only this with timm: timm, eager, compiled (takes minutes), openvino or "
            "onnxruntime. Can be repeated.",
            show_default="all of them",
        ),
    ] = None,
    csv: options.Csv = None,
    threads: options.Threads = None,
    device: options.Device = "auto",
    json: options.Json = False,
) -> None:
    """Compare ways of running an encoder, side by side.

    They are timm, matvit eager and compiled, and other runtimes, on this machine. Each cell is the median
    time of a call on random images, how far the middle half of the calls spreads, and how many times faster
    that is than timm's eager full encoder in float32, timed in the same rounds. Cosines are between
    embeddings of random images and those of float32 by the same submodel. A bare name such as
    matvit_base_patch16_224 gets random weights, which take as long as others.

    Example: matvit bench

    Example: matvit bench -m matvit_base_patch16_224 -b S -b XL
    """
    check_model(model)

    from matvit.engines.bench import bench as run
    from matvit.engines.compare import ways_on
    from matvit.runtime.device import pick_device

    ways_on(pick_device(device), engine)  # If there is no such thing, better now than with a folder made.
    if csv:
        csv.parent.mkdir(parents=True, exist_ok=True)  # If that cannot be, better now than after the work.
    with progress() as bar:
        found = run(
            model,
            budgets=budget,
            batch_sizes=batch_size,
            repeats=repeats,
            engines=engine,
            threads=threads,
            device=device,
            progress=bar,
        )
    setting = found.setting
    threads_used = [f"{setting.threads} thread{'s' * (setting.threads > 1)}"] if setting.threads else []
    random = ["random weights"] if found.random_weights else []
    where = [f"{model} on {setting.device}", *threads_used, f"torch {setting.torch_version}"]
    say("; ".join([*where, f"medians of {repeats}", "± is the interquartile range", *random]))
    if found.doubt:
        say(f"matvit: these times are not to be relied on: {found.doubt}")
    if json:
        print_json(found.to_dict())
    else:
        for size in found.batch_sizes:
            of_size = [result for result in found.results if result.batch_size == size]
            print_table(_table(of_size, found.submodels), title=f"batch of {size}")
    if csv:
        from retrieval.showing.csv_table import write_csv

        write_csv(csv, found.table())
        say(f"kept: {csv}")


def _table(results: Sequence["Result"], submodels: Sequence["Submodel"]) -> list[dict[str, object]]:
    """A row for each way, a column for each submodel, and how close its embeddings are."""
    full = results[0].submodel
    columns = dict.fromkeys([*submodels, full])
    rows: list[dict[str, object]] = []
    for way in dict.fromkeys(result.engine for result in results):
        of_way = {result.submodel: result for result in results if result.engine == way}
        means = [result.cosine_mean for result in of_way.values() if result.cosine_mean is not None]
        worst = [result.cosine_worst for result in of_way.values() if result.cosine_worst is not None]
        notes = dict.fromkeys(result.note for result in of_way.values() if result.note)
        rows.append(
            {
                "": way,
                **{str(column): _cell(of_way.get(column)) for column in columns},
                "mean cosine": f"{sum(means) / len(means):.5f}" if means else None,
                "worst": f"{min(worst):.5f}" if worst else None,
                **({"note": "; ".join(notes)} if any(result.note for result in results) else {}),
            }
        )
    return rows


def _cell(result: "Result | None") -> str | None:
    if result is None or result.timing is None or result.images_per_second is None:
        return None
    parts = [str(result.timing), f"{result.speedup:.2f}x"]
    if result.share_of_peak is not None:
        parts += [f"{result.images_per_second:.0f}/s", f"{percent(result.share_of_peak)} of peak"]
    return " ".join(parts)
