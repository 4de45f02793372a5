"""What `matvit evaluate` costs beside the encoders' own time: images decoded once, searches batched.

    python benchmarks/evaluate_cost.py

Writes small JPEGs to a temporary folder, indexes them with a 12-layer MatViT with random weights, and
evaluates 10,000 queries at all 37 budgets. In the same process, every submodel then embeds the same images,
decoded and preprocessed already and in batches of the same size, and nothing else. The bar is a ratio of 1.1.
Images of 64 pixels make 17 tokens: the larger the encoder, the less the searches count beside it. Images are
decoded in the same process (`--workers 0`), for others would take cores from the encoder.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import timm
import torch
from PIL import Image

import matvit  # noqa: F401 (registers the models)
from indexes import Index
from retrieval import build_index, open_source
from retrieval.encoding.batches import batches
from retrieval.encoding.encoder import Encoder
from retrieval.measuring.evaluate import evaluate
from retrieval.searcher import Searcher

BATCH = 64


def write_images(folder: Path, count: int, seed: int) -> Path:
    """Labelled JPEGs of 64 x 64 pixels in ten classes."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        place = folder / str(number % 10)
        place.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC).save(place / f"{number:05}.jpg")
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--queries", type=int, default=10_000)
    parser.add_argument("--corpus", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=256, help="of the model's embedding")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument("--repeats", type=int, default=1)
    options = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model(
        "matvit_tiny_patch16_224", img_size=64, embed_dim=options.width, num_heads=4, num_classes=10
    )
    encoder = Encoder(model, device=torch.device("cpu"), dtype=torch.float32)
    curve = encoder.space.mixnmatch
    with tempfile.TemporaryDirectory() as folder:
        corpus = write_images(Path(folder) / "corpus", options.corpus, 0)
        queries = write_images(Path(folder) / "queries", options.queries, 1)
        build_index(open_source(corpus), encoder, Path(folder) / "x.index")
        searcher = Searcher(Index.open(Path(folder) / "x.index"), encoder)
        ratios = []
        for _ in range(options.repeats):
            start = time.perf_counter()
            evaluate(searcher, open_source(queries), curve, batch_size=BATCH, workers=options.workers)
            whole = time.perf_counter() - start
            ready = [b.images for b in batches(open_source(queries).parts, encoder, batch_size=BATCH)]
            start = time.perf_counter()
            for images in ready:
                for submodel in curve:
                    encoder.embed(images, submodel)
            bare = time.perf_counter() - start
            ratios.append(whole / bare)
            print(
                f"{options.queries} queries x {len(curve)} budgets, corpus of {options.corpus}: evaluate "
                f"{whole:.1f} s, encoders alone {bare:.1f} s, ratio {whole / bare:.3f}",
                flush=True,
            )
    print(f"evaluate / encoders alone (bar 1.1): {statistics.median(ratios):.3f}")


if __name__ == "__main__":
    main()
