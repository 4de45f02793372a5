"""`matvit bench`: ways of running one encoder, side by side on this machine."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import options
from cli.output import percent, print_json, print_table, say
from cli.progress import progress

if TYPE_CHECKING:
    from matvit.engines.compare import Result
    from matvit.submodels.profile import Profile
    from matvit.submodels.submodel import Submodel


def bench(
    model: Annotated[
        str,
        typer.Argument(
            help=f"{options.MODEL_HELP} Bare names such as matvit_base_patch16_224 get random weights."
        ),
    ],
    submodel: Annotated[
        list[str] | None,
        typer.Option("--submodel", "-s", help="M, 60%, S*5+M*7...; repeatable. Default: every granularity."),
    ] = None,
    batch_size: Annotated[
        list[int] | None,
        typer.Option(min=1, max=65536, help="Images a call; repeatable. Default: 1; on a GPU 1, 32 and 256."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Timed rounds; medians are shown.")] = 20,
    device: options.Device = "auto",
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, help="On a CPU. Default: torch's own choice.")
    ] = None,
    engine: Annotated[
        list[str] | None,
        typer.Option(
            help="timm, eager, compiled (takes minutes), openvino, onnxruntime; repeatable. Default: all."
        ),
    ] = None,
    csv: Annotated[
        Path | None, typer.Option(help="Also write every figure to this file.", show_default=False)
    ] = None,
    json: options.Json = False,
) -> None:
    """Compare ways of running a model here: timm, this library eager and compiled, other runtimes.

    Each cell is the median time of a call on random images, and how many times faster that is than timm's
    eager full encoder in float32, timed in the same rounds. Cosines are between embeddings of random images
    and those of float32 at the same submodel.

    Example: matvit bench matvit_base_patch16_224 --submodel S --submodel XL
    """
    import torch

    from matvit.engines.compare import compare, open_model, ways_on
    from matvit.runtime.device import pick_device
    from matvit.runtime.latency import measure, setting_here
    from matvit.submodels.budget import resolve

    place = pick_device(device)
    ways = ways_on(place, engine)
    if threads:
        torch.set_num_threads(threads)
    if csv:
        csv.parent.mkdir(parents=True, exist_ok=True)  # If that cannot be, better now than after the work.
    with progress() as bar:
        encoder, untrained = open_model(model, progress=bar)
        encoder.to(place)
        budgets = submodel or encoder.space.granularities
        space, cost = encoder.space, encoder.cost

        def times() -> "Profile":
            return measure(encoder, device=place, dtype=torch.float32, progress=bar)

        submodels = list(dict.fromkeys(resolve(budget, space, cost, times) for budget in budgets))
        sizes = batch_size or ([1, 32, 256] if place.type == "cuda" else [1])
        results = compare(
            encoder,
            ways=ways,
            submodels=submodels,
            batch_sizes=sizes,
            repeats=repeats,
            progress=bar,
        )
    setting = setting_here(place, torch.float32)
    threads_used = [f"{setting.threads} thread{'s' * (setting.threads > 1)}"] if setting.threads else []
    random = ["random weights"] if untrained else []
    where = [f"{model} on {setting.device}", *threads_used, f"torch {setting.torch_version}"]
    say("; ".join([*where, f"medians of {repeats}", *random]))
    records = [asdict(result) | {"submodel": str(result.submodel)} for result in results]
    if json:
        about = {"model": model, "random_weights": untrained, "device": setting.device}
        about |= {"threads": setting.threads, "torch": setting.torch_version, "repeats": repeats}
        print_json(about | {"results": records})
    else:
        for size in sizes:
            of_size = [result for result in results if result.batch_size == size]
            print_table(_table(of_size, submodels), title=f"batch of {size}")
    if csv:
        from retrieval.showing.csv_table import write_csv

        write_csv(csv, records)
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
    if result is None or result.ms is None or result.speedup is None or result.images_per_second is None:
        return None
    parts = [f"{result.ms:.3g} ms" if result.ms < 100 else f"{result.ms:.0f} ms", f"{result.speedup:.2f}x"]
    if result.share_of_peak is not None:
        parts += [f"{result.images_per_second:.0f}/s", f"{percent(result.share_of_peak)} of peak"]
    return " ".join(parts)
