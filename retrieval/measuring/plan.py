"""Plans: what every budget of a model costs, and how long it takes here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

import matvit
from indexes.disk.manifest import read_manifest
from matvit.progress import Progress, silent
from matvit.runtime.device import pick_device, pick_dtype
from matvit.runtime.latency import measure as measure_times
from matvit.submodels.budget import is_time, resolve
from matvit.submodels.cost import CostModel
from matvit.submodels.profile import Profile
from matvit.submodels.submodel import Submodel
from matvit.vision.embedding import embed_only
from retrieval.remembered_model import curve_of
from retrieval.showing.csv_table import write_csv


@dataclass(frozen=True)
class Plan:
    """Submodels of one model, cheapest first.

    Attributes:
        model: What the model is called.
        submodels: The whole curve, or the one for a budget.
        full: The full encoder.
        cost: What a submodel costs.
        profile: How long they take here, where that was measured.
        cosines: Of those that were measured on images, to the full encoder.
    """

    model: str
    submodels: tuple[Submodel, ...]
    full: Submodel
    cost: CostModel
    profile: Profile | None
    cosines: Mapping[Submodel, float] = field(default_factory=dict)

    def to_dicts(self) -> list[dict[str, Any]]:
        """A submodel a row, in plain values."""
        return [self._row(submodel) for submodel in self.submodels]

    def _row(self, submodel: Submodel) -> dict[str, Any]:
        cost = self.cost(submodel)
        row: dict[str, Any] = {
            "submodel": str(submodel),
            "widths": submodel.widths,
            "gmacs": cost.gmacs,
            "gflops": cost.gflops,
            "mparams": cost.mparams,
            "share_of_xl": cost.macs / self.cost(self.full).macs,
        }
        if self.cosines:
            row["cosine"] = self.cosines.get(submodel)
        if self.profile:
            point, full_ms = self.profile.point(submodel), self.profile(self.full)
            row |= {"ms": point.ms, "ms_share_of_xl": point.ms / full_ms, "measured": point.measured}
            timing = point.timing
            row |= {name: getattr(timing, name, None) for name in ("iqr_ms", "other_work", "at")}
        return row

    def save_table(self, path: Path) -> None:
        """Write the rows as a CSV file."""
        spelled = (str(Submodel(submodel.widths)) for submodel in self.submodels)
        rows: list[Mapping[str, Any]] = [
            {**row, "widths": widths} for row, widths in zip(self.to_dicts(), spelled, strict=True)
        ]
        write_csv(path, rows)

    def save_figure(self, path: Path) -> None:
        """Draw time against compute into a .png, .pdf or .svg file.

        Raises:
            ValueError: Times were not measured.
        """
        from retrieval.showing.figures import plot_latency  # Here, for it loads matplotlib.

        if self.profile is None:
            raise ValueError("a plan without times has no figure: measure them")
        plot_latency(path, self.profile, title=Path(self.model).name)


def plan(
    model: str | Path,
    *,
    budget: str | None = None,
    index: str | Path | None = None,
    mixnmatch: bool = False,
    measure: bool = False,
    batch_size: int = 1,
    every_point: bool = False,
    refresh: bool = False,
    threads: int | None = None,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress = silent,
) -> Plan:
    """What a model's submodels cost, and how long they take here, for which alone it is run.

    Args:
        model: What `matvit.load` takes.
        budget: Plan only the submodel for this; None is the whole curve.
        index: Whose curve budgets choose from, where one was measured for it.
        mixnmatch: Also plan the Mix'n'Match curve, where the curve is another.
        measure: Also measure times; a budget in milliseconds does this too.
        batch_size: Images a call.
        every_point: Measure every submodel, interpolate none.
        refresh: Measure again what was measured before.
        threads: Of torch on a CPU; None leaves them as they are.
        device: Where to measure.
        dtype: In which number format.
        progress: Told of downloads and of what is measured.

    Raises:
        UnknownModelError: There is no such model.
        CheckpointError: It is damaged, or cannot be downloaded.
        BudgetError: No submodel fits the budget.
        WrongEncoderError: The index was made by a model of another architecture.
        SubmodelError: What the index says is no curve of this model.
        IndexDamagedError: There is no whole index.
        DeviceError: The device or number format is not to be had here.
    """
    has_curve = index is not None and read_manifest(Path(index)).curve is not None
    # Weights tell whose submodels the curve is of.
    encoder = matvit.load(model, weights=has_curve, progress=progress)
    embed_only(encoder)
    if index is not None:
        encoder.measured = curve_of(index, encoder) or encoder.measured
    space, cost = encoder.space, encoder.cost

    @cache
    def times(*also: Submodel) -> Profile:
        if threads:
            torch.set_num_threads(threads)
        where = pick_device(device)
        number_format = pick_dtype(dtype, where)
        return measure_times(
            encoder,
            device=where,
            dtype=number_format,
            batch_size=batch_size,
            between=None if every_point else 2,
            also=also,
            refresh=refresh,
            progress=progress,
        )

    chosen = space.curve if budget is None else (resolve(budget, space, cost, times),)
    if mixnmatch:
        both = dict.fromkeys((*chosen, *space.mixnmatch))
        chosen = tuple(sorted(both, key=lambda submodel: cost(submodel).macs))
    timed = measure or (budget is not None and is_time(budget))
    profile = times(*space.uncharted(chosen)) if timed else None
    return Plan(str(model), chosen, space.full, cost, profile, space.measured)
