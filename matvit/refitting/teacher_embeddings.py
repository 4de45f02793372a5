"""The full encoder's embeddings of many images, computed once: a file keeps those that are done."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from matvit.files.full_disk import naming
from matvit.progress import Count, Progress, silent

_BATCH = 32


class Images(Protocol):
    """Preprocessed images (C, H, W) by row: a tensor (N, C, H, W), or what reads each as it is needed."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> Tensor: ...


def teacher_embeddings(
    images: Images,
    embed: Callable[[Tensor], Tensor],
    width: int,
    *,
    file: Path | None = None,
    progress: Progress = silent,
) -> Tensor:
    """Embeddings (N, D) in float32, on the CPU.

    Args:
        images: N of them.
        embed: Images (B, C, H, W) to embeddings (B, D).
        width: D.
        file: What keeps the first of them, row by row, and gets all others: of these very images and of this
            encoder, to be named so that no others are in it.
        progress: Told of the images that are embedded.
    """
    kept = np.empty((0, width), np.float32)
    if file is not None and file.exists():
        # What was stopped within a row did not embed its image, nor did what a crash left as zeros.
        whole = file.stat().st_size // (4 * width) * width
        kept = np.fromfile(file, np.float32, min(whole, len(images) * width)).reshape(-1, width)
        kept = kept[: np.logical_and.accumulate(kept.any(1)).sum()]
    blocks = [torch.from_numpy(kept)]
    count = Count(progress, "images embedded by the full encoder", len(images), done=len(kept))
    for start in range(len(kept), len(images), _BATCH):
        rows = range(start, min(start + _BATCH, len(images)))
        block = embed(torch.stack([images[row] for row in rows])).float().cpu()
        if file is not None:
            with naming(file), file.open("r+b" if file.exists() else "wb") as end:
                end.seek(4 * width * start)
                end.write(block.contiguous().numpy().data)
        blocks.append(block)
        count(len(block))
    return torch.cat(blocks)
