"""Another runtime: eager's values, and not a word from its converters."""

from collections.abc import Callable

import pytest
import torch

from matvit import Submodel
from matvit.engines.compare import BASELINE, Way, compare
from matvit.engines.onnx_runtime import OnnxRuntime

CPU = torch.device("cpu")


@pytest.mark.skipif(bool(OnnxRuntime().missing), reason=OnnxRuntime().missing)
def test_it_agrees_with_eager(make_tiny: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = make_tiny(depth=2, num_classes=0)
    [dtype] = OnnxRuntime().formats(CPU)
    ways = (BASELINE, Way(OnnxRuntime(), dtype))
    _, result = compare(encoder, ways=ways, submodels=[Submodel((16, 64))], repeats=1)
    assert result.note == ""
    assert result.cosine_worst > 0.999
    assert tuple(capfd.readouterr()) == ("", "")
