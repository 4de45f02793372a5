"""Submodels run by OpenVINO, on a CPU."""

import torch
from torch import Tensor

from matvit.engines.engine import Engine, Run
from matvit.runtime.device import pick_dtype
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel


class OpenVino(Engine):
    """OpenVINO, which casts float32 weights to the processor's own number format by itself."""

    name = "openvino"
    title = "OpenVINO"
    needs = ("openvino",)
    extra = "bench"
    weights = torch.float32

    def formats(self, device: torch.device) -> tuple[torch.dtype, ...]:
        """See `Engine.formats`."""
        return (pick_dtype("auto", device),) if device.type == "cpu" else ()

    def build(self, encoder: ElasticEncoder, submodel: Submodel, images: Tensor) -> Run:
        """See `Engine.build`."""
        import openvino

        program = torch.export.export(encoder.cut(submodel, copy=True), (images,))
        network = openvino.convert_model(program)
        network.reshape(tuple(images.shape))
        native = pick_dtype("auto", images.device) == torch.bfloat16
        settings = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "bf16" if native else "f32",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        compiled = openvino.Core().compile_model(network, "CPU", settings)
        return lambda images: torch.from_numpy(compiled([images.numpy()])[0])
