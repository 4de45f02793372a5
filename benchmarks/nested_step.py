"""One step of the joint nested loss: slices against masks, on the same weights in the same run.

    python benchmarks/nested_step.py

Masking is how the published MatViT trainer does it: every granularity runs the whole FFN and zeroes the
hidden units that it drops. Prints the median seconds of a forward and backward pass of each, and the ratio.
"""

import argparse
import copy
import platform
import statistics
import time

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from torch import Tensor, nn

import matvit


class Masked(nn.Module):
    """An encoder that runs every submodel at full cost, with the hidden units past its widths set to zero."""

    def __init__(self, encoder: matvit.Elastic) -> None:
        super().__init__()
        self.encoder, self.widths = encoder, encoder.space.full.widths
        for layer, block in enumerate(encoder.blocks):
            block.mlp.fc2.register_forward_pre_hook(lambda _, inputs, i=layer: (self.mask(inputs[0], i),))

    def mask(self, hidden: Tensor, layer: int) -> Tensor:
        width = self.widths[layer]
        return hidden * (torch.arange(hidden.shape[-1], device=hidden.device) < width)

    def forward(self, images: Tensor, submodel: matvit.Submodel) -> Tensor:
        self.widths = submodel.widths
        return self.encoder(images)


def step(model: nn.Module, submodels: tuple[matvit.Submodel, ...], images: Tensor, target: Tensor) -> float:
    criterion = LabelSmoothingCrossEntropy(0.1)
    started = time.perf_counter()
    model.zero_grad()
    sum(criterion(model(images, submodel), target) for submodel in submodels).backward()
    if images.is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="matvit_small_patch16_224")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    torch.manual_seed(0)
    model = timm.create_model(options.model).train().to(options.device)
    ways = {"masks": Masked(copy.deepcopy(model)), "slices": model}
    images = torch.randn(options.batch_size, 3, 224, 224, device=options.device)
    target = torch.randint(1000, (options.batch_size,), device=options.device)

    space = model.space
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():  # Alternating, so that neither has the quieter machine.
            taken = step(way, space.uniforms(), images, target)
            if repeat:  # The first round warms up.
                seconds[name].append(taken)

    median = {name: statistics.median(times) for name, times in seconds.items()}
    theory = sum(model.cost(s).macs for s in space.uniforms()) / (
        len(space.granularities) * model.cost(space.full).macs
    )
    print(
        f"{options.model}, 224 px, batch {options.batch_size}, {options.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, {options.repeats} repeats"
    )
    for name, times in seconds.items():
        print(f"{name:7}{median[name]:.3f} s (median; {min(times):.3f} to {max(times):.3f})")
    ratio = median["slices"] / median["masks"]
    print(f"ratio  {ratio:.3f} (bar 0.72; by MACs alone {theory:.3f})")


if __name__ == "__main__":
    main()
