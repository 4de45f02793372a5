"""What a query found, and what it cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matvit.submodels.cost import Cost
from matvit.submodels.submodel import Submodel
from retrieval.sources.all_sources import kind_holding


@dataclass(frozen=True)
class Hit:
    """One image that was found.

    Attributes:
        key: Its name in the corpus.
        score: Cosine between the query's embedding and its own, -1 to 1.
        label: Its class, where the corpus has one.
        path: The image file, or the shard or parquet file that holds it.
    """

    key: str
    score: float
    label: str | None
    path: str

    @property
    def file(self) -> Path | None:
        """The file that is this image; None where it lies with others in one."""
        kind = kind_holding(self.path)
        return None if kind.own_key(self.path, self.key) else Path(self.path)

    @property
    def location(self) -> str:
        """Where the image is, in a shard its member's stem, in a parquet file its key, too."""
        return kind_holding(self.path).image_location(self.path, self.key)


@dataclass(frozen=True)
class Hits(Sequence[Hit]):
    """What a query found, best first, and what it cost.

    Attributes:
        submodel: The submodel that encoded the query; None for a vector, which nothing encoded.
        cost: Of encoding it.
        searched: What was searched, for people.
        hits: The results.
    """

    submodel: Submodel | None
    cost: Cost | None
    searched: str
    hits: tuple[Hit, ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of encoding the query."""
        return self.cost.macs if self.cost else 0

    @property
    def gmacs(self) -> float:
        """The same in 1e9."""
        return self.macs / 1e9

    def to_dict(self) -> dict[str, Any]:
        """What was found, by which submodel and at what cost, in plain values."""
        return {
            "submodel": str(self.submodel) if self.submodel else None,
            "gmacs": self.gmacs,
            "searched": self.searched,
            "hits": [{"key": h.key, "score": h.score, "label": h.label, "path": h.path} for h in self.hits],
        }

    def __len__(self) -> int:
        return len(self.hits)

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # Sequence's overloads add nothing here
        return self.hits[i]

    def __iter__(self) -> Iterator[Hit]:
        return iter(self.hits)
