r"""One training step of each nested objective, against timm's own model and against masks, in the same run.

    python benchmarks/training_step.py
    python benchmarks/training_step.py --model matvit_base_patch16_224 --batch-size 256 \
        --device cuda --dtype bf16 --compile

A step is forward, backward and AdamW. Masking is how the published MatViT trainer does the joint loss: every
granularity runs the whole FFN and zeroes the hidden units that it drops. A sampled step is the mean over one
step of each granularity; a Mix'n'Match step, that over evenly spaced points of the curve. Both would come at
random in training, where the rare long ones blur the ratio. Prints median seconds, images a second, ratios of
time and of MACs to the plain model and, on a GPU, the share of what it reaches in a large matrix product.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

import matvit
from matvit.runtime.device import autocast, pick_device, pick_dtype
from matvit.training.objectives import NestedTask, criterion_for

BARS = {("joint", "plain"): 2.9, ("joint", "masked"): 0.70, ("sampled", "plain"): 0.72}
"""Largest ratio of time that is good enough."""


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


class Way(NamedTuple):
    """One way to train.

    Args:
        optimizer: Of the model's weights.
        losses: What its steps minimise, one after the other.
        macs: Of an image's forward passes, as a mean over the steps.
    """

    optimizer: torch.optim.Optimizer
    losses: Sequence[Callable[[], Tensor]]
    macs: float

    def seconds(self, device: torch.device, dtype: torch.dtype) -> float:
        """Take every step; the mean time of one."""
        started = time.perf_counter()
        for loss in self.losses:
            self.optimizer.zero_grad()
            with autocast(device, dtype):
                total = loss()
            total.backward()
            self.optimizer.step()
        wait(device)
        return (time.perf_counter() - started) / len(self.losses)


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """Operations a second, two a multiply-add, of a large matrix product."""
    side, seconds = 8192, []
    square = torch.randn(side, side, device=device, dtype=dtype)
    for _ in range(10):
        wait(device)
        started = time.perf_counter()
        torch.mm(square, square)
        wait(device)
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds)


def ways_to_train(model: Any, *, batch_size: int, device: torch.device, compiled: bool) -> dict[str, Way]:
    space = model.space
    uniforms, points = space.uniforms()[::-1], space.mixnmatch[:: max(1, space.depth // 3)]
    images = torch.randn(batch_size, model.in_chans, *model.patch_embed.img_size, device=device)
    target = torch.randint(model.num_classes, (batch_size,), device=device)
    criterion = criterion_for("softmax", label_smoothing=0.1, soft_targets=False)

    plain, masked = model.extract(space.full), Masked(copy.deepcopy(model))
    one_step_each = [uniforms, *((submodel,) for submodel in (*uniforms, *points))]
    task = NestedTask(model, criterion, one_step_each.__getitem__, device=device)
    run_plain, run_masked = plain, masked
    if compiled:
        run_plain, run_masked = torch.compile(plain), torch.compile(masked, dynamic=False)
        task.compile()

    def plain_loss() -> Tensor:
        return criterion(run_plain(images), target)

    def masked_loss() -> Tensor:
        return torch.stack([criterion(run_masked(images, submodel), target) for submodel in uniforms]).sum()

    def nested_loss(step: int) -> Tensor:
        return task(images, target, step=step)["loss"]

    def nested(steps: range) -> Way:
        trained = [model.cost(submodel).macs for step in steps for submodel in one_step_each[step]]
        return Way(optimizer, [partial(nested_loss, step) for step in steps], sum(trained) / len(steps))

    optimizer, of_plain, of_masked = (
        torch.optim.AdamW(module.parameters(), lr=1e-5) for module in (model, plain, masked)
    )
    full, after = model.cost(space.full).macs, 1 + len(uniforms)
    return {
        "plain": Way(of_plain, [plain_loss], full),
        "joint": nested(range(1)),
        "masked": Way(of_masked, [masked_loss], len(uniforms) * full),
        "sampled": nested(range(1, after)),
        "mixnmatch": nested(range(after, len(one_step_each))),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="matvit_small_patch16_224")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--compile", action="store_true", help="all of them, with torch.compile")
    options = parser.parse_args()
    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device, training=True)

    torch.manual_seed(0)
    model = timm.create_model(options.model).train().to(device)
    ways = ways_to_train(model, batch_size=options.batch_size, device=device, compiled=options.compile)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(options.repeats + 1):
        for name, way in ways.items():  # Alternating, so that none has the quieter machine.
            taken = way.seconds(device, dtype)
            if repeat:  # The first round warms up.
                seconds[name].append(taken)
    peak = matmul_flops(device, dtype) if device.type == "cuda" else None

    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(
        f"{options.model}, batch {options.batch_size}, {options.dtype}{', compiled' * options.compile}, "
        f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} threads, {options.repeats} repeats"
    )
    median = {name: statistics.median(times) for name, times in seconds.items()}
    print("          s/step (min to max)         images/s  time/plain  MACs/plain" + "  of peak" * bool(peak))
    for name, way in ways.items():
        row = f"{name:10}{median[name]:.3f} ({min(seconds[name]):.3f} to {max(seconds[name]):.3f})".ljust(36)
        row += f"{options.batch_size / median[name]:10.1f}{median[name] / median['plain']:12.3f}"
        row += f"{way.macs / ways['plain'].macs:12.3f}"
        if peak:  # A backward pass is twice the work of its forward pass.
            row += f"{3 * 2 * way.macs * options.batch_size / median[name] / peak:9.1%}"
        print(row)
    for (one, other), bar in BARS.items():
        ratio, theory = median[one] / median[other], ways[one].macs / ways[other].macs
        print(f"{one}/{other} {ratio:.3f} (bar {bar:.2f}; by MACs alone {theory:.3f})")


if __name__ == "__main__":
    main()
