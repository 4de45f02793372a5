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
    for block, width in zip(model.blocks, config["matvit"]["widths"], strict=True):
        fc1, fc2 = block.mlp.fc1, block.mlp.fc2
        block.mlp.fc1 = nn.Linear(fc1.in_features, width, bias=fc1.bias is not None)
        block.mlp.fc2 = nn.Linear(width, fc2.out_features, bias=fc2.bias is not None)
    model.load_state_dict(load_file(directory / "model.safetensors"))
    return model.eval()
