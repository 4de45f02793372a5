"""Compiled submodels: eager's values from code that is really compiled, few at a time, from any thread."""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from compiler import needs_compiler
from torch import Tensor
from torch._inductor.codecache import PyCodeCache

from matvit import Submodel
from matvit.engines.compiled import Compiled, CompiledSubmodels, _size_text
from matvit.errors import CompileError, SubmodelError
from matvit.vision.embedding import embed_only


@pytest.fixture
def shallow(make_tiny: Callable) -> Any:
    """As little to compile as a model can have."""
    return make_tiny(depth=1)


def operations(run: Callable[[], object]) -> set[str]:
    """Names of torch's operations that a call runs."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run()
    return {event.key for event in profile.key_averages()}


def parameters_alive() -> int:
    gc.collect()
    return sum(type(thing) is torch.nn.Parameter for thing in gc.get_objects())


@needs_compiler
@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)], ids=str)
def test_values_are_eagers(make_tiny: Callable, images: Tensor, dtype: torch.dtype, tolerance: float) -> None:
    model = make_tiny(depth=2).to(dtype)
    compiled = CompiledSubmodels(model)
    for submodel in (None, model.space.smallest, Submodel((24, 100))):
        found = compiled(images, submodel)
        with torch.no_grad():
            wanted = model(images.to(dtype), submodel)
        assert found.dtype == dtype
        scale = wanted.abs().max()
        torch.testing.assert_close(found / scale, wanted / scale, rtol=0, atol=tolerance)
    assert compiled.submodels == (model.space.full, model.space.smallest, Submodel((24, 100)))


@needs_compiler
def test_sizes_and_merges_compile(make_tiny: Callable, images: Tensor) -> None:
    model = make_tiny(depth=2, num_classes=0)
    embed_only(model)
    compiled = CompiledSubmodels(model)
    for budget, side in (("M@8px", 8), ("L~4", 16), ("XL~2@12px", 12)):
        submodel, x = model.submodel(budget), images[..., :side, :side].contiguous()
        with torch.no_grad():
            torch.testing.assert_close(compiled(x, submodel), model(x, submodel), rtol=1e-4, atol=1e-5)


@needs_compiler
def test_each_of_ten_widths_is_compiled_and_few_are_kept(
    shallow: Any, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    compiled = CompiledSubmodels(shallow, limit=2)
    submodels = [Submodel((width,)) for width in range(8, 88, 8)]
    for number, submodel in enumerate(submodels, 1):
        found = compiled(images, submodel)
        with torch.no_grad():
            torch.testing.assert_close(found, shallow(images, submodel), rtol=1e-4, atol=1e-4)
        assert compiled.submodels == tuple(submodels[max(0, number - 2) : number])
        ran = operations(lambda submodel=submodel: compiled(images, submodel))
        # Eager code calls these; a frozen graph has packed products and layer norms fused by the compiler.
        assert not ran & {"aten::linear", "aten::layer_norm", "aten::native_layer_norm", "aten::gelu"}
        assert ran & {"mkl::_mkl_linear", "mkldnn::_linear_pointwise", "aten::addmm"}
    said = [line.partition(" in ")[0] for line in caplog.messages if line.startswith("compiled ")]
    assert said == [f"compiled {submodel}" for submodel in submodels]


@needs_compiler
def test_the_least_recently_used_makes_room_and_its_memory_is_freed(shallow: Any, images: Tensor) -> None:
    compiled = CompiledSubmodels(shallow, limit=2)
    small, middle, large = (Submodel((width,)) for width in (8, 16, 128))
    modules = list(PyCodeCache.modules)
    compiled(images, small)
    one = compiled.memory_bytes
    assert one > 0
    compiled(images, middle)
    assert compiled.memory_bytes > one
    dropped = weakref.ref(compiled._graphs[middle, images.shape])
    held = parameters_alive()
    compiled(images, small)
    compiled(images, large)
    assert compiled.submodels == (small, large)
    assert dropped() is None
    assert parameters_alive() == held
    assert [*map(id, PyCodeCache.modules)] == [*map(id, modules)]


@needs_compiler
def test_bf16_graphs_hold_the_weights_once(make_tiny: Callable) -> None:
    model = make_tiny(depth=1, embed_dim=256, num_heads=4, num_classes=0).bfloat16()
    compiled = CompiledSubmodels(model)
    compiled(torch.randn(2, 1, 16, 16))
    weights = sum(parameter.nbytes for parameter in model.parameters())
    assert weights <= compiled.memory_bytes < 1.3 * weights


@needs_compiler
def test_a_batch_size_is_a_graph(shallow: Any, images: Tensor) -> None:
    compiled = CompiledSubmodels(shallow, limit=2)
    for batch in (images[:1], images[:2], images[1:3], images[2:]):
        with torch.no_grad():
            torch.testing.assert_close(compiled(batch), shallow(batch), rtol=1e-4, atol=1e-4)
    assert compiled.submodels == (shallow.space.full,)
    assert len(compiled._graphs) == 2


@needs_compiler
def test_two_models_of_one_shape_keep_their_weights_apart(
    shallow: Any, make_tiny: Callable, images: Tensor
) -> None:
    other = make_tiny(depth=1)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
        for model in (shallow, other):
            torch.testing.assert_close(CompiledSubmodels(model)(images), model(images), rtol=1e-4, atol=1e-4)


@needs_compiler
def test_threads_compile_a_submodel_once(
    shallow: Any, images: Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    compiled = CompiledSubmodels(shallow)
    submodels = [Submodel((width,)) for width in (8, 16)] * 4
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda submodel: compiled(images, submodel), submodels))
    with torch.no_grad():
        for answer, submodel in zip(answers, submodels, strict=True):
            torch.testing.assert_close(answer, shallow(images, submodel), rtol=1e-4, atol=1e-4)
    said = [line.partition(" in ")[0] for line in caplog.messages if line.startswith("compiled ")]
    assert sorted(said) == ["compiled 16*1", "compiled 8*1"]


WITHOUT_COMPILER = """
import timm, torch, matvit
from matvit.engines.compiled import CompiledSubmodels
model = timm.create_model("matvit_tiny_patch16_224", img_size=32, depth=1).eval()
try:
    CompiledSubmodels(model)(torch.zeros(1, 3, 32, 32))
except matvit.errors.CompileError as error:
    print(error)
"""


def test_without_a_compiler_one_line_says_what_to_install(tmp_path: Path) -> None:
    # In a process of its own, because torch looks for compilers once, with nothing compiled before.
    nothing = {"PATH": str(tmp_path), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMPILER], env=nothing, capture_output=True, text=True, check=True
    )
    assert done.stdout == "compiling needs a C++ compiler, and none is here: install g++\n"
    assert done.stderr == ""


def test_what_cannot_be_exported_is_named(
    shallow: Any, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stubborn(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own = torch.nn.Parameter(torch.zeros(1))

        def forward(self, images: Tensor) -> Tensor:
            return images if images.sum() > 0 else -images

    monkeypatch.setattr(shallow, "cut", lambda submodel, *, copy: Stubborn())
    with pytest.raises(CompileError, match=r"^XL cannot be compiled: [^\n]+$"):
        CompiledSubmodels(shallow)(images)


def test_mistakes(shallow: Any, images: Tensor) -> None:
    with pytest.raises(SubmodelError, match="keeps 999 units"):
        CompiledSubmodels(shallow)(images, Submodel((999,)))
    with pytest.raises(ValueError, match="limit must be at least 1"):
        CompiledSubmodels(shallow, limit=0)


def test_the_engine_keeps_few_graphs_of_one_encoder(shallow: Any) -> None:
    runner = Compiled().runner(shallow)
    assert isinstance(runner, CompiledSubmodels)
    assert (runner.submodels, runner.memory_bytes) == ((), 0)


@pytest.mark.parametrize(
    "size_bytes, text",
    [(0, "0 B"), (999, "999 B"), (65_312, "65.31 kB"), (86_567_656, "86.57 MB"), (1_217_000_000, "1.217 GB")],
)
def test_sizes_are_told_in_their_unit(size_bytes: int, text: str) -> None:
    assert _size_text(size_bytes) == text
