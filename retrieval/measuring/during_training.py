"""What retrieval gives to training: top-1 and 1-NN accuracy of held-out images at every granularity."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from indexes.faiss_kinds.search import nearest, require_faiss
from matvit.runtime.device import autocast
from matvit.submodels.submodel import Submodel
from matvit.training.augment import Transform, with_one_line_errors
from matvit.training.recipe import Recipe
from matvit.vision.elastic_vit import MatViT
from retrieval.sources.labelled import LabelledImages, open_labelled, splits


def open_data(data: str, settings: Recipe) -> tuple[LabelledImages, LabelledImages | None]:
    """The images to train on, and those held out if there are any.

    Args:
        data: As in `open_labelled`, or a folder with ``train`` and perhaps ``val``, ``validation`` or
            ``test`` in it, of which the first is held out.
        settings: The recipe, for its colour mode.

    Raises:
        TrainingError: There are no labelled images, or the held-out ones have other classes.
        ImageSourceError: A shard cannot be read.
    """
    to_train_on, held_out = splits(data)
    train = open_labelled(to_train_on, settings.mode)
    if held_out is None:
        return train, None
    return train, open_labelled(held_out, settings.mode, class_to_idx=train.class_to_idx)


def accuracy_evaluation(
    train: LabelledImages,
    held_out: LabelledImages,
    settings: Recipe,
    *,
    device: torch.device,
    dtype: torch.dtype,
    workers: int = 0,
    batch_size: int = 256,
) -> Callable[[MatViT], Mapping[str, float]]:
    """A measure for the trainer: top-1 and adaptive 1-NN accuracy of the held-out images.

    Args:
        train: Of these, the recipe's `evaluation.corpus`, evenly spaced, are the corpus of 1-NN, embedded by
            the full encoder.
        held_out: The queries, embedded by each granularity.
        settings: The recipe.
        device: Where to embed.
        dtype: Of matrix products.
        workers: Processes that read images.
        batch_size: Images a batch.

    Returns:
        A function of the model that gives ``top1/S``, ``adaptive_1nn/S`` and so on, 0 to 1; 1-NN of those
        whose class is in the corpus.

    Raises:
        MissingFaissError: FAISS is not installed.
    """
    require_faiss()  # Better now than after an epoch.
    corpus = np.linspace(0, len(train) - 1, min(len(train), settings.evaluation.corpus)).round().astype(int)
    everything = np.arange(len(held_out))
    there = np.isin(held_out.targets, train.targets[corpus])  # Whatever the others find is wrong.

    def measure(model: MatViT) -> dict[str, float]:
        transform = create_transform(**resolve_model_data_config(model), is_training=False)

        def outputs(
            images: LabelledImages, rows: NDArray[np.int64], submodels: Sequence[Submodel]
        ) -> Iterator[list[tuple[Tensor, Tensor]]]:
            rows_read = _Prepared(images, rows.tolist(), transform)
            loader = DataLoader(rows_read, batch_size=batch_size, num_workers=workers)
            for batch in with_one_line_errors(loader):
                with torch.inference_mode(), autocast(device, dtype):
                    yield [_outputs(model, batch.to(device), submodel) for submodel in submodels]

        full, submodels = model.space.full, model.space.uniforms()
        vectors = np.concatenate([_unit(batch[0][0]) for batch in outputs(train, corpus, [full])])
        queries: list[list[NDArray[np.float32]]] = [[] for _ in submodels]
        classes: list[list[NDArray[np.int64]]] = [[] for _ in submodels]
        for batch in outputs(held_out, everything, submodels):
            for number, (embedding, logits) in enumerate(batch):
                queries[number].append(_unit(embedding))
                classes[number].append(logits.argmax(dim=-1).cpu().numpy())
        result = {}
        for number, submodel in enumerate(submodels):
            top1 = np.concatenate(classes[number]) == held_out.targets
            found = nearest(np.concatenate(queries[number]), vectors, 1)[:, 0]
            right = train.targets[corpus][found] == held_out.targets
            result[f"top1/{submodel}"] = round(float(top1.mean()), 5)
            if there.any():
                result[f"adaptive_1nn/{submodel}"] = round(float(right[there].mean()), 5)
        return result

    return measure


class _Prepared(Dataset[Tensor]):
    """Some images, as the model sees them outside of training."""

    def __init__(self, images: LabelledImages, rows: Sequence[int], transform: Transform) -> None:
        self._images, self._rows, self._transform = images, rows, transform

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, i: int) -> Tensor:
        return self._transform(self._images.load(self._rows[i])[1])


def _outputs(model: MatViT, images: Tensor, submodel: Submodel) -> tuple[Tensor, Tensor]:
    """Embeddings (B, D) and logits (B, classes)."""
    embedding = model.forward_head(model.forward_features(images, submodel), pre_logits=True)
    return embedding, model.head(embedding)


def _unit(embedding: Tensor) -> NDArray[np.float32]:
    return F.normalize(embedding.float(), dim=-1).cpu().numpy()
