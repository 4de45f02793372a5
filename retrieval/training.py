"""What retrieval gives to training: labelled images, and 1-NN accuracy at every granularity."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from timm.data import create_transform, resolve_model_data_config

from indexes.search import nearest, require_faiss
from matvit.device import autocast
from matvit.elastic import MatViT
from matvit.errors import TrainingError
from matvit.recipe import Recipe
from matvit.submodel import Submodel
from retrieval.decode import decode
from retrieval.errors import UnreadableImageError
from retrieval.files import read_regular
from retrieval.folders import find_images


class FolderImages(torch.utils.data.Dataset[tuple[Any, int]]):
    """The images of an ImageFolder with their class numbers, read with the care that a corpus gets.

    Args:
        folder: One subfolder a class; images outside of them are left out.
        settings: The recipe, for its colour mode.
        class_to_idx: Numbers of the classes; None counts the folder's own, sorted by name.

    Raises:
        TrainingError: There are no images in class folders, or a class has no number.
    """

    def __init__(
        self, folder: Path, settings: Recipe, *, class_to_idx: Mapping[str, int] | None = None
    ) -> None:
        self._folder = folder
        self._keys = [key for key in find_images(folder) if "/" in key] if folder.is_dir() else []
        labels = [key.partition("/")[0] for key in self._keys]
        if not labels:
            raise TrainingError(f"no images in class folders under {folder}")
        self.class_to_idx = class_to_idx or {label: i for i, label in enumerate(sorted(set(labels)))}
        if unknown := set(labels) - self.class_to_idx.keys():
            raise TrainingError(f"{folder} has a class that training does not know: {min(unknown)!r}")
        self._targets = [self.class_to_idx[label] for label in labels]
        self._mode = "L" if settings.model.get("in_chans", 3) == 1 else "RGB"
        self.transform: Callable[[Any], Any] = lambda image: image

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, i: int) -> tuple[Any, int]:
        """The transformed image and its class number.

        Raises:
            TrainingError: The image cannot be read. Another one in its place would go unnoticed.
        """
        path = self._folder / self._keys[i]
        try:
            return self.transform(decode(read_regular(path), mode=self._mode)), self._targets[i]
        except UnreadableImageError as error:
            raise TrainingError(f"{path}: {error}; remove it and train again") from error


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
    corpus = FolderImages(train, settings)
    queries = FolderImages(held_out, settings, class_to_idx=corpus.class_to_idx)

    def measure(model: MatViT) -> dict[str, float]:
        transform = create_transform(**resolve_model_data_config(model), is_training=False)

        def embed(images: FolderImages, submodel: Submodel) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
            images.transform = transform
            vectors: list[NDArray[np.float32]] = []
            labels: list[int] = []
            with torch.inference_mode(), autocast(device, dtype):
                for start in range(0, len(images), batch_size):
                    rows = range(start, min(start + batch_size, len(images)))
                    batch, targets = zip(*(images[row] for row in rows), strict=True)
                    tokens = model.forward_features(torch.stack(batch).to(device), submodel)
                    embedding = model.forward_head(tokens, pre_logits=True)
                    vectors.append(F.normalize(embedding.float(), dim=-1).cpu().numpy())
                    labels += targets
            return np.concatenate(vectors), np.array(labels)

        vectors, labels = embed(corpus, model.space.full)
        result = {}
        for submodel in model.space.uniforms():
            asked, wanted = embed(queries, submodel)
            found = labels[nearest(asked, vectors, 1)[:, 0]]
            result[f"adaptive_1nn/{submodel}"] = round(float((found == wanted).mean()), 5)
        return result

    return measure
