"""Memory of every submodel of one encoder in use at once, against that of the full encoder alone.

    python benchmarks/memory.py

First the full encoder embeds an image, then every submodel of the curve is taken without a copy, embeds the
image too and is kept. Memory is what the process (or the GPU) holds above what it held before the encoder
was made.
"""

import argparse
import gc
import os
from pathlib import Path

import timm
import torch

import matvit


def held(device: torch.device) -> int:
    """Bytes of memory in use."""
    gc.collect()
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--copy", action="store_true", help="give each submodel tensors of its own instead")
    options = parser.parse_args()
    device = torch.device(options.device)

    small = timm.create_model("vit_tiny_patch16_224", depth=1).eval().to(device)
    image = torch.randn(1, 3, 224, 224, device=device)
    small(image)  # What torch itself needs is there before the count starts.
    before = held(device)
    model = matvit.elastic(options.model, num_classes=0).eval().to(device)
    model(image)
    alone = held(device) - before
    submodels = [model.extract(submodel, copy=options.copy) for submodel in model.space.mixnmatch]
    for submodel in submodels:
        submodel(image)
    together = held(device) - before
    print(f"{options.model}, {device}, fp32, batch 1, torch {torch.__version__}")
    print(f"XL alone                  {alone / 2**20:8.1f} MiB")
    print(f"{len(submodels)} submodels and XL      {together / 2**20:8.1f} MiB")
    print(f"ratio                     {together / alone:8.3f} (bar 1.05)")


if __name__ == "__main__":
    main()
