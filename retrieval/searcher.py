"""Search an index by image, at a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from indexes import Index
from matvit.cost import Cost
from matvit.submodel import Submodel
from retrieval.encoder import Encoder, ImageLike
from retrieval.errors import MissingModelError, UnreadableImageError


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Attributes:
        key: Its name in the corpus.
        score: Cosine between the query's embedding and its own.
        label: Its class, where the corpus has one.
        path: The image file, or the shard that holds it.
    """

    key: str
    score: float
    label: str | None
    path: str


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """What a query found, best first, and what it cost.

    Attributes:
        submodel: The submodel that encoded the query.
        cost: Of encoding it.
        hits: The results.
    """

    submodel: Submodel
    cost: Cost
    hits: tuple[Hit, ...]

    @property
    def gmacs(self) -> float:
        """Multiply-accumulates of encoding the query, in 1e9."""
        return self.cost.gmacs

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # Sequence's overloads add nothing here
        return self.hits[i]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


class Searcher:
    """An index and the encoder that made it, ready for queries.

    Args:
        index: An open index.
        encoder: The encoder whose full model embedded the corpus.

    Raises:
        WrongEncoderError: The encoder is another one.
    """

    def __init__(self, index: Index, encoder: Encoder) -> None:
        index.manifest.require_encoder(encoder.identity)
        self.index, self.encoder = index, encoder

    @classmethod
    def open(
        cls,
        index: str | Path,
        *,
        model: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
    ) -> "Searcher":
        """Open an index directory, with its model from `model` or from where it was at build time.

        `compile` is for processes that live long: see `Encoder`.

        Raises:
            IndexDamagedError: There is no whole index.
            WrongEncoderError: `model` is not the one that made it.
            MissingModelError: The model is no longer where it was.
            UnknownModelError: `model` is no trained model.
        """
        opened = Index.open(Path(index))
        if model is None:
            model = opened.manifest.checkpoint
            # A name is not a place: where it leads, the manifest's checksum tells.
            if Path(model).is_absolute() and not Path(model).is_dir():
                raise MissingModelError(
                    f"the model of {index} is no longer at {model}: say with -m where it is"
                )
        return cls(opened, Encoder.open(model, device=device, dtype=dtype, compile=compile))

    def query(self, image: ImageLike, *, budget: str | Submodel | None = None, k: int = 10) -> Hits:
        """The k corpus images nearest to one image, encoded within the budget; None is the full encoder.

        Raises:
            BudgetError: No submodel fits the budget.
            UnreadableImageError: The image cannot be read.
        """
        return self.query_batch([image], budget=budget, k=k)[0]

    def query_batch(
        self, images: Sequence[ImageLike], *, budget: str | Submodel | None = None, k: int = 10
    ) -> list[Hits]:
        """As `query`, for several images in one pass; one `Hits` each, in order."""
        submodel = self.encoder.submodel(budget)
        tensors = torch.stack([self._preprocess(image) for image in images])
        scores, ids = self.index.search(self.encoder.embed(tensors, submodel), k)
        return [
            Hits(
                submodel,
                self.encoder.cost(submodel),
                tuple(map(self._hit, ids_k.tolist(), scores_k.tolist())),
            )
            for scores_k, ids_k in zip(scores, ids, strict=True)
        ]

    def _hit(self, row: int, score: float) -> Hit:
        index = self.index
        return Hit(index.keys[row], score, index.labels[row], index.paths[row])

    def _preprocess(self, image: ImageLike) -> torch.Tensor:
        try:
            return self.encoder.preprocess(image)
        except UnreadableImageError as error:
            if isinstance(image, bytes | Image.Image):
                raise
            raise UnreadableImageError(f"{image}: {error}") from error
