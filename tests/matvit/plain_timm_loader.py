"""Load an extracted submodel, uniform or mixed, with timm alone."""

import json
from pathlib import Path

import timm
from safetensors.torch import load_file
from torch import nn


def load_plain(directory: Path) -> nn.Module:
    config = json.loads((directory / "config.json").read_text())
    args = {"num_classes": config["num_classes"], **config.get("model_args", {})}
    model = timm.create_model(config["architecture"], **args)
    weights = load_file(directory / "model.safetensors")
    for name, layer in list(model.named_modules()):
        if isinstance(layer, nn.Linear):
            rows, columns = weights[f"{name}.weight"].shape
            model.set_submodule(name, nn.Linear(columns, rows, bias=layer.bias is not None))
    model.load_state_dict(weights)
    return model.eval()
