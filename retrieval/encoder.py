"""The encoder as retrieval sees it: model, preprocessing and normalisation in one object."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import Tensor

import matvit
from indexes import EncoderIdentity
from matvit.checkpoint import weights_sha256
from matvit.cost import Cost
from matvit.device import autocast, pick_device, pick_dtype
from matvit.submodel import Submodel, SubmodelSpace
from retrieval.images import decode

ImageLike = str | Path | bytes | Image.Image
"""An image file, its encoded bytes, or an image that is already open."""


class Encoder:
    """Images in, L2-normalised embeddings out, through any submodel.

    The classifier is dropped: costs are those of a query, which needs none.

    Args:
        model: A MatViT with trained weights, in float32.
        device: Where it runs.
        dtype: Of its matrix products.
        location: Where the model came from, for messages and for the index to remember.
    """

    def __init__(
        self, model: matvit.MatViT, *, device: torch.device, dtype: torch.dtype, location: str = ""
    ) -> None:
        data = resolve_model_data_config(model)
        self.device, self.dtype, self.location = device, dtype, location
        self.mode = "L" if data["input_size"][0] == 1 else "RGB"
        self.identity = EncoderIdentity(
            architecture=model.pretrained_cfg["architecture"],
            weights_sha256=weights_sha256(model),
            pooling=model.global_pool,
            embed_dim=model.num_features,
            preprocess={key: list(v) if isinstance(v, tuple) else v for key, v in data.items()},
        )
        model.reset_classifier(0)
        self.model = model.eval().to(device)
        self.cost = model.cost
        self._transform = create_transform(**data, is_training=False)

    @classmethod
    def open(cls, model: str | Path, *, device: str = "auto", dtype: str = "auto") -> "Encoder":
        """Load the encoder from a checkpoint directory.

        Raises:
            UnknownModelError: There is no trained model at that place.
            CheckpointError: It is damaged.
            DeviceError: The device or dtype is not to be had here.
        """
        place = pick_device(device)
        loaded = matvit.load(model)
        return cls(loaded, device=place, dtype=pick_dtype(dtype, place), location=str(Path(model).absolute()))

    @property
    def space(self) -> SubmodelSpace:
        """Every submodel that may embed an image."""
        return self.model.space

    def submodel(self, budget: str | Submodel) -> Submodel:
        """The submodel for a budget: see `matvit.budget.resolve`."""
        return self.model.submodel(budget)

    def costs(self, submodel: Submodel) -> Cost:
        """Cost of embedding one image with the submodel."""
        return self.cost(submodel)

    def preprocess(self, image: ImageLike) -> Tensor:
        """One image to the normalised tensor (C, H, W) that the model was trained on.

        Raises:
            UnreadableImageError: The bytes are no image that can be read.
        """
        if not isinstance(image, Image.Image):
            image = decode(image if isinstance(image, bytes) else Path(image).read_bytes(), mode=self.mode)
        return self._transform(image.convert(self.mode))

    @torch.inference_mode()
    def embed(self, images: Tensor, submodel: Submodel | None = None) -> NDArray[np.float32]:
        """Preprocessed images (B, C, H, W) to unit vectors (B, D); `submodel` None is the full encoder."""
        with autocast(self.device, self.dtype):
            embeddings = self.model(images.to(self.device), submodel)
        return F.normalize(embeddings.float(), dim=-1).cpu().numpy()
