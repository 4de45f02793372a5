"""What aligned embeddings (`matvit.vision.alignment`) bring, by the images and the rank of their fit.

    python benchmarks/alignment_ranks.py DINO clothing/train clothing.index clothing/test \
        > benchmarks/results/knob/alignment_ranks.txt

The fit is to images of the first place. Up to 600 of the last one, with labels, ask the index; told are their
mean cosine to the full encoder, how many of its ten nearest they find, and 1-NN accuracy.
"""

import argparse
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from matvit.refitting.align import embedded, fit
from matvit.vision.alignment import Alignment
from matvit.vision.embedding import embed_only
from retrieval import Searcher
from retrieval.encoding.drawn_images import DrawnImages

SUBMODELS = ("XL@182px", "XL@154px", "XL@126px", "XL@112px", "XL~21", "XL~16@196px", "XL~12@168px")
FITS = ((100, 32), (200, 8), (200, 32), (200, 10**6), (300, 32))
"""Images and ranks."""


def main() -> None:
    """Print one line a submodel and fit."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="checkpoint")
    parser.add_argument("images", help="to fit to")
    parser.add_argument("index", help="made by that model")
    parser.add_argument("queries", help="with labels")
    options = parser.parse_args()
    searcher = Searcher.open(options.index, model=options.model, device="cpu", dtype="fp32")
    encoder, full = searcher.encoder, searcher.encoder.space.full
    submodels = [full, *map(encoder.submodel, SUBMODELS)]
    drawn = DrawnImages.read(options.images, encoder, fit=max(images for images, _ in FITS), check=2)
    asked = DrawnImages.read(options.queries, encoder, fit=0, check=600, submodels=submodels)
    model: Any = encoder.model
    embed_only(model)
    wanted_ND, full_QD = embedded(model, full, drawn.fit.batches()), embedded(model, full, asked.check)
    truth = answers(searcher, full_QD)

    def tell(what: str, found_QD: Tensor) -> None:
        found = answers(searcher, found_QD)
        right = np.mean([label == own for (label, _), own in zip(found, asked.labels, strict=True)])
        same = np.mean([len(keys & others) / 10 for (_, keys), (_, others) in zip(found, truth, strict=True)])
        cosine = float((unit(found_QD) * unit(full_QD)).sum(1).mean())
        print(f"{what:40} cosine {cosine:.4f}, of ten nearest {same:.1%}, 1-NN {right:.1%}", flush=True)

    tell(str(full), full_QD)
    for submodel in submodels[1:]:
        found_ND = embedded(model, submodel, drawn.fit.batches())
        found_QD = embedded(model, submodel, asked.check_for(submodel))
        share = encoder.cost(submodel).macs / encoder.cost(full).macs
        tell(f"{submodel}, {share:.0%} of the MACs", found_QD)
        for images, rank in FITS:
            if own := fit(found_ND[:images], wanted_ND[:images], rank=rank):
                what = f"    {images} images, rank {len(own['down'])}"
                tell(what, Alignment(**own)(found_QD.double()))


def answers(searcher: Searcher, found_QD: Tensor) -> list[tuple[str | None, set[str]]]:
    """Of each query, the label of the nearest image, and the keys of the ten nearest."""
    hits = searcher.query_vectors(unit(found_QD).astype(np.float32))
    return [(each[0].label, {hit.key for hit in each}) for each in hits]


def unit(found_QD: Tensor) -> NDArray[np.float64]:
    """Vectors of length 1."""
    vectors: NDArray[np.float64] = found_QD.double().cpu().numpy()
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
