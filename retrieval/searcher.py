"""Search an index by image, at a budget."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from indexes import Entry, Index, IndexReplacedError, Store, UnknownKeyError
from matvit.errors import BudgetError
from matvit.progress import Progress, silent
from matvit.submodels.submodel import Submodel
from retrieval.encoding.encoder import NO_EMBEDDING, Encoder, are_units
from retrieval.encoding.preprocess import ImageLike, Preprocess
from retrieval.errors import UnreadableImageError
from retrieval.hits import Hit, Hits
from retrieval.remembered_model import model_of

_Budget = TypeVar("_Budget")
_Answer = TypeVar("_Answer")
_REPLACEMENTS = 100
"""So often a search begins again because the index was replaced meanwhile."""


@dataclass(frozen=True)
class _Limits:
    """What a query asks for: see `Searcher.query`."""

    k: int
    where: str | None
    threshold: float
    unique: bool


class _State:
    """A corpus as it was opened, with the encoder that reads images as it does: they never change.

    A query takes one of these and answers from it alone, whatever other threads do meanwhile.

    Raises:
        WrongEncoderError: The encoder is another than the one that made the index.
    """

    def __init__(self, store: Store, encoder: Encoder) -> None:
        self.given = encoder
        self.encoder = encoder.reading_as(store.manifest.encoder.preprocess)
        store.manifest.require_encoder(self.encoder.identity)
        curve = store.manifest.curve
        if curve is not None and curve["refits"] == encoder.refits:  # Else it is of other submodels.
            self.encoder = self.encoder.on_curve(curve["cosines"])
        store.use(str(encoder.device))
        self.store = store

    def meaning(self, budget: _Budget) -> _Budget | str:
        if budget != "auto":
            return budget
        calibration, location = self.store.manifest.calibration, self.store.location
        command = f"matvit calibrate QUERIES -i {location}"
        if calibration is None:
            raise BudgetError(f"{location} has no budget auto yet: find one with `{command}`")
        if calibration.get("refits") != self.encoder.refits:
            raise BudgetError(
                f"the budget auto of {location} was found for other submodels of the same full "
                f"encoder: find theirs with `{command} -m {self.encoder.location}`"
            )
        return str(calibration["submodel"])

    def submodel(self, budget: str | Submodel | None, *, force: bool = False) -> Submodel:
        submodel = self.encoder.submodel(self.meaning(budget))
        if force or not isinstance(budget, str) or budget == "auto":
            return submodel
        if doubt := self.encoder.space.doubt(submodel):
            command = f"matvit elasticize IMAGES -m {shlex.quote(self.encoder.location)} -o OUT"
            raise BudgetError(f"{doubt}: run `{command}` and query with -m OUT, or force it")
        return submodel

    def search(self, vectors: NDArray[np.floating], limits: _Limits) -> list[Hits]:
        units_QD, depth = _unit(vectors), limits.k
        while True:
            found = self.store.search(units_QD, depth, limits.where)
            # Rounding may add to the cosine of what is the same.
            cosines_QK = found.scores.clip(-1, 1).tolist()
            hits = [list(map(_hit, *each)) for each in zip(found.entries, cosines_QK, strict=True)]
            if limits.unique:
                hits = [self._once(some) for some in hits]
                fewest = min((len(some) for some in hits), default=depth)
                if fewest < limits.k and found.scores.shape[1] == depth:  # else there are no more
                    depth *= 2
                    continue
            chosen = ([hit for hit in some[: limits.k] if hit.score >= limits.threshold] for some in hits)
            return [Hits(None, None, found.searched, tuple(some)) for some in chosen]

    def like(self, key: str, limits: _Limits) -> Hits:
        [found] = self.search(self.store.vectors_of([key]), replace(limits, k=limits.k + 1))
        names = self._originals if limits.unique else {}
        others = (hit for hit in found if names.get(hit.key, hit.key) != names.get(key, key))
        return replace(found, hits=tuple(others)[: limits.k])

    def _once(self, hits: list[Hit]) -> list[Hit]:
        """The first of those that are the very same image."""
        return list({self._originals.get(hit.key, hit.key): hit for hit in reversed(hits)}.values())[::-1]

    @cached_property
    def _originals(self) -> dict[str, str]:
        """Key of a copy -> key of the first image with the same bytes."""
        entries = self.store.entries(["key", "duplicate_of"])
        if "duplicate_of" not in entries.column_names:
            return {}
        copies = entries.filter(entries["duplicate_of"].is_valid())
        return dict(zip(copies["key"].to_pylist(), copies["duplicate_of"].to_pylist(), strict=True))


class Searcher:
    """A corpus and the encoder that made its vectors, ready for queries, of any number of threads.

    A corpus that is replaced is opened anew where a query needs what is no longer there, or asks for a key
    that was not.

    Args:
        index: Where the corpus lives, opened.
        encoder: The encoder whose full model embedded the corpus.

    Raises:
        WrongEncoderError: The encoder is another one.
    """

    def __init__(self, index: Store, encoder: Encoder) -> None:
        self._state = _State(index, encoder)
        self._reopening = Lock()

    @property
    def index(self) -> Store:
        """What is searched now."""
        return self._state.store

    @property
    def encoder(self) -> Encoder:
        """What embeds queries."""
        return self._state.encoder

    @classmethod
    def open(
        cls,
        index: str | Path,
        *,
        model: str | Path | None = None,
        device: str = "auto",
        dtype: str = "auto",
        engine: str = "eager",
        progress: Progress = silent,
    ) -> "Searcher":
        """Open an index directory, with its model from `model` or from where it was at build time.

        `engine` runs the model, and `progress` is told of what must be fetched or measured: see `Encoder`.

        Raises:
            IndexDamagedError: There is no whole index.
            WrongEncoderError: `model` is not the one that made it.
            MissingModelError: The model is no longer where it was, or would have to be downloaded unasked.
            UnknownModelError: `model` is no trained model.
            EngineError: No engine of this name serves queries.
        """
        opened = Index.open(Path(index))
        encoder = Encoder.open(
            model or model_of(opened), device=device, dtype=dtype, engine=engine, progress=progress
        )
        return cls(opened, encoder)

    def meaning(self, budget: _Budget) -> _Budget | str:
        """What a budget stands for here: `auto` is what was calibrated for this index, others are themselves.

        Raises:
            BudgetError: Nothing was calibrated, or the submodels of another elastic encoder were.
        """
        return self._state.meaning(budget)

    def submodel(self, budget: str | Submodel | None, *, force: bool = False) -> Submodel:
        """The submodel that answers within a budget: see `query`; raises as it does.

        Args:
            budget: See `query`, which takes a submodel as it is.
            force: Also where nobody trained, refitted or measured its narrower layers.
        """
        return self._state.submodel(budget, force=force)

    def query(
        self,
        image: ImageLike,
        *,
        budget: str | Submodel | None = None,
        k: int = 10,
        where: str | None = None,
        threshold: float = -1.0,
        unique: bool = False,
    ) -> Hits:
        """The corpus images nearest to one image.

        Args:
            image: See `retrieval.encoding.preprocess.ImageLike`.
            budget: What encoding it may cost; None is the full encoder, `auto` what was calibrated. One that
                is refused because nobody trained it may be given as `searcher.submodel("M", force=True)`.
            k: How many to find, at most.
            where: Which rows to search among, as `indexes.filters.syntax` tells; None is all.
            threshold: Cosine that a result must reach.
            unique: Of images that are the very same bytes, find only the first.

        Raises:
            BudgetError: No submodel fits the budget, or nothing is to be expected of the one that does.
            UnreadableImageError: The image cannot be read.
            FilterError: The condition cannot be understood.
        """
        [hits] = self.query_batch(
            [image], budget=budget, k=k, where=where, threshold=threshold, unique=unique
        )
        return hits

    def query_batch(
        self,
        images: Sequence[ImageLike],
        *,
        budget: str | Submodel | None = None,
        k: int = 10,
        where: str | None = None,
        threshold: float = -1.0,
        unique: bool = False,
    ) -> list[Hits]:
        """As `query`, for several images in one pass; one `Hits` each, in order."""
        if len(images) == 0:  # Of an array, which has no truth.
            return []
        state = self._state
        encoder = state.encoder
        submodel = state.submodel(budget)
        preprocess = encoder.preprocess_for(submodel)
        tensors = torch.stack([_preprocessed(image, preprocess) for image in images])
        vectors = encoder.embed(tensors, submodel)
        for image, is_unit in zip(images, are_units(vectors), strict=True):
            if not is_unit:
                raise _unreadable(image, NO_EMBEDDING)
        found = self.query_vectors(vectors, k=k, where=where, threshold=threshold, unique=unique)
        cost = encoder.cost(submodel)
        return [replace(hits, submodel=submodel, cost=cost) for hits in found]

    def query_key(
        self,
        key: str,
        *,
        k: int = 10,
        where: str | None = None,
        threshold: float = -1.0,
        unique: bool = False,
    ) -> Hits:
        """The corpus images nearest to another of the corpus, which needs no encoding.

        Raises:
            UnknownKeyError: No row has this key.
            FilterError: The condition cannot be understood.
        """
        return self._answered(lambda state: state.like(key, _Limits(k, where, threshold, unique)))

    def query_vectors(
        self,
        vectors: NDArray[np.floating],
        *,
        k: int = 10,
        where: str | None = None,
        threshold: float = -1.0,
        unique: bool = False,
    ) -> list[Hits]:
        """As `query`, for embeddings (Q, D) that are there already; they are normalised here.

        Raises:
            ValueError: A vector is zero, not finite, or of the wrong length.
            FilterError: The condition cannot be understood.
        """
        return self._answered(lambda state: state.search(vectors, _Limits(k, where, threshold, unique)))

    def hit(self, key: str, score: float = 1.0) -> Hit:
        """The image with a key, as found by itself, or with another score.

        Raises:
            UnknownKeyError: No row has this key.
        """
        return self._answered(lambda state: _hit(state.store.fetch([key])[0], score))

    def _answered(self, answer: Callable[[_State], _Answer]) -> _Answer:
        """What one state of the index answers: a later one, where files of the present one are gone."""
        for _ in range(_REPLACEMENTS):
            state = self._state
            try:
                return answer(state)
            except UnknownKeyError:
                if state.store.is_current():
                    raise
            except IndexReplacedError:
                pass
            with self._reopening:
                if self._state is state:  # Else another thread has opened it.
                    self._state = _State(state.store.reopened(), state.given)
        return answer(self._state)


def _hit(entry: Entry, score: float) -> Hit:
    return Hit(entry.key, score, entry.label, entry.path)


def _preprocessed(image: ImageLike, preprocess: Preprocess) -> torch.Tensor:
    try:
        return preprocess(image)
    except UnreadableImageError as error:
        raise _unreadable(image, str(error)) from error


def _unreadable(image: ImageLike, reason: str) -> UnreadableImageError:
    return UnreadableImageError(f"{image}: {reason}" if isinstance(image, str | Path) else reason)


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    with np.errstate(all="ignore"):
        exact = np.asarray(vectors, np.float64)
        exact = exact / np.abs(exact).max(axis=-1, keepdims=True, initial=0)  # or squares might overflow
        units = exact / np.linalg.norm(exact, axis=-1, keepdims=True)
    if not np.isfinite(units).all():
        raise ValueError("a vector is zero or not finite")
    return units.astype(np.float32)
