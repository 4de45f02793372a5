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
from matvit.budget import resolve
from matvit.checkpoint import weights_sha256
from matvit.device import autocast, pick_device, pick_dtype
from matvit.submodel import Submodel
from retrieval.decode import decode, in_mode
from retrieval.errors import UnreadableImageError
from retrieval.files import read_regular

MAX_ASPECT_RATIO = 200
ImageLike = str | Path | bytes | Image.Image
"""An image file, its encoded bytes, or an image that is already open."""


class Encoder:
    """Images in, L2-normalised embeddings out, through any submodel.

    It takes the model over and drops its classifier: costs are those of a query, which needs none.

    Attributes:
        identity: What an index must have been made by for this encoder to query it.
        space: Every submodel that may embed an image.
        cost: Submodel -> cost of embedding one image.

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
            preprocess=data,
        )
        model.reset_classifier(0)
        self.model = model.eval().to(device)
        self.space, self.cost = model.space, model.cost
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

    def submodel(self, budget: str | Submodel) -> Submodel:
        """The submodel for a budget: see `matvit.budget.resolve`."""
        return resolve(budget, self.space, self.cost)

    def preprocess(self, image: ImageLike) -> Tensor:
        """One image to the normalised tensor (C, H, W) that the model was trained on.

        Raises:
            UnreadableImageError: There is no image there that can be read.
        """
        if isinstance(image, Image.Image):
            image = in_mode(image, self.mode)
        else:
            image = decode(image if isinstance(image, bytes) else read_regular(Path(image)), mode=self.mode)
        short, long = sorted(image.size)
        if long > MAX_ASPECT_RATIO * short:
            # The shorter side is resized to the model's input: the longer one could fill any memory.
            raise UnreadableImageError(f"{image.width} x {image.height} pixels are too elongated")
        return self._transform(image)

    @torch.inference_mode()
    def embed(self, images: Tensor, submodel: Submodel | None = None) -> NDArray[np.float32]:
        """Preprocessed images (B, C, H, W) to unit vectors (B, D); `submodel` None is the full encoder."""
        with autocast(self.device, self.dtype):
            embeddings = self.model(images.to(self.device), submodel)
        return F.normalize(embeddings.float(), dim=-1).cpu().numpy()
