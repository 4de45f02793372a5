"""Embedding images of a folder, against what its parts allow when each is measured alone.

    python benchmarks/embedding.py

Writes JPEGs of 500 x 375 pixels to a temporary folder and embeds them with a ViT-S/16 of random weights as
`matvit index build` does. On a processor the encoder and the decoding share the cores, so the parts allow

    1 / (encoder seconds an image + decoding CPU-seconds an image / cores)

images a second. On a GPU they do not, and the limit is the slower of the two. The bar is 0.95 of that. All
three are measured in turn, several times; printed are medians.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import matvit
from matvit.runtime.device import pick_device, pick_dtype
from retrieval.encoding.batches import batches
from retrieval.encoding.encoder import Encoder
from retrieval.sources.open_images import ImageSource, open_source


def write_photos(folder: Path, count: int) -> None:
    """Pictures that compress about as photographs do (some 60 KB each)."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = smooth + rng.normal(0, 12, smooth.shape)
        Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8)).save(folder / f"{number:05}.jpg", quality=85)


def encoder_seconds(encoder: Encoder, batch_size: int, images: int) -> float:
    batch = torch.randn(batch_size, *encoder.preprocess.data["input_size"], dtype=encoder.dtype)
    encoder.embed(batch)
    repeats = max(1, images // batch_size)
    start = time.perf_counter()
    for _ in range(repeats):
        encoder.embed(batch)
    return (time.perf_counter() - start) / (repeats * batch_size)


def decoding_seconds(encoder: Encoder, source: ImageSource, images: int) -> float:
    """CPU time of reading, decoding and preprocessing one image, by one process with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the processes that decode
    start = time.process_time()
    for item, _ in zip(source.parts[0].read(), range(images), strict=False):
        encoder.preprocess(item.data)  # type: ignore[union-attr]  # all can be read
    seconds = time.process_time() - start
    torch.set_num_threads(threads)
    return seconds / images


def embedding_seconds(encoder: Encoder, source: ImageSource, batch_size: int, workers: int | None) -> float:
    """Wall time an image of the whole, from the second batch on: processes start only once."""
    start, counted = 0.0, 0
    for batch in batches(source.parts, encoder, batch_size=batch_size, workers=workers):
        encoder.embed(batch.images)
        if start:
            counted += len(batch.samples)
        start = start or time.perf_counter()
    return (time.perf_counter() - start) / counted


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_small_patch16_224")
    parser.add_argument("--images", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()

    device = pick_device(options.device)
    dtype = pick_dtype(options.dtype, device)
    encoder = Encoder(matvit.elastic(options.model, pretrained=False), device=device, dtype=dtype)
    cores = len(os.sched_getaffinity(0))
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), options.images)
        source = open_source(folder)
        parts = {
            "encoder": lambda: encoder_seconds(encoder, options.batch_size, options.images // 4),
            "decoding": lambda: decoding_seconds(encoder, source, options.images // 4),
            "embedding": lambda: embedding_seconds(encoder, source, options.batch_size, options.workers),
        }
        # In turn, so that a machine that slows down slows all of them.
        rounds = [{name: measure() for name, measure in parts.items()} for _ in range(options.repeats)]
    encode, decode, whole = (statistics.median(each[name] for each in rounds) for name in parts)
    allowed = max(encode, decode / cores) if device.type == "cuda" else encode + decode / cores
    print(f"{options.model}, {dtype}, {device}, {platform.processor() or platform.machine()}, {cores} cores")
    print(f"encoder alone                {1e3 * encode:8.3f} ms an image")
    print(f"decoding, CPU time           {1e3 * decode:8.3f} ms an image")
    print(f"what these allow             {1 / allowed:8.1f} images/s")
    print(f"embedding                    {1 / whole:8.1f} images/s")
    print(f"share (bar 0.95)             {allowed / whole:8.3f}")


if __name__ == "__main__":
    main()
