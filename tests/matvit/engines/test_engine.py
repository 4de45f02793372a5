"""What every engine does alike."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_engine import Toy, without_runtimes

from matvit.engines.all_engines import ENGINES
from matvit.engines.engine import Engine, QueryEngine

CPU, CUDA, MPS = map(torch.device, ("cpu", "cuda", "mps"))


def test_number_formats_are_those_of_the_device() -> None:
    fp32, bf16 = torch.float32, torch.bfloat16
    formats = {engine.name: [engine.formats(device) for device in (CPU, CUDA, MPS)] for engine in ENGINES}
    assert formats["timm"] == [(fp32,)] * 3
    assert formats["eager"] == [(fp32, bf16)] * 3
    assert formats["compiled"] == [(bf16, fp32), (bf16, fp32), ()]
    assert formats["openvino"][0] in ((fp32,), (bf16,))
    assert formats["openvino"][1:] == [(), ()]
    assert formats["onnxruntime"] == [(fp32,), (), ()]


def test_what_is_missing_names_the_extra_or_the_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Toy("torch").missing == Toy().missing == ""
    assert Toy("torch", "no_such_module").missing == "not installed: pip install torch no_such_module"
    without_runtimes(monkeypatch)
    assert {engine.name: engine.missing for engine in ENGINES if engine.missing} == dict.fromkeys(
        ("openvino", "onnxruntime"), "not installed: in the clone of matvit, pip install -e '.[bench]'"
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_built_submodel_takes_float32_images(
    make_tiny: Callable, images: Tensor, dtype: torch.dtype
) -> None:
    encoder, toy = make_tiny(depth=2).to(dtype), Toy()
    small = encoder.space.smallest
    run = toy.build(encoder, small, images)
    assert toy.ran == []
    with torch.no_grad():
        torch.testing.assert_close(run(images), encoder(images.to(dtype), small))
    assert toy.ran == [(small, dtype)]


@pytest.mark.parametrize("kind", [Engine, QueryEngine])
def test_an_engine_that_cannot_build_is_none(kind: type) -> None:
    with pytest.raises(TypeError, match="abstract"):
        type("Idle", (kind,), {"name": "idle", "title": "idle"})()
