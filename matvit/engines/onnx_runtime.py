"""Submodels run by ONNX Runtime, on a CPU."""

import tempfile
from pathlib import Path

import torch
from torch import Tensor

from matvit.engines.engine import Engine, Run
from matvit.submodels.protocol import ElasticEncoder
from matvit.submodels.submodel import Submodel


class OnnxRuntime(Engine):
    """ONNX Runtime, in float32."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    needs = ("onnx", "onnxscript", "onnxruntime")
    extra = "bench"

    def formats(self, device: torch.device) -> tuple[torch.dtype, ...]:
        """See `Engine.formats`."""
        return (torch.float32,) if device.type == "cpu" else ()

    def build(self, encoder: ElasticEncoder, submodel: Submodel, images: Tensor) -> Run:
        """See `Engine.build`."""
        import onnxruntime

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "model.onnx"
            torch.onnx.export(encoder.cut(submodel, copy=True), (images,), file, dynamo=True, verbose=False)
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = torch.get_num_threads()
            session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        return lambda images: torch.from_numpy(session.run(None, {name: images.numpy()})[0])
