"""One encoder run by several engines, side by side: timm, this library eager and compiled, other runtimes.

Every submodel is timed together with timm's plain XL in float32, in turns, so that a ratio never compares
two states of the machine.
"""

import copy
import io
import statistics
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from matvit.engines.all_engines import engines_named
from matvit.engines.eager import Eager
from matvit.engines.engine import Engine, Run
from matvit.engines.timm_eager import TimmEager
from matvit.errors import EngineError
from matvit.progress import Count, Progress, silent
from matvit.runtime.stopwatch import Stopwatch
from matvit.submodels.profile import Timing
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel
from matvit.vision.architectures import default_cfgs
from matvit.vision.elastic_vit import Elastic
from matvit.vision.embedding import embed_only
from matvit.weights import model_names

COMPARED_IMAGES = 8
"""At least so many images for the cosines."""

_SHORT = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Way:
    """An engine in one number format.

    Args:
        engine: What runs the submodels.
        dtype: What it computes in.
    """

    engine: Engine
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """What it is called in the table."""
        return f"{self.engine.title} {_SHORT.get(self.dtype, self.dtype)}"

    @property
    def weights(self) -> torch.dtype:
        """The number format of the elastic encoder that it is given."""
        return self.engine.weights or self.dtype


BASELINE = Way(TimmEager(), torch.float32)
"""What all are compared with."""


@dataclass(frozen=True)
class Result:
    """One submodel at one batch size, run in one way.

    Args:
        engine: Name of the way.
        submodel: What ran.
        batch_size: Images a call.
        timing: What its calls took; None where it did not run.
        speedup: Time of timm's eager XL in float32, in the same rounds, over this one's.
        images_per_second: Of the median call.
        share_of_peak: Its FLOPs a second over those of a large bf16 matrix product; None on a CPU.
        cosine_mean: Between its embeddings and those of float32 eager at the same submodel.
        cosine_worst: The smallest of them.
        note: Why it did not run.
    """

    engine: str
    submodel: Submodel
    batch_size: int
    timing: Timing | None = None
    speedup: float | None = None
    images_per_second: float | None = None
    share_of_peak: float | None = None
    cosine_mean: float | None = None
    cosine_worst: float | None = None
    note: str = ""

    def row(self) -> dict[str, Any]:
        """All of it in plain values."""
        values = {**vars(self), "submodel": str(self.submodel)}
        timing = values.pop("timing")
        times = asdict(timing) if timing else dict.fromkeys(each.name for each in fields(Timing))
        return {name: values.pop(name) for name in ("engine", "submodel", "batch_size")} | times | values


def open_model(name: str, *, progress: Progress = silent) -> tuple[Elastic, bool]:
    """An elastic encoder without its classifier, and whether its weights are random.

    They are for the bare name of one of our architectures; all else is as in `matvit.load`.
    """
    if untrained := name in default_cfgs and not Path(name).is_dir():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = timm.create_model(name).eval()
    else:
        model = model_names.load(name, progress=progress)
    embed_only(model)
    return model.float(), untrained


def ways_on(device: torch.device, names: Sequence[str] | None = None) -> tuple[Way, ...]:
    """Every way of running a submodel on a device, `BASELINE` first.

    Args:
        device: Where to run.
        names: Of the engines beside it; None is all that run there.

    Raises:
        EngineError: There is no such engine, or it does not run on this device.
    """
    others: list[Way] = []
    for engine in engines_named(names):
        formats = engine.formats(device)
        if names is not None and not formats:
            raise EngineError(f"engine {engine.name} does not run on {device.type}")
        others += [Way(engine, dtype) for dtype in formats]
    return BASELINE, *(way for way in others if way.name != BASELINE.name)


def compare(
    model: ElasticEncoder,
    *,
    ways: Sequence[Way],
    submodels: Sequence[Submodel],
    batch_sizes: Sequence[int] = (1,),
    repeats: int = 20,
    progress: Progress = silent,
) -> tuple[Result, ...]:
    """Time submodels in several ways, on random images.

    Args:
        model: An elastic encoder in float32, in evaluation mode, where it is to run.
        ways: As from `ways_on`: `BASELINE` first.
        submodels: Each is timed by itself, so that only one needs memory at a time.
        batch_sizes: Images a call.
        repeats: Timed rounds.
        progress: Told whenever a way was made ready and whenever a round is over.

    Returns:
        For each batch size: timm at XL, then every other way at each submodel.
    """
    total = len(batch_sizes) * len(submodels) * (len(ways) + repeats)
    count = Count(progress, "steps timed", total)
    device = next(model.parameters()).device
    models: dict[torch.dtype, ElasticEncoder] = {torch.float32: model}
    for dtype in {way.weights for way in ways} - {torch.float32}:
        models[dtype] = copy.deepcopy(model).to(device=device, dtype=dtype)
    peak = _peak_flops(device) if device.type == "cuda" else None
    baseline, *others = (way.name for way in ways)

    def result(way: str, submodel: Submodel, size: int, its: Timing, baseline_ms: float) -> Result:
        rate = 1000 * size / its.ms
        share = model.cost(submodel).flops * rate / peak if peak else None
        return Result(way, submodel, size, its, baseline_ms / its.ms, rate, share)

    results: list[Result] = []
    for size in batch_sizes:
        baselines: list[Timing] = []
        rows: list[Result] = []
        whole = _images(model, size, model.space.full)[0]
        for submodel in submodels:
            batches = _images(model, size, submodel)
            runs, notes = _ready(ways, models, submodel, whole, batches[0], count)
            calls = {
                name: partial(run, whole if name == baseline else batches[0]) for name, run in runs.items()
            }
            times = _rounds(calls, whole.device, repeats, count)
            baselines.append(times[baseline])
            exact = Eager().build(model, submodel, batches[0])
            for way in others:
                if way in runs:
                    mean, worst = _cosines(runs[way], exact, batches)
                    row = result(way, submodel, size, times[way], times[baseline].ms)
                    rows.append(replace(row, cosine_mean=mean, cosine_worst=worst))
                else:
                    rows.append(Result(way, submodel, size, note=notes[way]))
            calls.clear()
            runs.clear()  # Before the next ones need the memory.
        usual = statistics.median_low(baselines)
        results += [result(baseline, model.space.full, size, usual, usual.ms), *rows]
    return tuple(results)


def _ready(
    ways: Sequence[Way],
    models: Mapping[torch.dtype, ElasticEncoder],
    submodel: Submodel,
    whole: Tensor,
    sized: Tensor,
    count: Count,
) -> tuple[dict[str, Run], dict[str, str]]:
    """The ways that can run a submodel, by name, and why the others cannot.

    The baseline gets images of the full encoder's size, all others those of the submodel's.
    """
    runs: dict[str, Run] = {}
    notes: dict[str, str] = {}
    for way in ways:
        if missing := way.engine.missing:
            notes[way.name] = missing
        else:
            images = whole if way == BASELINE else sized
            try:
                with _quiet(), torch.no_grad():
                    run = way.engine.build(models[way.weights], submodel, images)
                    run(images)
                runs[way.name] = run
            except Exception as error:  # Whatever another runtime refuses is told, and stops nothing.
                notes[way.name] = f"failed: {next(iter(str(error).splitlines()), '') or repr(error)}"
        count()
    return runs, notes


@torch.inference_mode()
def _rounds(
    calls: Mapping[str, Callable[[], Tensor]], device: torch.device, repeats: int, count: Count
) -> dict[str, Timing]:
    """What each takes, all of them in turns."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    with Stopwatch(device) as watch:
        for _ in range(repeats):
            for name, call in calls.items():
                call()  # Untimed: it finds caches and threads as the one before left them.
                times[name].append(watch.seconds(call))
            count()
    return {name: watch.timing(each) for name, each in times.items()}


@torch.inference_mode()
def _cosines(run: Run, exact: Run, batches: Sequence[Tensor]) -> tuple[float, float]:
    """Mean and smallest cosine between the embeddings of two ways."""
    pairs = ((run(images).float(), exact(images).float()) for images in batches)
    cosines = torch.cat([F.cosine_similarity(one, other, dim=-1) for one, other in pairs])
    return cosines.mean().item(), cosines.min().item()


def _images(model: ElasticEncoder, batch_size: int, submodel: Submodel) -> list[Tensor]:
    """Batches of random images of a submodel's size, with enough images in all for the cosines."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch_size, model.in_chans, *model.space.tokens.height_and_width(submodel))
    device = next(model.parameters()).device
    return [
        torch.randn(shape, generator=generator).to(device) for _ in range(-(-COMPARED_IMAGES // batch_size))
    ]


def _peak_flops(device: torch.device) -> float:
    """Operations a second (two a multiply-add) of a large bf16 matrix product."""
    side = 8192
    square = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    times = _rounds({"matmul": lambda: square @ square}, device, 10, Count(silent, ""))
    return 2 * side**3 / (times["matmul"].ms / 1000)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what exporters and converters have to say."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
