"""Search an index by image, at a budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from indexes import Index, IndexReplacedError
from matvit.atomic import restore
from matvit.cost import Cost
from matvit.errors import BudgetError
from matvit.submodel import Submodel
from retrieval.encoder import Encoder
from retrieval.errors import MissingModelError, UnreadableImageError
from retrieval.preprocess import ImageLike

Rows = NDArray[np.bool_]
_Budget = TypeVar("_Budget")


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

    @property
    def place(self) -> str:
        """Where the image is, in a shard its member's stem, too."""
        if not self.path.lower().endswith(".tar"):
            return self.path
        return f"{self.path}:{self.key.removeprefix(f'{Path(self.path).name}:')}"


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """What a query found, best first, and what it cost.

    Attributes:
        submodel: The submodel that encoded the query; None for a vector, which nothing encoded.
        cost: Of encoding it.
        how: What was searched: see `indexes.index.Found`.
        hits: The results.
    """

    submodel: Submodel | None
    cost: Cost | None
    how: str
    hits: tuple[Hit, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of encoding the query."""
        return self.cost.macs if self.cost else 0

    @property
    def gmacs(self) -> float:
        """The same in 1e9."""
        return self.macs / 1e9

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # Sequence's overloads add nothing here
        return self.hits[i]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)


def model_of(index: Index) -> str:
    """The model that made an index: its directory, or its name.

    Raises:
        MissingModelError: It is no longer where it was.
    """
    model = index.manifest.checkpoint
    restore(Path(model))
    # A name is not a place: where it leads, the manifest's checksum tells.
    if Path(model).is_absolute() and not Path(model).is_dir():
        raise MissingModelError(f"the model of {index.path} is no longer at {model}: say with -m where it is")
    return model


class Searcher:
    """An index and the encoder that made it, ready for queries.

    Args:
        index: An open index.
        encoder: The encoder whose full model embedded the corpus.

    Raises:
        WrongEncoderError: The encoder is another one.
    """

    def __init__(self, index: Index, encoder: Encoder) -> None:
        self.encoder = encoder
        self._take(index)

    def _take(self, index: Index) -> None:
        index.manifest.require_encoder(self.encoder.identity)
        index.use(str(self.encoder.device))
        self.index = index
        # The condition that was asked for last: streams of queries ask for the same one.
        self._where: tuple[str, Rows] | None = None

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
        encoder = Encoder.open(model or model_of(opened), device=device, dtype=dtype, compile=compile)
        return cls(opened, encoder)

    def meaning(self, budget: _Budget) -> _Budget | str:
        """What a budget stands for here: `auto` is what was calibrated for this index, others are themselves.

        Raises:
            BudgetError: Nothing was calibrated, or the submodels of another elastic encoder were.
        """
        if budget != "auto":
            return budget
        calibration = self.index.manifest.calibration
        options = f"--index {self.index.path} --calibrate QUERIES"
        if calibration is None:
            raise BudgetError(
                f"{self.index.path} has no budget auto yet: find one with `matvit plan {options}`"
            )
        if calibration.get("refits") != self.encoder.refits:
            raise BudgetError(
                f"the budget auto of {self.index.path} was found for other submodels of the same full "
                f"encoder: find theirs with `matvit plan {self.encoder.location} {options}`"
            )
        return str(calibration["submodel"])

    def query(
        self,
        image: ImageLike,
        *,
        budget: str | Submodel | None = None,
        k: int = 10,
        where: str | Rows | None = None,
        threshold: float = -1.0,
    ) -> Hits:
        """The corpus images nearest to one image.

        Args:
            image: An image file, its bytes, or an open image.
            budget: What encoding it may cost; None is the full encoder, `auto` what was calibrated.
            k: How many to find, at most.
            where: Rows to search among: a condition as `indexes.filters` understands it, or as
                `Index.matching` gives; None is all.
            threshold: Cosine that a result must reach.

        Raises:
            BudgetError: No submodel fits the budget.
            UnreadableImageError: The image cannot be read.
            FilterError: The condition cannot be understood.
        """
        return self.query_batch([image], budget=budget, k=k, where=where, threshold=threshold)[0]

    def query_batch(
        self,
        images: Sequence[ImageLike],
        *,
        budget: str | Submodel | None = None,
        k: int = 10,
        where: str | Rows | None = None,
        threshold: float = -1.0,
    ) -> list[Hits]:
        """As `query`, for several images in one pass; one `Hits` each, in order."""
        submodel = self.encoder.submodel(self.meaning(budget))
        tensors = torch.stack([self._preprocess(image) for image in images])
        vectors = self.encoder.embed(tensors, submodel)
        found = self.query_vectors(vectors, k=k, where=where, threshold=threshold)
        cost = self.encoder.cost(submodel)
        return [replace(hits, submodel=submodel, cost=cost) for hits in found]

    def query_key(
        self, key: str, *, k: int = 10, where: str | Rows | None = None, threshold: float = -1.0
    ) -> Hits:
        """The corpus images nearest to another of the corpus, which needs no encoding.

        Raises:
            UnknownKeyError: No row has this key.
            FilterError: The condition cannot be understood.
        """
        vector = self.index.vectors.take(np.flatnonzero(self.index.with_keys([key])))
        found = self.query_vectors(vector, k=k + 1, where=where, threshold=threshold)[0]
        others = tuple(hit for hit in found if hit.key != key)
        return replace(found, hits=others[:k])

    def query_vectors(
        self,
        vectors: NDArray[np.floating],
        *,
        k: int = 10,
        where: str | Rows | None = None,
        threshold: float = -1.0,
    ) -> list[Hits]:
        """As `query`, for embeddings (Q, D) that are there already; they are normalised here.

        Raises:
            ValueError: A vector is zero, not finite, or of the wrong length.
            FilterError: The condition cannot be understood.
            IndexReplacedError: The index was replaced since it was opened, and `where` are rows of the old
                one; otherwise, the new one is opened and searched.
        """
        units = _unit(vectors)
        try:
            found = self.index.search(units, k, self._rows(where))
        except IndexReplacedError:
            if where is not None and not isinstance(where, str):
                raise
            self._take(Index.open(self.index.path))
            found = self.index.search(units, k, self._rows(where))
        return [
            Hits(
                None,
                None,
                found.how,
                tuple(
                    self.hit(row, score)
                    for row, score in zip(rows_k.tolist(), scores_k.tolist(), strict=True)
                    if score >= threshold
                ),
            )
            for scores_k, rows_k in zip(found.scores, found.rows, strict=True)
        ]

    def _rows(self, where: str | Rows | None) -> Rows | None:
        if not isinstance(where, str):
            return where
        if self._where is None or self._where[0] != where:
            self._where = (where, self.index.matching(where))
        return self._where[1]

    def hit(self, row: int, score: float) -> Hit:
        """A row of the index, as found with a score."""
        index = self.index
        return Hit(index.keys[row], score, index.labels[row], index.paths[row])

    def _preprocess(self, image: ImageLike) -> torch.Tensor:
        try:
            return self.encoder.preprocess(image)
        except UnreadableImageError as error:
            if isinstance(image, bytes | Image.Image):
                raise
            raise UnreadableImageError(f"{image}: {error}") from error


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        exact = np.asarray(vectors, np.float64)
        exact = exact / np.abs(exact).max(axis=-1, keepdims=True, initial=0)  # or squares might overflow
        units = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    if not np.isfinite(units).all():
        raise ValueError("a vector is zero or not finite")
    return units.astype(np.float32)
