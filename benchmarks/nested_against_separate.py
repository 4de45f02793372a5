"""The paper's comparison in miniature: one MatViT against Vision Transformers trained at each size alone.

    python benchmarks/nested_against_separate.py benchmarks/experiment/fashion_mnist.toml \
        --data FASHION_MNIST -o runs/experiment

DATA has `train/` and a held-out folder beside it. Every model has the same recipe and the same number of
steps; the separate ones have the FFN ratio of their granularity and the loss of that alone. What was trained
before is not trained again, and what was stopped goes on.

Writes models.csv (a line a model, granularity and seed), curve.csv (the Mix'n'Match curve of each MatViT) and
figures. Accuracies are shares of the held-out images; 1-NN is exact, by cosine, over all training images.
"""

import argparse
import csv
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data import create_transform, resolve_model_data_config
from torch.utils.data import DataLoader, Dataset

import matvit
from indexes.faiss_kinds.search import nearest
from matvit import GRANULARITIES
from matvit.runtime.device import pick_device
from matvit.training import recipe
from matvit.training.train import Execution, Hooks, train
from retrieval.measuring.during_training import open_data
from retrieval.measuring.estimate import Share
from retrieval.showing.figures import plot_curve
from retrieval.showing.series import Series
from retrieval.sources.labelled import LabelledImages

Row = dict[str, Any]


class Prepared(Dataset[torch.Tensor]):
    """Images as a model sees them outside of training."""

    def __init__(self, images: LabelledImages, model: Any) -> None:
        self._images = images
        self._transform = create_transform(**resolve_model_data_config(model), is_training=False)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> torch.Tensor:
        return self._transform(self._images.load(i)[1])


def seeded(text: str, seed: int) -> str:
    return f"seed = {seed}\n" + re.sub(r"(?m)^seed\s*=.*\n", "", text)


def separate(text: str, granularity: str) -> str:
    """The recipe of a plain Vision Transformer with a granularity's FFN ratio."""
    ratio = 4 * GRANULARITIES[granularity]
    alone = text.replace("[model]\n", f"[model]\nmlp_ratio = {ratio}\n")
    alone = re.sub(r"(?m)^(distill|kind|with_full|probabilities)\s*=.*\n", "", alone)
    return alone.replace("[objective]\n", '[objective]\ngranularities = ["XL"]\n')


def trained(name: str, text: str, images: LabelledImages, out: Path, how: Execution) -> Any:
    """The model of a run, trained as far as it has not been."""
    file = out / "recipes" / f"{name}.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    epochs = recipe.read(file).epochs

    def tell(line: Mapping[str, Any]) -> None:
        if "epoch" in line:
            print(
                f"{name}: epoch {line['epoch']}/{epochs}, loss {line['loss']:.4f}, {line['seconds']} s",
                flush=True,
            )

    train(file, images, out / name, execution=how, hooks=Hooks(write=tell), resume=True)
    return matvit.load(out / name / "checkpoint").to(how.device)


@torch.inference_mode()
def outputs(
    model: Any, images: LabelledImages, submodels: Sequence[matvit.Submodel], how: Execution
) -> dict[matvit.Submodel, tuple[NDArray[np.float32], torch.Tensor]]:
    """Unit embeddings and log-probabilities of all images, by each submodel."""
    parts: dict[matvit.Submodel, list[tuple[torch.Tensor, torch.Tensor]]] = {s: [] for s in submodels}
    for batch in DataLoader(Prepared(images, model), batch_size=500, num_workers=how.workers):
        for submodel in submodels:
            tokens = model.forward_features(batch.to(how.device), submodel)
            embedding = model.forward_head(tokens, pre_logits=True)
            logits = model.head(embedding).float()
            parts[submodel].append(
                (F.normalize(embedding.float(), dim=-1).cpu(), logits.log_softmax(-1).cpu())
            )
    return {
        submodel: (torch.cat([e for e, _ in each]).numpy(), torch.cat([p for _, p in each]))
        for submodel, each in parts.items()
    }


def measure(
    model: Any,
    train_images: LabelledImages,
    held_out: LabelledImages,
    submodels: Sequence[matvit.Submodel],
    how: Execution,
    *,
    corpus: NDArray[np.float32] | None = None,
    reference: torch.Tensor | None = None,
    same_encoder: bool = True,
) -> tuple[list[Row], NDArray[np.float32], torch.Tensor]:
    """Every measure of a model's submodels; its full encoder's corpus, and log-probabilities of queries.

    Args:
        corpus: What queries of the adaptive 1-NN search; None is the model's own.
        reference: The log-probabilities that others are compared with; None is the model's own.
    """
    full = model.space.full
    asked = outputs(model, held_out, list(dict.fromkeys([*submodels, full])), how)
    own = outputs(model, train_images, submodels if same_encoder else [full], how)
    searched = own[full][0] if corpus is None else corpus
    truth, labels = held_out.targets, train_images.targets
    compared = asked[full][1] if reference is None else reference

    def one_nn(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> float:
        return float((labels[nearest(queries, vectors, 1)[:, 0]] == truth).mean())

    rows = []
    for submodel in submodels:
        vectors, log_p = asked[submodel]
        rows.append(
            {
                "submodel": str(submodel),
                "gmacs": model.cost(submodel).gmacs,
                "mparams": model.cost(submodel).mparams,
                "top1": float((log_p.argmax(-1).numpy() == truth).mean()),
                "same_encoder_1nn": one_nn(vectors, own[submodel][0]) if same_encoder else "",
                "adaptive_1nn": one_nn(vectors, searched),
                "kl_to_xl": float(F.kl_div(log_p, compared, log_target=True, reduction="batchmean")),
                "equal_to_xl": float((log_p.argmax(-1) == compared.argmax(-1)).float().mean()),
                "queries": len(truth),
            }
        )
    return rows, own[full][0], asked[full][1]


def write(path: Path, rows: Sequence[Row]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}
            for row in rows
        )


def draw(models: Sequence[Row], curve: Sequence[Row], out: Path) -> None:
    """Both kinds of accuracy against compute; means over the seeds."""

    def mean(rows: Sequence[Row], measure: str) -> float:
        return statistics.mean(row[measure] for row in rows)

    names = list(dict.fromkeys(row["submodel"] for row in curve))
    by_name = {name: [row for row in curve if row["submodel"] == name] for name in names}
    alone = {name: [r for r in models if r["model"] == f"ViT-{name}"] for name in GRANULARITIES}
    for measure, title in (("adaptive_1nn", "1-NN, corpus embedded once by XL"), ("top1", "top-1")):
        adaptive = measure == "adaptive_1nn"
        kind, whose = ("same_encoder_1nn", ", and with its own corpus") if adaptive else (measure, "")
        curves = [
            _series("one MatViT", [(name, by_name[name]) for name in names], measure, mean),
            _series(f"a ViT trained for each size alone{whose}", list(alone.items()), kind, mean),
        ]
        full = max(row["gmacs"] for row in curve)
        plot_curve(out / f"{measure}.png", curves, full_gmacs=full, title=title)
        plt.close("all")


def _series(name: str, points: Sequence[tuple[str, list[Row]]], measure: str, mean: Any) -> Series:
    values = [mean(rows, measure) for _, rows in points]
    intervals = [
        Share(
            round(value * sum(row["queries"] for row in rows)), sum(row["queries"] for row in rows)
        ).interval
        for value, (_, rows) in zip(values, points, strict=True)
    ]
    labels = [name if name in GRANULARITIES else "" for name, _ in points]
    return Series(name, [mean(rows, "gmacs") for _, rows in points], values, intervals, labels)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only-nested", action="store_true", help="without the separate models")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int, default=0)
    options = parser.parse_args()

    how = Execution(device=pick_device(options.device), workers=options.workers)
    text = options.recipe.read_text()
    images, held_out = open_data(options.data, recipe.read(options.recipe))
    if held_out is None:
        sys.exit(f"{options.data} has no held-out images beside train/")
    options.output.mkdir(parents=True, exist_ok=True)
    models: list[Row] = []
    curve: list[Row] = []
    for seed in options.seeds:
        one = seeded(text, seed)
        nested = trained(f"nested-{seed}", one, images, options.output, how)
        uniform, corpus, _ = measure(nested, images, held_out, nested.space.uniforms(), how)
        models += [{"seed": seed, "model": "MatViT", **row} for row in uniform]
        points, *_ = measure(
            nested, images, held_out, nested.space.mixnmatch, how, corpus=corpus, same_encoder=False
        )
        curve += [{"seed": seed, **row} for row in points]
        largest = None
        for name in [] if options.only_nested else reversed(GRANULARITIES):
            alone = trained(f"{name}-{seed}", separate(one, name), images, options.output, how)
            # Its queries search the MatViT's corpus: near chance, for the two never learnt one space.
            rows, _, own = measure(
                alone, images, held_out, [alone.space.full], how, corpus=corpus, reference=largest
            )
            largest = own if largest is None else largest
            models += [{"seed": seed, "model": f"ViT-{name}", **row} for row in rows]
        write(options.output / "models.csv", models)
        write(options.output / "curve.csv", curve)
    if not options.only_nested:
        draw(models, curve, options.output)
    (options.output / "command.txt").write_text(shlex.join(["python", *sys.argv]) + "\n")
    for row in models:
        print({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})


if __name__ == "__main__":
    main()
