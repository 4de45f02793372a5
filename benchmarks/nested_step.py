"""One step of the joint nested loss: slices against masks, on the same weights in the same run.

    python benchmarks/nested_step.py

Masking is how the published MatViT trainer does it: every granularity runs the whole FFN and zeroes the
hidden units that it drops. Prints the median seconds of a forward and backward pass of each, and the ratio.
"""

import argparse
import platform
import statistics
import time

import timm
import torch
from timm.loss import LabelSmoothingCrossEntropy
from torch import Tensor

import matvit
from matvit.nested import NestedMlp
from matvit.objectives import JointTask


class MaskedMlp(NestedMlp):
    """The FFN at full cost, with the hidden units past the width set to zero."""

    def forward(self, x: Tensor, width: int | None = None) -> Tensor:
        hidden = self.drop1(self.act(self.fc1(x)))
        if width is not None:
            mask = torch.arange(hidden.shape[-1], device=hidden.device) < width
            hidden = hidden * mask
        return self.drop2(self.fc2(hidden))


def step(task: JointTask, images: Tensor, target: Tensor) -> float:
    started = time.perf_counter()
    task.zero_grad()
    task(images, target)["loss"].backward()
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
    task = JointTask(model, LabelSmoothingCrossEntropy(0.1), granularities=tuple(matvit.GRANULARITIES))
    images = torch.randn(options.batch_size, 3, 224, 224, device=options.device)
    target = torch.randint(1000, (options.batch_size,), device=options.device)

    seconds: dict[type, list[float]] = {NestedMlp: [], MaskedMlp: []}
    for repeat in range(options.repeats + 1):
        for kind, times in seconds.items():  # Alternating, so that neither has the quieter machine.
            for block in model.blocks:
                block.mlp.__class__ = kind
            taken = step(task, images, target)
            if repeat:  # The first round warms up.
                times.append(taken)

    sliced, masked = (statistics.median(times) for times in seconds.values())
    space = model.space
    theory = sum(model.cost(s).macs for s in space.uniforms()) / (
        len(space.granularities) * model.cost(space.full).macs
    )
    print(
        f"{options.model}, 224 px, batch {options.batch_size}, {options.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads, {platform.machine()}, {options.repeats} repeats"
    )
    print(f"masks  {masked:.3f} s (median; {min(seconds[MaskedMlp]):.3f} to {max(seconds[MaskedMlp]):.3f})")
    print(f"slices {sliced:.3f} s (median; {min(seconds[NestedMlp]):.3f} to {max(seconds[NestedMlp]):.3f})")
    print(f"ratio  {sliced / masked:.3f} (bar 0.72; by MACs alone {theory:.3f})")


if __name__ == "__main__":
    main()
