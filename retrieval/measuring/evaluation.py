"""What an evaluation found: a curve of adaptive retrieval, and what it was measured on."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matvit.files.atomic import write_text
from retrieval.measuring.curve import Curve
from retrieval.measuring.estimate import Share
from retrieval.searcher import Searcher
from retrieval.showing.csv_table import write_csv
from retrieval.sources.sample import Failure, Sample


@dataclass(frozen=True)
class Evaluation(Curve):
    """A curve of adaptive retrieval, and what it was measured on.

    Beside `retrieval.measuring.metrics`, points have `same_encoder_1nn`, accuracy against the corpus embedded
    by the submodel itself, where asked for; and `to_line`, where all granularities were measured: how far the
    point is above the line between those beside it. `queries` counts labelled queries that were encoded.

    Attributes:
        unlabelled: Queries left out because they have no label.
        alone: Queries left out because no image of the corpus, but themselves, has their label: whatever they
            find is wrong.
        failures: Queries that could not be read.
        left_out: Queries that are corpus images themselves, each searched without its own row.
        samples: The labelled queries.
        right: Whether the nearest row has the query's label, (points, samples).
        nearest: The position of that row, (points, samples).
        raw_pixels: 1-NN accuracy of raw pixels by distance, the floor that any encoder must beat, where it
            was measured.
        searcher: What was evaluated.
    """

    unlabelled: int
    alone: int
    failures: tuple[Failure, ...]
    left_out: int
    samples: tuple[Sample, ...] = field(repr=False)
    right: NDArray[np.bool_] = field(repr=False)
    nearest: NDArray[np.int64] = field(repr=False)
    raw_pixels: Mapping[str, Share]
    searcher: Searcher = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The curve and what it was measured on in plain values; accuracies are shares, 0 to 1."""
        return {
            "points": self.table(),
            "raw_pixels": {name: _plain(share) for name, share in self.raw_pixels.items()},
            "queries": self.queries,
            "unlabelled": self.unlabelled,
            "alone": self.alone,
            "failures": len(self.failures),
            "left_out": self.left_out,
        }

    def save(self, directory: str | Path, *, command: str = "") -> list[str]:
        """Write the curve as tables and pictures, and the command that measured it.

        Args:
            directory: Where to; made if missing.
            command: What was run.

        Returns:
            The names of what there is to look at.
        """
        # Here, for they load matplotlib.
        from retrieval.measuring.disagreements import disagreements
        from retrieval.showing.contact_sheet import contact_sheet
        from retrieval.showing.figures import plot_curve

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        write_csv(directory / "curve.csv", self.table())
        if self.raw_pixels:
            floors = [{"distance": name, **_plain(share)} for name, share in self.raw_pixels.items()]
            write_csv(directory / "raw_pixels.csv", floors)
        lines = [
            self.series("adaptive_1nn", "adaptive 1-NN"),
            self.series("same_encoder_1nn", "same encoder on both sides"),
        ]
        plot_curve(
            directory / "curve.png",
            [line for line in lines if line.values],
            full_gmacs=self.full.gmacs,
            floors={f"raw pixels, {name}": share.value for name, share in self.raw_pixels.items()},
        )
        self.plot_consistency(directory / "consistency.png")
        made = ["curve.csv", "curve.png", "consistency.png"]
        if rows := disagreements(self):
            contact_sheet(directory / "disagreements.png", rows, columns=5)
            made.append("disagreements.png")
        write_text(directory / "command.txt", command + "\n")
        return made


def _plain(share: Share) -> dict[str, float]:
    low, high = share.interval
    return {"accuracy": share.value, "low": low, "high": high, "queries": share.total}
