"""Another runtime: eager's values, and not a word from its converters."""

from collections.abc import Callable

import pytest
import torch

from matvit import Submodel
from matvit.engines.compare import BASELINE, Way, compare
from matvit.engines.openvino_runtime import OpenVino

CPU = torch.device("cpu")


@pytest.mark.skipif(bool(OpenVino().missing), reason=OpenVino().missing)
def test_it_agrees_with_eager(make_tiny: Callable, capfd: pytest.CaptureFixture[str]) -> None:
    encoder = make_tiny(depth=2, num_classes=0)
    [dtype] = OpenVino().formats(CPU)
    ways = (BASELINE, Way(OpenVino(), dtype))
    _, result = compare(encoder, ways=ways, submodels=[Submodel((16, 64))], repeats=1)
    assert result.note == ""
    assert result.cosine_worst > 0.999
    assert tuple(capfd.readouterr()) == ("", "")
