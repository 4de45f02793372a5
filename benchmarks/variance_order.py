"""The baseline of `matvit elasticize`: hidden units by variance times squared norm, none of them refitted.

    python benchmarks/variance_order.py IMAGES -m MODEL -o DIR

Writes the checkpoint that `matvit elasticize IMAGES -m MODEL -o DIR` would from the same images, but
for the order of the units and with output layers that are sliced.
"""

import argparse
from pathlib import Path

import torch

import matvit
from matvit.refitting.first_pass import ready
from matvit.vision.elastic_vit import refitted
from matvit.vision.ffn import hidden_of, output_of, take_units
from matvit.vision.refits import named_ffns
from retrieval.encoding.drawn_images import DrawnImages
from retrieval.encoding.encoder import Encoder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images")
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=300)
    options = parser.parse_args()
    full = ready(matvit.load(options.model))
    encoder = Encoder(full, device=torch.device("cpu"), dtype=torch.float32)
    images = DrawnImages.read(options.images, encoder, fit=options.limit, check=200)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name, _, _ in named_ffns(full)}
    for name, ffn, _ in named_ffns(full):
        _, layer = output_of(ffn)
        hidden = hidden_of(ffn)
        layer.register_forward_pre_hook(lambda _, x, n=name, h=hidden: seen[n].append(x[0][..., -h:]))
    with torch.inference_mode():
        for batch in images.fit.batches():
            full.forward_features(batch)
    tensors = {}
    for name, ffn, widths in named_ffns(full):
        layer_name, layer = output_of(ffn)
        variance = torch.cat([x.flatten(0, -2) for x in seen[name]]).double().var(dim=0)
        units = (variance * layer.weight.detach().double().square().sum(dim=0)).argsort(descending=True)
        units = units[: widths[-1]]
        tensors |= {f"{name}.{key}": tensor for key, tensor in take_units(ffn, units).items()}
        for width in widths:
            tensors[f"{name}.{layer_name}.{width}.weight"] = layer.weight.detach()[:, units[:width]].clone()
            if layer.bias is not None:
                tensors[f"{name}.{layer_name}.{width}.bias"] = layer.bias.detach().clone()
    matvit.save(refitted(matvit.elastic(matvit.load(options.model)), tensors), options.output)


if __name__ == "__main__":
    main()
