"""Fewer hidden units that speak for all of them: which to keep, and how to read them, in closed form.

An FFN answers ``y = W h + b``, with h its hidden units after activation and gate. A submodel keeps the units
K and answers ``V h_K + c``. To choose K, V and c takes no more than the moments of h over some images: no
gradients, no labels, and no more memory for many images than for few.

*Order.* Units are taken one by one, each time the one that brings a linear reader of all units taken closest
to ``W h``. With C the covariance of h and R what remains of it once the units taken are accounted for,
``R = C - C_:K C_KK^-1 C_K:``, unit j takes ``|W R_:j|^2 / R_jj`` from the squared error. The columns of R
come from a pivoted Cholesky decomposition (Higham, *Accuracy and Stability of Numerical Algorithms*, section
10.3) whose pivot is the largest gain, not the largest ``R_jj``: orthogonal least squares, on moments (Chen,
Billings and Luo, *Orthogonal least squares methods and their application to non-linear system
identification*, 1989). The prefixes of one order serve every width.

*Refit.* A plain slice would keep ``V = W_K``. Ridge regression corrects it, on units of equal variance::

    V = W_K + D,   D, c = argmin E|W h + b - (W_K + D) h_K - c|^2 + r sum_j var(h_j) |D_:j|^2

so that too little data, or a large ridge r, ends at the slice and not at nonsense; c takes up the means. r is
the one that does best on images held out; the final fit uses all images. Channel pruning calls this
reconstruction (He, Zhang and Sun, arXiv 1707.06168).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from matvit.errors import RefitError

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Those tried, as shares of each unit's variance."""
_ROUNDING = 1e-12
"""What float64 may leave of a mean square where nothing should be left."""


class Moments:
    """Count, sum and sum of products of the entries of vectors that come batch by batch, in float64.

    Attributes:
        count: Vectors.
        total: Their sum, (P,).
        products: Sum of their products, (P, P).

    Args:
        size: P, entries of a vector.
        device: Where they are summed up; it must know float64.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu") -> None:
        self.count = 0
        self.total = torch.zeros(size, dtype=torch.float64, device=device)
        self.products = torch.zeros(size, size, dtype=torch.float64, device=device)

    def add(self, x_NP: Tensor) -> None:
        """Take some vectors.

        Raises:
            RefitError: One of them is not finite.
        """
        x_NP = x_NP.to(self.total.device).double()
        total_P = x_NP.sum(0)
        if not total_P.isfinite().all():
            raise RefitError("activations are not finite")
        self.count += len(x_NP)
        self.total += total_P
        self.products.addmm_(x_NP.T, x_NP)

    def __add__(self, other: "Moments") -> "Moments":
        return _moments(self.count + other.count, self.total + other.total, self.products + other.products)

    @property
    def mean(self) -> Tensor:
        """Of the vectors, (P,); zero where there are none."""
        return self.total / max(self.count, 1)

    def about(self, point_P: Tensor) -> Tensor:
        """Mean products of the differences to a point, (P, P): about the mean, the covariance.

        Entries that never differ from it by more than rounding are zero.
        """
        mean_P, squares_PP = self.mean, self.products / max(self.count, 1)
        spread_PP = squares_PP - mean_P.outer(mean_P) + (mean_P - point_P).outer(mean_P - point_P)
        moves_P = spread_PP.diagonal() > _ROUNDING * squares_PP.diagonal()
        return spread_PP * moves_P.outer(moves_P)

    def of(self, entries: Tensor) -> "Moments":
        """Moments of some entries, in the order given."""
        return _moments(self.count, self.total[entries], self.products[entries][:, entries])

    def with_image(self, matrix_DP: Tensor) -> "Moments":
        """Moments of the vectors, each with its image under a matrix behind it: P + D entries."""
        matrix_DP = matrix_DP.to(self.products)
        crossed_DP = matrix_DP @ self.products
        above = torch.cat([self.products, crossed_DP.T], dim=1)
        below = torch.cat([crossed_DP, crossed_DP @ matrix_DP.T], dim=1)
        total = torch.cat([self.total, matrix_DP @ self.total])
        return _moments(self.count, total, torch.cat([above, below]))


def order(covariance_HH: Tensor, output_DH: Tensor, count: int) -> Tensor:
    """The units to keep, best first, (count,): every prefix is a subset to be refitted.

    Units that add nothing to those before them, such as constant ones, come last, by number.

    Args:
        covariance_HH: Of the hidden units, in float64; second moments where no bias can take up means.
        output_DH: The output projection W.
        count: How many.
    """
    units = len(covariance_HH)
    crossed_HD = covariance_HH @ output_DH.to(covariance_HH).T
    gains_H = crossed_HD.square().sum(1)
    left_H = covariance_HH.diagonal().clone()
    floor_H = _ROUNDING * left_H
    # R = C - L^T L and R W^T = C W^T - L^T U are never written out: a step reads C W^T and L once.
    L_KH, U_KD = (covariance_HH.new_empty(count, size) for size in (units, len(output_DH)))
    taken: list[int] = []
    for step in range(count):
        scores_H = torch.where(left_H > floor_H, gains_H / left_H, 0.0)
        best = int(scores_H.argmax())
        if scores_H[best] <= 0:
            break
        before_KH, before_KD, pivot = L_KH[:step], U_KD[:step], left_H[best].sqrt()
        U_KD[step] = (crossed_HD[best] - before_KH[:, best] @ before_KD) / pivot
        told_D = U_KD[step]
        both_2H = torch.stack([before_KH[:, best], before_KD @ told_D]) @ before_KH
        L_KH[step] = (covariance_HH[best] - both_2H[0]) / pivot
        column_H = L_KH[step]
        gains_H += column_H.square() * told_D.square().sum() - 2 * column_H * (
            crossed_HD @ told_D - both_2H[1]
        )
        left_H -= column_H.square()
        left_H[best] = 0  # Taken, whatever rounding says.
        taken.append(best)
    rest = sorted(set(range(units)) - set(taken))
    return torch.tensor((taken + rest)[:count], device=covariance_HH.device)


@dataclass(frozen=True)
class Refit:
    """How to read the units kept.

    Attributes:
        weight: V, the output projection (D, W), in float64.
        shift: ``c - b``, what its bias gains (D,); zero where there is none.
        ridge: The one chosen; infinite where no correction of the slice did better than none.
        unexplained: Squared error on images held out, as a share of that of the slice. The slice's mean is
            put right too, where there is a bias.
    """

    weight: Tensor
    shift: Tensor
    ridge: float
    unexplained: float


def refit(
    fit: Moments, held_out: Moments, sliced_DW: Tensor, *, bias: bool = True, ridges: Sequence[float] = RIDGES
) -> Refit:
    """The output projection of the units kept that comes closest to the full layer's output.

    Args:
        fit: Moments of the W units kept, followed by the D outputs of the full layer without its bias.
        held_out: The same of other images, to choose the ridge.
        sliced_DW: The columns of the full output projection for the units kept.
        bias: Whether the output has a bias, to take up means.
        ridges: To choose from.
    """
    sliced_DW = sliced_DW.to(fit.products)
    seen, others = (_problem(moments, fit, sliced_DW, bias=bias) for moments in (fit, held_out))
    of_slice = least = others.error(torch.zeros_like(sliced_DW.T))
    chosen = inf
    for ridge in ridges:
        if (error := others.error(seen.solved(ridge))) < least:
            chosen, least = ridge, error
    both, weight_DW = fit + held_out, sliced_DW
    if chosen < inf:
        weight_DW = sliced_DW + _problem(both, both, sliced_DW, bias=bias).solved(chosen).T
    units = sliced_DW.shape[1]
    mean_W, mean_D = both.mean[:units], both.mean[units:]
    shift_D = mean_D - weight_DW @ mean_W if bias else torch.zeros_like(mean_D)
    return Refit(weight_DW, shift_D, chosen, least / of_slice if chosen < inf else 1.0)


@dataclass(frozen=True)
class _LeastSquares:
    """What the slice leaves unsaid in D outputs, to be said by the W units kept.

    Attributes:
        units: Mean products of the units (W, W).
        crossed: Of the units with what is unsaid (W, D).
        unsaid: Mean squares of that (D,).
    """

    units: Tensor
    crossed: Tensor
    unsaid: Tensor

    def solved(self, ridge: float) -> Tensor:
        """The correction, (W, D); NaN where rounding spoils the problem for so small a ridge."""
        deviation_W = self.units.diagonal().clamp_min(0).sqrt()
        deviation_W = torch.where(deviation_W > 0, deviation_W, 1.0)  # A constant unit gets no correction.
        correlation_WW = self.units / deviation_W.outer(deviation_W)
        correlation_WW.diagonal().add_(ridge)
        factor_WW, failed = torch.linalg.cholesky_ex(correlation_WW)
        if failed:
            return torch.full_like(self.crossed, torch.nan)
        return torch.cholesky_solve(self.crossed / deviation_W[:, None], factor_WW) / deviation_W[:, None]

    def error(self, correction_WD: Tensor) -> float:
        """Mean squared error of all outputs with a correction; NaN with one of NaN."""
        gains_WD = correction_WD * (2 * self.crossed - self.units @ correction_WD)
        return float(self.unsaid.sum() - gains_WD.sum())


def _problem(moments: Moments, centre: Moments, sliced_DW: Tensor, *, bias: bool) -> _LeastSquares:
    """The problem on some images, about the means of those in `centre` where there is a bias."""
    point_P = centre.mean if bias else torch.zeros_like(centre.mean)
    spread_PP, units = moments.about(point_P), sliced_DW.shape[1]
    units_WW, crossed_WD = spread_PP[:units, :units], spread_PP[:units, units:]
    said_WD = units_WW @ sliced_DW.T
    unsaid_D = spread_PP[units:, units:].diagonal() + (sliced_DW.T * (said_WD - 2 * crossed_WD)).sum(0)
    return _LeastSquares(units_WW, crossed_WD - said_WD, unsaid_D)


def _moments(count: int, total_P: Tensor, products: Tensor) -> Moments:
    new = Moments(0)
    new.count, new.total, new.products = count, total_P, products
    return new
