"""Ways of running a model, side by side: what is compared with what, and who is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from toy_engine import without_runtimes

import matvit
from matvit import Submodel
from matvit.engines import compare as bench
from matvit.engines.compare import BASELINE, Result, Way, compare, open_model, ways_on
from matvit.engines.engine import Engine, Run
from matvit.errors import EngineError
from matvit.progress import Count, silent
from matvit.submodels.profile import Timing

CPU = torch.device("cpu")


@pytest.fixture
def encoder(make_tiny: Callable) -> Any:
    return make_tiny(depth=2, num_classes=0)


@pytest.mark.parametrize(
    "tag, width",
    [("openai", 512), ("openai_ft_in1k", 64)],
)
def test_only_a_classifier_is_left_out(tmp_path: Path, tag: str, width: int) -> None:
    plain = timm.create_model(
        f"vit_base_patch32_clip_224.{tag}", embed_dim=64, depth=1, num_heads=2, img_size=32
    )
    matvit.save(matvit.elastic(plain), tmp_path / "tower")
    model, untrained = open_model(str(tmp_path / "tower"))
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, width)
    assert not untrained


class Scaled(Engine):
    """One that is right but for the length of its embeddings, or wrong if that is negative."""

    def __init__(self, title: str, factor: float) -> None:
        self.name = self.title = title
        self.factor = factor

    def build(self, encoder: Any, submodel: Submodel, images: Tensor) -> Run:
        return lambda images: self.factor * encoder(images, submodel)


class Broken(Engine):
    """One that refuses."""

    name = title = "broken"

    def build(self, encoder: Any, submodel: Submodel, images: Tensor) -> Run:
        raise RuntimeError("no such operator\nand a long story")


def test_every_way_is_compared_with_timm_at_every_submodel(encoder: Any) -> None:
    submodels = (encoder.space.smallest, Submodel((16, 64)))
    ways = (
        *ways_on(CPU, ["eager"]),
        Way(Scaled("half", 0.5), torch.float32),
        Way(Scaled("wrong", -1), torch.float32),
    )
    steps: list[tuple[str, int, int | None]] = []
    results = compare(
        encoder,
        ways=ways,
        submodels=submodels,
        batch_sizes=(1, 3),
        repeats=2,
        progress=lambda *step: steps.append(step),
    )
    total = 2 * 2 * (5 + 2)
    assert steps == [("steps timed", done, total) for done in range(total + 1)]
    assert [(result.batch_size, result.engine, result.submodel) for result in results] == [
        row
        for size in (1, 3)
        for row in (
            (size, "timm eager fp32", encoder.space.full),
            *((size, way.name, submodel) for submodel in submodels for way in ways[1:]),
        )
    ]
    for result in results:
        assert result.timing.ms > 0
        assert result.speedup > 0
        assert result.images_per_second == pytest.approx(1000 * result.batch_size / result.timing.ms)
        assert (result.share_of_peak, result.note) == (None, "")
    cosines = {result.engine: (result.cosine_mean, result.cosine_worst) for result in results[1:]}
    assert cosines["matvit eager fp32"] == pytest.approx((1, 1), abs=1e-6)
    assert cosines["half fp32"] == pytest.approx((1, 1), abs=1e-6)
    assert cosines["wrong fp32"] == pytest.approx((-1, -1), abs=1e-6)
    assert 0.99 < cosines["matvit eager bf16"][1] <= cosines["matvit eager bf16"][0] < 1
    assert (results[0].cosine_mean, results[0].cosine_worst) == (None, None)


def test_submodels_get_images_of_their_size_and_timm_those_of_the_full_encoder(encoder: Any) -> None:
    submodels = encoder.submodel("M@8px"), encoder.submodel("XL~4"), encoder.submodel("M")
    ways = *ways_on(CPU, ["eager"]), Way(Scaled("half", 0.5), torch.float32)
    results = compare(encoder, ways=ways, submodels=submodels, repeats=1)
    assert all(result.timing.ms and not result.note for result in results)
    assert min(result.cosine_worst or 0 for result in results[1:]) > 0.99


def test_ratios_are_of_the_same_rounds(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    slower = iter((1, 2, 3))

    def rounds(runs: dict[str, Run], *_: object) -> dict[str, Timing]:
        factor = next(slower)  # As if the machine got slower and slower.
        return {name: Timing(factor * ms, 0, 0, 0) for name, ms in zip(runs, (100, 50), strict=True)}

    monkeypatch.setattr(bench, "_rounds", rounds)
    timm, *ours = compare(encoder, ways=ways_on(CPU)[:2], submodels=encoder.space.uniforms()[:3])
    assert (timm.timing.ms, timm.speedup) == (200, 1)
    assert [(result.timing.ms, result.speedup) for result in ours] == [(50, 2), (100, 2), (150, 2)]


def test_rounds_take_turns_and_the_median() -> None:
    order: list[str] = []
    runs = {name: lambda name=name: order.append(name) for name in "ab"}
    times = bench._rounds(runs, CPU, 3, Count(silent, ""))
    assert order == ["a", "a", "b", "b"] * 3
    assert times.keys() == {"a", "b"}


def test_what_is_not_installed_or_fails_is_told(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    without_runtimes(monkeypatch)
    eager, _ = ways_on(CPU, ["eager"])[1:]
    others = ways_on(CPU, ["openvino", "onnxruntime"])[1:]
    assert [way.name.split(" ")[0] for way in others] == ["OpenVINO", "ONNX"]
    ways = (BASELINE, eager, *others, Way(Broken(), torch.float32))
    _, fine, *missing, broken = compare(encoder, ways=ways, submodels=[encoder.space.full], repeats=1)
    assert fine.timing.ms > 0
    for way, result in zip(others, missing, strict=True):
        note = "not installed: in the clone of matvit, pip install -e '.[bench]'"
        assert result == Result(way.name, encoder.space.full, 1, note=note)
    assert broken == Result("broken fp32", encoder.space.full, 1, note="failed: no such operator")


def test_rows_are_engines_in_their_number_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matvit.engines.openvino_runtime.pick_dtype", lambda *_: torch.bfloat16)
    ours = ["timm eager fp32", "matvit eager fp32", "matvit eager bf16"]
    compiled = ["matvit compiled bf16", "matvit compiled fp32"]
    others = ["OpenVINO bf16", "ONNX Runtime fp32"]
    assert [way.name for way in ways_on(CPU)] == [*ours, *compiled, *others]
    assert [way.name for way in ways_on(torch.device("cuda"))] == [*ours, *compiled]
    assert [way.name for way in ways_on(torch.device("mps"))] == ours


def test_only_the_engines_that_are_named_stand_beside_timm() -> None:
    assert ways_on(CPU, []) == ways_on(CPU, ["timm", "timm"]) == (BASELINE,)
    names = [way.name for way in ways_on(CPU, ["compiled", "eager", "compiled"])]
    assert names == [BASELINE.name] + [
        f"matvit {way}" for way in ("compiled bf16", "compiled fp32", "eager fp32", "eager bf16")
    ]
    with pytest.raises(EngineError, match=r"^'abacus' is no engine: write timm, eager, "):
        ways_on(CPU, ["eager", "abacus"])
    with pytest.raises(EngineError, match=r"^engine openvino does not run on cuda$"):
        ways_on(torch.device("cuda"), ["eager", "openvino"])


def test_engines_get_weights_in_the_number_format_that_they_want(encoder: Any) -> None:
    given: list[tuple[str, torch.dtype]] = []

    class Casting(Scaled):
        def build(self, encoder: Any, submodel: Submodel, images: Tensor) -> Run:
            dtype = next(encoder.parameters()).dtype
            given.append((self.name, dtype))
            return lambda images: encoder(images.to(dtype), submodel)

    itself = Casting("itself", 1)
    itself.weights = torch.float32
    ways = (BASELINE, Way(itself, torch.bfloat16), Way(Casting("given", 1), torch.bfloat16))
    _, one, other = compare(encoder, ways=ways, submodels=[encoder.space.full], repeats=1)
    assert (one.engine, other.engine) == ("itself bf16", "given bf16")
    assert given == [("itself", torch.float32), ("given", torch.bfloat16)]
    assert next(encoder.parameters()).dtype == torch.float32


def test_the_compiled_way_is_compiled(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[torch.dtype, Submodel]] = []

    class Recorder:
        def __init__(self, model: Any) -> None:
            self.model = model

        def __call__(self, images: Tensor, submodel: Submodel) -> Tensor:
            dtype = next(self.model.parameters()).dtype
            asked.append((dtype, submodel))
            return self.model(images.to(dtype), submodel)

    monkeypatch.setattr("matvit.engines.compiled.CompiledSubmodels", Recorder)
    results = compare(encoder, ways=ways_on(CPU, ["compiled"]), submodels=[encoder.space.smallest], repeats=1)
    assert set(asked) == {(dtype, encoder.space.smallest) for dtype in (torch.float32, torch.bfloat16)}
    assert all(result.cosine_worst > 0.99 for result in results[1:])


def test_a_bare_name_gets_random_weights_that_are_the_same_every_time(checkpoint: Path) -> None:
    before = torch.get_rng_state()
    first, untrained = open_model("matvit_tiny_patch16_224")
    again, _ = open_model("matvit_tiny_patch16_224")
    assert untrained
    assert torch.equal(first.blocks[0].mlp.fc1.weight, again.blocks[0].mlp.fc1.weight)
    assert torch.equal(torch.get_rng_state(), before)
    trained, untrained = open_model(str(checkpoint))
    assert not untrained
    assert trained.num_classes == first.num_classes == 0


@pytest.mark.gpu
def test_a_gpu_is_compared_with_its_own_matrix_product(encoder: Any) -> None:
    device = torch.device("cuda")
    ways = ways_on(device, ["eager"])
    for result in compare(encoder.to(device), ways=ways, submodels=[encoder.space.full], repeats=2):
        assert 0 < result.share_of_peak < 1
