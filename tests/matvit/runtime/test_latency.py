"""Latency profiles: what is measured, what lies between, and what is kept for the next time."""

import json
import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from machine_world import Machine

from matvit import MatViT, Submodel, SubmodelSpace
from matvit.runtime import latency
from matvit.runtime.latency import lookup, measured_submodels, runnable, setting_here
from matvit.runtime.latency_store import structure
from matvit.submodels.profile import Point, Profile, Timing
from matvit.vision.ffn import hidden_units

CPU = torch.device("cpu")
HERE = setting_here(CPU, torch.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Path:
    monkeypatch.setenv("MATVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(latency, "SETTLE_SECONDS", 0)
    return tmp_path / "cache" / "latency"


@pytest.fixture
def calls(tiny: MatViT) -> Iterator[list[tuple[torch.Tensor, Submodel]]]:
    """Every call of the tiny model, which must not record gradients."""
    seen: list[tuple[torch.Tensor, Submodel]] = []

    def record(encoder: MatViT, arguments: tuple[torch.Tensor]) -> None:  # Cut encoders share hooks too.
        assert torch.is_inference_mode_enabled()
        seen.append((arguments[0], Submodel(tuple(map(hidden_units, encoder.blocks)))))

    hook = tiny.register_forward_pre_hook(record)
    yield seen
    hook.remove()


def measure(model: MatViT, **options) -> Profile:
    return latency.measure(model, **{"device": CPU, "dtype": torch.float32, "repeats": 2, **options})


def test_granularities_and_evenly_spaced_points_are_measured(tiny: MatViT) -> None:
    times = measure(tiny, between=1)
    assert times.setting == HERE
    assert [point.submodel for point in times.points] == list(tiny.space.curve)
    assert [i for i, point in enumerate(times.points) if point.measured] == [0, 2, 4, 6, 8, 10, 12]
    assert all(point.ms > 0 for point in times.points)
    assert all(point.measured for point in measure(tiny, between=None).points)
    assert all(timing.iqr_ms >= 0 and timing.other_work == 0 for timing in times.timings)
    assert all(0 <= time.time() - timing.at < 600 for timing in times.timings)


@pytest.mark.parametrize(
    "between, count", [(0, 4), (1, 7), (2, 10), (10, 34), (11, 37), (99, 37), (None, 37)]
)
def test_how_many_are_measured_of_twelve_layers(between: int | None, count: int) -> None:
    assert len(measured_submodels(SubmodelSpace((3072,) * 12), between)) == count


@given(st.integers(1, 30), st.integers(1, 5), st.integers(0, 30))
def test_measured_points_are_spread_evenly(depth: int, granularities: int, between: int) -> None:
    shares = {f"G{i}": (i + 1) / granularities for i in range(granularities)}
    space = SubmodelSpace((1000,) * depth, shares)
    places = [space.curve.index(submodel) for submodel in measured_submodels(space, between)]
    assert set(places) >= set(range(0, len(space.curve), depth))
    gaps = [right - left for left, right in pairwise(places)]
    assert not gaps or 1 <= min(gaps) <= max(gaps) <= min(gaps) + 1


def test_batches_are_those_asked_for_and_rounds_take_turns(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]]
) -> None:
    submodels = list(measured_submodels(tiny.space, 0))
    told: list[tuple[object, ...]] = []
    measure(tiny, between=0, batch_size=3, repeats=5, progress=lambda *each: told.append(each))
    assert told == [("runs timed", done, 4 * 6) for done in range(4 * 6 + 1)]
    assert all(images.shape == (3, 1, 16, 16) for images, _ in calls)
    warm = [submodel for submodel in submodels for _ in range(latency.WARM_UPS)]
    assert [submodel for _, submodel in calls] == warm + 5 * submodels


def test_submodels_off_the_curve_are_measured_with_images_of_their_size(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]]
) -> None:
    small, merging = tiny.submodel("M@8px"), tiny.submodel("XL~4*2+0*2")
    assert lookup(tiny, HERE, also=[small]) is None
    times = measure(tiny, also=[small, merging])
    medium = Submodel(small.widths)  # The fixture sees widths alone.
    assert {images.shape[-1] for images, submodel in calls if submodel == medium} == {8, 16}
    assert {images.shape[-1] for images, submodel in calls if submodel != medium} == {16}
    for submodel in (small, merging):
        assert times.point(submodel).measured
        assert submodel not in [point.submodel for point in times.points]
    calls.clear()
    assert measure(tiny, also=[merging]) == times == lookup(tiny, HERE, also=[small])
    assert calls == []
    third = tiny.submodel("L@8px")
    both = measure(tiny, also=[third])
    assert both.point(third).measured
    again = lookup(tiny, HERE, also=[small, merging, third])
    assert again is not None
    assert again(small) == times(small)


def test_fast_models_are_called_more_often(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency, "SETTLE_SECONDS", 0.1)
    measure(tiny, between=0, repeats=2)
    assert len(calls) > 4 * (latency.WARM_UPS + 2)


def test_weights_in_bf16_get_images_in_bf16(make_tiny: Callable[..., MatViT]) -> None:
    times = measure(make_tiny().to(torch.bfloat16), dtype=torch.bfloat16)
    assert times.setting.dtype == "bfloat16"


def test_what_was_measured_is_not_run_again(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]], cache: Path
) -> None:
    assert lookup(tiny, HERE) is None
    first = measure(tiny)
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["key"]["structure"] == structure(tiny)
    calls.clear()
    assert measure(tiny) == first == lookup(tiny, HERE)
    assert measure(tiny, progress=pytest.fail) == first
    assert calls == []
    again = measure(tiny, refresh=True)
    assert calls
    assert measure(tiny) == again


def test_a_profile_of_every_point_answers_for_fewer_but_not_the_other_way(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]]
) -> None:
    measure(tiny, between=1)
    assert lookup(tiny, HERE, between=None) is None
    every = measure(tiny, between=None)
    calls.clear()
    assert measure(tiny, between=1) == every == measure(tiny, between=99)
    assert calls == []


def damaged(text: str) -> dict[str, Callable[[str], str]]:
    kept = json.loads(text)
    points = kept["points"]
    return {
        "empty": "",
        "cut short": text[: len(text) // 2],
        "no object": "[]",
        "nothing": "null",
        "no points": json.dumps({"key": kept["key"]}),
        "too few points": json.dumps({**kept, "points": points[1:]}),
        "no numbers": json.dumps({**kept, "points": [{**p, "ms": "fast"} for p in points]}),
        "impossible numbers": json.dumps({**kept, "points": [{**p, "ms": -1} for p in points]}),
        "not even numbers": json.dumps({**kept, "points": [{**p, "ms": math.nan} for p in points]}),
        "no time": json.dumps({**kept, "points": [{**p, "at": "today"} for p in points]}),
        "from the future": json.dumps({**kept, "points": [{**p, "at": 1e12} for p in points]}),
        "impossible spread": json.dumps({**kept, "points": [{**p, "iqr_ms": -1} for p in points]}),
        "no widths": json.dumps({**kept, "points": [{**p, "widths": 3} for p in points]}),
        "wrong widths": json.dumps({**kept, "points": [{**p, "widths": ["x"]} for p in points]}),
        "another's": json.dumps({**kept, "key": {**kept["key"], "setting": {}}}),
    }


def test_a_damaged_file_is_measured_again(tiny: MatViT, cache: Path) -> None:
    measure(tiny)
    (file,) = cache.iterdir()
    good = file.read_text()
    for name, text in damaged(good).items():
        file.write_text(text)
        assert lookup(tiny, HERE) is None, name
        again = measure(tiny)
        assert lookup(tiny, HERE) == again, name
    file.write_bytes(b"\xff\xfe")
    assert lookup(tiny, HERE) is None


def aged(cache: Path, days: float) -> None:
    """Makes what is kept so much older."""
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text())
    file.write_text(
        json.dumps({**kept, "points": [{**p, "at": p["at"] - 86400 * days} for p in kept["points"]]})
    )


def test_times_are_good_for_a_month(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    measure(tiny)
    calls.clear()
    aged(cache, latency.KEPT_DAYS - 0.1)
    measure(tiny)
    assert calls == []
    assert "count no more" not in caplog.text
    aged(cache, 0.2)
    again = measure(tiny)
    assert calls
    assert "times from more than 30 days ago, or of an earlier version, count no more" in caplog.messages
    assert lookup(tiny, HERE) == again


def test_old_times_of_other_submodels_are_no_reason_to_measure_again_and_are_not_kept(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]], cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = tiny.submodel("M@8px")
    measure(tiny, also=[small])
    aged(cache, latency.KEPT_DAYS + 1)
    measure(tiny)
    calls.clear()
    caplog.clear()
    caplog.set_level("INFO")
    measure(tiny)
    assert calls == []
    assert "count no more" not in caplog.text
    (file,) = cache.iterdir()
    assert len(json.loads(file.read_text())["points"]) == len(measured_submodels(tiny.space, 2))


def test_times_of_an_earlier_version_are_measured_anew_and_that_is_told(
    tiny: MatViT, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    measure(tiny)
    (file,) = cache.iterdir()
    kept = json.loads(file.read_text())
    medians = [{"widths": p["widths"], "merges": p["merges"], "ms": p["ms"]} for p in kept["points"]]
    file.write_text(json.dumps({**kept, "points": medians}))
    caplog.set_level("INFO")
    again = measure(tiny)
    assert caplog.messages == ["times from more than 30 days ago, or of an earlier version, count no more"]
    assert lookup(tiny, HERE) == again


def test_times_of_a_busy_machine_are_used_with_a_warning_until_it_is_free(
    tiny: MatViT,
    calls: list[tuple[torch.Tensor, Submodel]],
    machine: Machine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    machine.other_work = 0.62
    first = measure(tiny)
    warning = (
        "these times are not to be relied on: other work took up to 62% of the processor meanwhile; "
        "they are measured again once the machine is free"
    )
    assert caplog.messages == [warning]
    calls.clear()
    assert measure(tiny) == first
    assert calls == []
    assert caplog.messages[-1] == warning
    machine.other_work = 0.05
    caplog.clear()
    again = measure(tiny)
    assert calls
    assert caplog.messages == [
        "measured before, while other work kept the machine busy; it is free now: measuring again"
    ]
    calls.clear()
    assert measure(tiny) == again
    assert calls == []


def test_times_of_other_submodels_on_a_busy_machine_are_reason_to_measure_again_once(
    tiny: MatViT, calls: list[tuple[torch.Tensor, Submodel]], machine: Machine
) -> None:
    small = tiny.submodel("M@8px")
    machine.other_work = 0.5
    measure(tiny)
    measure(tiny, also=[small])
    assert lookup(tiny, HERE, also=[small])
    machine.other_work = 0
    measure(tiny)
    assert lookup(tiny, HERE, also=[small]) is None
    calls.clear()
    measure(tiny)
    assert calls == []


def test_times_that_vary_are_warned_of(
    tiny: MatViT, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("matvit.submodels.profile.NOISY", 0.15)

    def vary(*arguments: object) -> dict[Submodel, Timing]:
        return {
            submodel: Timing(10, 1 if submodel == tiny.space.full else 2, 0, time.time())
            for submodel in measured_submodels(tiny.space, 0)
        }

    monkeypatch.setattr(latency, "_timings", vary)
    measure(tiny, between=0)
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        (
            "WARNING",
            "these times are not to be relied on: 3 of 4 spread by more than 15% of the median; "
            "they are measured again by `matvit plan -m MODEL --measure --refresh`",
        )
    ]


def test_times_belong_to_a_setting(tiny: MatViT) -> None:
    measure(tiny)
    assert lookup(tiny, setting_here(CPU, torch.bfloat16)) is None
    assert lookup(tiny, setting_here(CPU, torch.float32, 2)) is None
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert setting_here(CPU, torch.float32).threads == threads + 1
        assert lookup(tiny, setting_here(CPU, torch.float32)) is None
    finally:
        torch.set_num_threads(threads)
    assert lookup(tiny, HERE)


@pytest.mark.parametrize(
    "change",
    [
        {"num_heads": 4},
        {"depth": 3},
        {"img_size": 32},
        {"in_chans": 3},
        {"num_classes": 0},
        {"embed_dim": 64},
        {"qk_norm": True},
        {"global_pool": "avg"},
        {"init_values": 1e-5},
        {"act_layer": "relu"},
        {"mlp_ratio": 2},
    ],
    ids=str,
)
def test_times_belong_to_a_structure(make_tiny: Callable[..., MatViT], tiny: MatViT, change: dict) -> None:
    assert structure(make_tiny(**change)) != structure(tiny)


def test_times_do_not_depend_on_weights(make_tiny: Callable[..., MatViT], tiny: MatViT) -> None:
    measure(tiny)
    other = make_tiny()
    torch.nn.init.zeros_(other.pos_embed)
    assert lookup(other, HERE)
    assert lookup(other.to("meta"), HERE), "and need none at all to be looked up"


def test_a_cache_that_cannot_be_written_costs_only_the_next_measurement(
    tiny: MatViT, cache: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache.parent.write_text("a file where the directory should be")
    times = measure(tiny)
    assert times.points[0].ms > 0
    (told,) = caplog.records
    assert told.levelname == "WARNING"
    assert told.getMessage().startswith("this latency profile could not be kept: ")


def test_what_a_killed_process_of_an_earlier_version_left_is_removed(tiny: MatViT, cache: Path) -> None:
    cache.mkdir(parents=True)
    for name in ("tmpa1_b2c3d.tmp", "mine.tmp"):
        (cache / name).touch()
    measure(tiny)
    assert sorted(file.suffix for file in cache.iterdir()) == [".json", ".tmp"]
    assert (cache / "mine.tmp").exists()


def test_a_write_that_fails_leaves_what_was_there(
    tiny: MatViT, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = measure(tiny)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    measure(tiny, refresh=True)
    assert "No space left" in caplog.text
    assert len(list(cache.iterdir())) == 1
    assert lookup(tiny, HERE) == before


def test_a_model_without_weights_gets_some_that_are_ordinary_numbers() -> None:
    with torch.device("meta"):
        model = timm.create_model("matvit_tiny_patch16_224", depth=2, num_classes=0).eval()
        model.register_buffer("places", torch.arange(3))
    assert runnable(model, device=CPU, dtype=torch.bfloat16) is model
    assert model.places.tolist() == [0, 0, 0]
    for parameter in model.parameters():
        assert parameter.dtype == torch.bfloat16
        assert 0.01 < parameter.float().std() < 0.03
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 224, 224, dtype=torch.bfloat16)).isfinite().all()


def test_a_model_whose_times_are_known_gets_no_weights() -> None:
    def without_weights() -> MatViT:
        with torch.device("meta"):
            return timm.create_model("matvit_tiny_patch16_224", depth=2, num_classes=0).eval()

    first, again = measure(without_weights(), between=0), without_weights()
    assert measure(again, between=0) == first
    assert all(parameter.is_meta for parameter in again.parameters())


def test_weights_that_are_there_stay(make_tiny: Callable[..., MatViT], tiny: MatViT) -> None:
    model = runnable(make_tiny(), device=CPU, dtype=torch.float32)
    weights = tiny.state_dict()
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_the_setting_here_names_the_processor_and_its_threads() -> None:
    assert HERE.device
    assert HERE.threads == torch.get_num_threads()


@pytest.mark.gpu
def test_a_gpu_is_named_and_waited_for(make_tiny: Callable[..., MatViT]) -> None:
    device = torch.device("cuda")
    times = measure(make_tiny().to(device), device=device)
    assert times.setting.device == torch.cuda.get_device_name(device)
    assert times.setting.threads is None
    assert all(isinstance(point, Point) and point.ms > 0 for point in times.points)
