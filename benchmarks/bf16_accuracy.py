"""What bf16 costs: adaptive 1-NN accuracy and embeddings in bf16 beside fp32, on the same images.

    python benchmarks/bf16_accuracy.py CHECKPOINT CORPUS QUERIES

CORPUS and QUERIES are folders with a subfolder a class. The full encoder embeds the corpus and each
granularity the queries, everything in fp32, then everything in bf16, then bf16 queries against the fp32
corpus. The difference to fp32 is of the same queries, so its 95 % interval is the paired one.
"""

import argparse
import math

import numpy as np
import torch
from numpy.typing import NDArray

from indexes.faiss_kinds.search import nearest
from retrieval import Encoder, open_source
from retrieval.encoding.batches import batches

Vectors = NDArray[np.float32]


def embed(
    encoders: dict[str, Encoder], folder: str, names: list[str]
) -> tuple[dict[str, Vectors], list[str]]:
    """Vectors for 'FORMAT NAME' of every format and granularity, and the labels; each image is read once."""
    vectors: dict[str, list[Vectors]] = {}
    labels: list[str] = []
    some = next(iter(encoders.values()))
    for part in open_source(folder).parts:
        for batch in batches([part], some, batch_size=256):
            labels += [sample.label for sample in batch.samples]
            for dtype, encoder in encoders.items():
                for name in names:
                    vectors.setdefault(f"{dtype} {name}", []).append(
                        encoder.embed(batch.images, encoder.submodel(name))
                    )
    return {key: np.concatenate(blocks) for key, blocks in vectors.items()}, labels


def difference(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, float]:
    """Second minus first in percentage points, and the half width of its paired 95 % interval."""
    change = second.astype(float) - first
    return 100 * change.mean(), 196 * change.std(ddof=1) / math.sqrt(len(change))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("checkpoint", "corpus", "queries"):
        parser.add_argument(name)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()

    encoders = {
        dtype: Encoder.open(options.checkpoint, device=options.device, dtype=dtype)
        for dtype in ("fp32", "bf16")
    }
    space = encoders["fp32"].space
    names = [str(submodel) for submodel in space.uniforms()]
    corpus, known = embed(encoders, options.corpus, [str(space.full)])
    queries, wanted = embed(encoders, options.queries, names)
    labels, truth = np.array(known), np.array(wanted)

    def right(query: str, base: str) -> NDArray[np.bool_]:
        return labels[nearest(queries[query], corpus[f"{base} {space.full}"], 1)[:, 0]] == truth

    print(f"{len(truth)} queries, {len(labels)} corpus images, {options.device}, torch {torch.__version__}")
    print("     1-NN in fp32  all bf16 (difference)      bf16 queries, fp32 corpus  cosine mean / worst")
    for name in names:
        exact = right(f"fp32 {name}", "fp32")
        cosine = (queries[f"fp32 {name}"] * queries[f"bf16 {name}"]).sum(1)
        cells = [f"{name:4} {100 * exact.mean():12.2f}"]
        for base in ("bf16", "fp32"):
            rough = right(f"bf16 {name}", base)
            change, half = difference(exact, rough)
            cells.append(f"{100 * rough.mean():9.2f} ({change:+.2f} ± {half:.2f})")
        print(*cells, f"     {cosine.mean():.6f} / {cosine.min():.6f}", sep="  ")


if __name__ == "__main__":
    main()
