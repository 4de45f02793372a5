"""The encoder as retrieval sees it: model, preprocessing and normalisation in one object."""

import logging
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

import matvit
from indexes import EncoderIdentity
from matvit.engines.all_engines import query_engine
from matvit.errors import BudgetError, CheckpointError, NonsenseError
from matvit.progress import Progress, silent
from matvit.runtime import latency
from matvit.runtime.device import pick_device, pick_dtype
from matvit.submodels.budget import is_time, resolve
from matvit.submodels.profile import Profile
from matvit.submodels.submodel import Submodel
from matvit.vision.embedding import embed_only
from matvit.vision.projection import embedding_width, projection_of
from matvit.weights.checkpoint import read_curve, tensors_sha256, weights_sha256
from matvit.weights.model_names import directory_of
from retrieval.encoding.preprocess import Preprocess
from retrieval.sources.decode import Reading

_log = logging.getLogger(__name__)

NO_EMBEDDING = "the model's embedding of it is zero or not finite"
"""Why an image fails that could be read."""


@dataclass(frozen=True)
class Prediction:
    """What a submodel makes of a batch.

    Attributes:
        vectors: Unit embeddings (B, D).
        log_probabilities: Of the classes (B, C), by softmax; None where the model has no such classifier.
    """

    vectors: NDArray[np.float32]
    log_probabilities: NDArray[np.float32] | None

    def of(self, chosen_B: NDArray[np.bool_]) -> "Prediction":
        """Those of some of the images."""
        logs = self.log_probabilities
        return Prediction(self.vectors[chosen_B], None if logs is None else logs[chosen_B])


class Encoder:
    """Images in, L2-normalised embeddings out, through any submodel.

    It puts the model's classifier aside: costs are those of a query, which needs none. A projection is no
    classifier: see `matvit.vision.projection`. The model that it is given is left alone; its tensors are
    shared where they need no conversion.

    Attributes:
        preprocess: An image, or where one is, to the model's input (C, H, W).
        identity: What an index must have been made by for this encoder to query it.
        refits: What identifies the tensors that only its submodels use; None where there are none. They are
            not part of the identity: the full encoder does without them.
        space: Every submodel that may embed an image.
        cost: Submodel -> cost of embedding one image.
        latency: Times of its submodels, once they are known: see `submodel`.
        runner: What runs its submodels: see `matvit.engines.engine.SubmodelRunner`.

    Args:
        model: An elastic encoder with trained weights, in float32.
        device: Where it runs.
        dtype: Of its weights and of everything that it computes.
        location: Where the model came from, for messages and for the index to remember.
        engine: What runs it, by name: ``eager``, or ``compiled``, which is worth minutes of waiting only in
            processes that live long. See `matvit.engines.all_engines`.
        progress: Told of what is timed, once times are needed.

    Raises:
        CheckpointError: The model's preprocessing makes no sense, or it pools nothing.
        EngineError: No engine of this name serves queries.
        MissingEngineError: It is not installed.
    """

    def __init__(
        self,
        model: matvit.Elastic,
        *,
        device: torch.device,
        dtype: torch.dtype,
        location: str = "",
        engine: str = "eager",
        progress: Progress = silent,
    ) -> None:
        runs = query_engine(engine)
        self.device, self.dtype, self.location = device, dtype, location
        if not model.global_pool:
            raise CheckpointError(
                f"{location}: it is saved without pooling (global_pool is empty), and so embeds patches, "
                "not images: set global_pool to token or avg in its config.json"
            )
        try:
            self.preprocess = Preprocess(model)
        except NonsenseError as error:
            raise CheckpointError(f"{location}: {error}") from error
        projection = projection_of(model)
        self.identity = EncoderIdentity(
            architecture=model.pretrained_cfg["architecture"],
            weights_sha256=weights_sha256(model),
            pooling=model.global_pool,
            projection=None if projection is None else projection.out_features,
            embed_dim=embedding_width(model),
            preprocess=self.preprocess.data,
        )
        self.refits = tensors_sha256(model.extras) if model.extras else None
        self.model = _converted(model, device, dtype).eval()
        head = self.model.get_classifier() if model.num_classes and projection is None else None
        # Of two classifiers, one a token, neither takes the embedding.
        self._classifier = head if isinstance(head, torch.nn.Linear) else None
        embed_only(self.model)
        self.space, self.cost = self.model.space, self.model.cost
        self.latency: Profile | None = None
        self._measuring, self._progress = Lock(), progress
        self._warned: set[Submodel] = set()
        self.runner = runs.runner(self.model)

    @classmethod
    def open(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        dtype: str = "auto",
        engine: str = "eager",
        progress: Progress = silent,
    ) -> "Encoder":
        """Load the encoder from a checkpoint directory or by a name: see `matvit.load`.

        Raises:
            UnknownModelError: There is no trained model of that name or at that place.
            CheckpointError: It is damaged, or cannot be downloaded.
            DeviceError: The device or dtype is not to be had here.
            EngineError: No engine of this name serves queries.
            MissingEngineError: It is not installed.
        """
        query_engine(engine)  # If it cannot be, better now than after a download.
        chosen = pick_device(device)
        number_format = pick_dtype(dtype, chosen)
        loaded = matvit.load(model, progress=progress)
        directory = directory_of(model)
        location = str(directory.absolute() if directory else model)
        return cls(
            loaded, device=chosen, dtype=number_format, location=location, engine=engine, progress=progress
        )

    def reading_as(self, preprocess: Mapping[str, Any]) -> "Encoder":
        """This encoder for an index with this preprocessing, which may have been made before orientation and
        transparency were regarded: it goes on as it was made. All else is shared.
        """
        other = copy(self)
        other.preprocess = self.preprocess.reading_as(Reading.of(preprocess))
        other.identity = replace(self.identity, preprocess=other.preprocess.data)
        return other

    def on_curve(self, cosines: Mapping[str, float]) -> "Encoder":
        """This encoder with budgets that choose from submodels that were measured; all else is shared.

        Args:
            cosines: By spelling: see `SubmodelSpace.measured`.

        Raises:
            SubmodelError: One of them is no submodel of this encoder.
        """
        other = copy(self)
        other.model = matvit.elastic(self.model)
        other.model.measured = read_curve(self.model, dict(cosines))
        other.space, other.latency, other._measuring = other.model.space, None, Lock()
        return other

    def check_weights(self) -> None:
        """Refuse a model that can embed nothing.

        Raises:
            CheckpointError: Its weights are not finite.
        """
        for name, tensor in self.model.state_dict().items():
            if not tensor.isfinite().all():
                raise CheckpointError(f"{self.location}: its weights are not finite (the first, {name})")

    def submodel(self, budget: str | Submodel | None) -> Submodel:
        """The submodel for a budget: see `matvit.submodels.budget.resolve`.

        One in milliseconds is of a single image, not compiled, as `latency` tells; where that is None, times
        are measured here, if they never were.
        """
        submodel = resolve(budget, self.space, self.cost, self.profile)
        why = None if submodel in self.space.measured else self.space.poor.get(submodel)
        if why and submodel not in self._warned:
            self._warned.add(submodel)
            _log.warning("%s: %s", self.location, why)
        if budget is not None and is_time(budget):
            point = self.profile().point(submodel)
            _log.info("%s: %s takes %s", budget, submodel, point)
        return submodel

    def profile(self, submodels: Sequence[Submodel] = ()) -> Profile:
        """How long its submodels take for a single image, measured here if they never were.

        Widths that lie between measured ones are interpolated; of `submodels`, others are measured too.
        """
        also = self.space.uncharted(submodels)
        with self._measuring:  # Threads that measure at once would measure each other.
            if self.latency is None or not all(self.latency.point(each).measured for each in also):
                self.latency = latency.measure(
                    self.model, device=self.device, dtype=self.dtype, also=also, progress=self._progress
                )
                _log.info("%s", self.latency)
            return self.latency

    def preprocess_for(self, submodel: Submodel) -> Preprocess:
        """What makes the input of a submodel, which may read images of another size.

        Raises:
            BudgetError: No image can be made so large.
        """
        try:
            return self.preprocess.at(submodel.image_size)
        except NonsenseError as error:
            raise BudgetError(f"{submodel}: {error}") from error

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
        return self.runner(images.to(self.device, self.dtype), submodel)


def are_units(vectors_BD: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which vectors (B, D) are embeddings: finite, and of length 1 but for rounding."""
    return np.abs(np.linalg.norm(vectors_BD.astype(np.float32), axis=-1) - 1) < 1e-2


def _converted(model: matvit.Elastic, device: torch.device, dtype: torch.dtype) -> matvit.Elastic:
    """The model on a device and in a number format; `Module.to` would convert the caller's own tensors."""
    converted: dict[int, Tensor] = {}
    for parameter in model.parameters():
        tensor = parameter.detach().to(device, dtype)
        converted[id(parameter)] = torch.nn.Parameter(tensor, requires_grad=parameter.requires_grad)
    for buffer in model.buffers():
        converted[id(buffer)] = buffer.to(device, dtype if buffer.is_floating_point() else buffer.dtype)
    return deepcopy(model, converted)


def _unit(embeddings_BD: Tensor) -> NDArray[np.float32]:
    return F.normalize(embeddings_BD.float(), dim=-1).cpu().numpy()
