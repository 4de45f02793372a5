"""What retrieval gives to training: 1-NN accuracy of held-out images, at every granularity."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data import ImageDataset, create_transform, resolve_model_data_config
from torch.utils.data import DataLoader

from indexes.search import nearest, require_faiss
from matvit.device import autocast
from matvit.recipe import Recipe
from matvit.submodel import Submodel
from matvit.train import open_images
from matvit.vit import MatViT


def split_folders(data: str | Path) -> tuple[Path, Path | None]:
    """Where a data folder keeps its training images and, if it has any, its held-out ones.

    Returns:
        ``data/train`` and ``data/val`` (None if absent), or `data` itself where it has no ``train``.
    """
    data = Path(data)
    if not (data / "train").is_dir():
        return data, None
    held_out = data / "val"
    return data / "train", held_out if held_out.is_dir() else None


def one_nn_evaluation(
    train: Path,
    held_out: Path,
    settings: Recipe,
    *,
    device: torch.device,
    dtype: torch.dtype,
    batch_size: int = 256,
) -> Callable[[MatViT], Mapping[str, float]]:
    """A measure for the trainer: adaptive 1-NN accuracy of the held-out images against the training images.

    Args:
        train: ImageFolder that serves as the corpus, embedded by the full encoder.
        held_out: ImageFolder of the queries, embedded by each granularity.
        settings: The recipe, for its colour mode.
        device: Where to embed.
        dtype: Of matrix products.
        batch_size: Images a batch.

    Returns:
        A function of the model that gives ``adaptive_1nn/S`` and so on, 0 to 1.

    Raises:
        MissingFaissError: FAISS is not installed.
        TrainingError: One of the folders holds no images.
    """
    require_faiss()  # Better now than after an epoch.
    corpus = open_images(train, settings)
    queries = open_images(held_out, settings, class_to_idx=corpus.reader.class_to_idx)

    def measure(model: MatViT) -> dict[str, float]:
        def embed(images: ImageDataset, submodel: Submodel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            images.transform = create_transform(**resolve_model_data_config(model), is_training=False)
            vectors, labels = [], []
            with torch.inference_mode(), autocast(device, dtype):
                for batch, target in DataLoader(images, batch_size=batch_size):
                    tokens = model.forward_features(batch.to(device), submodel)
                    embedding = model.forward_head(tokens, pre_logits=True)
                    vectors.append(F.normalize(embedding.float(), dim=-1).cpu().numpy())
                    labels.append(target.numpy())
            return np.concatenate(vectors), np.concatenate(labels)

        vectors, labels = embed(corpus, model.space.full)
        result = {}
        for submodel in model.space.uniforms():
            asked, wanted = embed(queries, submodel)
            found = labels[nearest(asked, vectors, 1)[:, 0]]
            result[f"adaptive_1nn/{submodel}"] = round(float((found == wanted).mean()), 5)
        return result

    return measure
