"""The encoder as retrieval sees it: model, preprocessing and normalisation in one object."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import matvit
from indexes import EncoderIdentity
from matvit import latency
from matvit.budget import resolve
from matvit.checkpoint import tensors_sha256, weights_sha256
from matvit.device import pick_device, pick_dtype
from matvit.latency import Profile
from matvit.submodel import Submodel
from retrieval.preprocess import Preprocess

if TYPE_CHECKING:
    from matvit.compiled import CompiledSubmodels


@dataclass(frozen=True)
class Prediction:
    """What a submodel makes of a batch.

    Attributes:
        vectors: Unit embeddings (B, D).
        log_probabilities: Of the classes (B, C), by softmax; None where the model has no such classifier.
    """

    vectors: NDArray[np.float32]
    log_probabilities: NDArray[np.float32] | None


class Encoder:
    """Images in, L2-normalised embeddings out, through any submodel.

    It takes the model over and puts its classifier aside: costs are those of a query, which needs none.

    Attributes:
        preprocess: An image, or where one is, to the model's input (C, H, W).
        identity: What an index must have been made by for this encoder to query it.
        refits: What identifies the refitted tensors that its submodels use in place of slices; None where
            there are none. They are not part of the identity: the full encoder does without them.
        space: Every submodel that may embed an image.
        cost: Submodel -> cost of embedding one image.
        latency: Times of its submodels, once they are known: see `submodel`.
        compiled: The compiled submodels, if they are to be compiled.

    Args:
        model: An elastic encoder with trained weights, in float32.
        device: Where it runs.
        dtype: Of its weights and of everything that it computes.
        location: Where the model came from, for messages and for the index to remember.
        compile: Compile the submodels that are asked for: worth minutes of waiting only in processes that
            live long. See `matvit.compiled.CompiledSubmodels`.

    Raises:
        CheckpointError: The model's preprocessing makes no sense.
    """

    def __init__(
        self,
        model: matvit.Elastic,
        *,
        device: torch.device,
        dtype: torch.dtype,
        location: str = "",
        compile: bool = False,
    ) -> None:
        self.device, self.dtype, self.location = device, dtype, location
        self.preprocess = Preprocess(model, location)
        self.identity = EncoderIdentity(
            architecture=model.pretrained_cfg["architecture"],
            weights_sha256=weights_sha256(model),
            pooling=model.global_pool,
            embed_dim=model.num_features,
            preprocess=self.preprocess.data,
        )
        self.refits = tensors_sha256(model.refits.tensors) if model.refits else None
        head = model.get_classifier() if model.num_classes else None
        # Of two classifiers, one a token, neither takes the embedding.
        self._classifier = head.to(device, dtype) if isinstance(head, torch.nn.Linear) else None
        model.reset_classifier(0)
        self.model = model.eval().to(device, dtype)
        self.space, self.cost = model.space, model.cost
        self.latency: Profile | None = None
        self.compiled = _compiled(self.model) if compile else None
        # The weights never change here: a submodel is cut once, and shares their memory ever after.
        self._cuts: dict[Submodel, Any] = {}

    @classmethod
    def open(
        cls, model: str | Path, *, device: str = "auto", dtype: str = "auto", compile: bool = False
    ) -> "Encoder":
        """Load the encoder from a checkpoint directory or by a name: see `matvit.load`.

        Raises:
            UnknownModelError: There is no trained model of that name or at that place.
            CheckpointError: It is damaged, or cannot be downloaded.
            DeviceError: The device or dtype is not to be had here.
        """
        place = pick_device(device)
        number_format = pick_dtype(dtype, place)
        loaded = matvit.load(model)
        location = str(Path(model).absolute()) if Path(model).is_dir() else str(model)
        return cls(loaded, device=place, dtype=number_format, location=location, compile=compile)

    def submodel(self, budget: str | Submodel | None) -> Submodel:
        """The submodel for a budget: see `matvit.budget.resolve`.

        One in milliseconds is of a single image, not compiled, as `latency` tells; where that is None, times
        are measured here, if they never were.
        """
        return resolve(budget, self.space, self.cost, self._known_latency)

    def _known_latency(self) -> Profile:
        if self.latency is None:
            self.latency = latency.profile(self.model, device=self.device, dtype=self.dtype)
        return self.latency

    @torch.inference_mode()
    def embed(self, images: Tensor, submodel: Submodel | None = None) -> NDArray[np.float32]:
        """Preprocessed images (B, C, H, W) to unit vectors (B, D); `submodel` None is the full encoder."""
        return _unit(self._run(images, submodel))

    @torch.inference_mode()
    def predict(self, images: Tensor, submodel: Submodel | None = None) -> Prediction:
        """As `embed`, with what the model's classifier says, where it has one."""
        embeddings_BD = self._run(images, submodel)
        logs = None
        if self._classifier is not None:
            logs = self._classifier(embeddings_BD).float().log_softmax(-1).cpu().numpy()
        return Prediction(_unit(embeddings_BD), logs)

    def _run(self, images: Tensor, submodel: Submodel | None) -> Tensor:
        images = images.to(self.device, self.dtype)
        if self.compiled is not None:
            return self.compiled(images, submodel or self.space.full)
        return self._cut(submodel)(images)

    def _cut(self, submodel: Submodel | None) -> Any:
        if submodel is None:
            return self.model
        if submodel not in self._cuts:
            self._cuts[submodel] = self.model.extract(submodel, copy=False)
        return self._cuts[submodel]


def _unit(embeddings_BD: Tensor) -> NDArray[np.float32]:
    return F.normalize(embeddings_BD.float(), dim=-1).cpu().numpy()


def _compiled(model: matvit.Elastic) -> "CompiledSubmodels":
    from matvit.compiled import CompiledSubmodels  # Here, because it loads torch's compiler.

    return CompiledSubmodels(model)
