"""Shares with their uncertainty."""

from dataclasses import dataclass
from math import sqrt

_Z = 1.959963984540054  # The 97.5 % quantile of the normal distribution.


@dataclass(frozen=True)
class Share:
    """So many out of so many.

    Attributes:
        count: How many had the property.
        total: Out of how many, at least 1.
    """

    count: int
    total: int

    @property
    def value(self) -> float:
        """The share itself, 0 to 1."""
        return self.count / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % score interval (E. B. Wilson, 1927), which stays within 0 and 1."""
        n, p = self.total, self.value
        centre = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
        half = _Z / (1 + _Z**2 / n) * sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
        # At 0 and n of n the bound is exact; rounding must not push it past the share.
        return (0.0 if self.count == 0 else centre - half), (1.0 if self.count == n else centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.2f} ({100 * low:.2f}-{100 * high:.2f})"
