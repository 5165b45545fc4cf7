"""How a figure grows with the number of labels: a power law with its uncertainty, fitted to a few measured points.

The error, one less the figure, is ``floor + (start - floor) * (n / smallest n) ** -slope``. Cortes et al. 1993
(Learning curves: asymptotic values and rate of convergence) and Figueroa et al. 2012 (BMC Med Inform Decis Mak 12:8)
fit such laws to predict how much more data helps. Few points do not determine three parameters, so the band is what
matters: all laws on a grid are weighted by how well they fit, and the band holds the central 95 % of their weight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medssl_monai.errors import InputError

LEVEL = 0.95
LEAST_POINTS = 3
FURTHEST = 10.0
"""No law is believed beyond so many times the greatest number of labels that was measured."""

_STARTS, _FLOORS, _SLOPES = 31, 31, 31
_SLOPE_LIMITS = (0.05, 2.0)
_LEAST_SPREAD = 0.005  # of a seed's figure, so that three equal seeds do not make a law certain

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Band:
    """A value with the ends of its band; `high` or `value` may be infinite."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class LearningCurve:
    """Power laws with weights.

    Attributes:
        counts: numbers of labels that were measured, ascending.
        starts: (L,) errors of the laws at the smallest number.
        floors: (L,) errors that they approach.
        slopes: (L,) exponents, above 0.
        weights: (L,) sum 1.
        spread: of one seed's figure about the mean of many.
        freedom: degrees of freedom of `spread`.
    """

    counts: tuple[float, ...]
    starts: Floats
    floors: Floats
    slopes: Floats
    weights: Floats
    spread: float
    freedom: int

    def at(self, count: float, seeds: int | None = None) -> Band:
        """The figure with so many labels.

        Args:
            count: of labels, at most `FURTHEST` times the greatest that was measured.
            seeds: the band of a mean over so many further trainings; None that of the law.

        Raises:
            InputError: the count lies outside.
        """
        limits = self.counts[0], FURTHEST * self.counts[-1]
        if not limits[0] <= count <= limits[1]:
            raise InputError(
                f"count: a learning curve is known from {limits[0]:g} to {limits[1]:g} labels, found {count:g}; ask "
                "within these, or measure more"
            )
        values = 1 - self._errors(count)
        order = np.argsort(values)
        middle, low, high = _quantiles(values[order], self.weights[order])
        if seeds is not None:
            margin = float(stats.t.ppf((1 + LEVEL) / 2, self.freedom)) * self.spread / np.sqrt(seeds)
            low, high = middle - np.hypot(middle - low, margin), middle + np.hypot(high - middle, margin)
        return Band(float(middle), float(max(low, 0)), float(min(high, 1)))

    def needed(self, figure: float) -> Band:
        """How many labels reach a figure; infinite where a law does not, or not within `FURTHEST` times the measured.

        Args:
            figure: wanted, in (0, 1).

        Raises:
            InputError: the figure is not in (0, 1).
        """
        if not 0 < figure < 1:
            raise InputError(f"wanted: must lie between 0 and 1, found {figure}; give for instance 0.9")
        error = 1 - figure
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = (self.starts - self.floors) / (error - self.floors)
            counts = self.counts[0] * ratio ** (1 / self.slopes)
        counts = np.where(error >= self.starts, self.counts[0], counts)
        counts = np.where((error <= self.floors) & (error < self.starts), np.inf, counts)
        counts = np.where(counts > FURTHEST * self.counts[-1], np.inf, counts)
        order = np.argsort(counts)
        return Band(*(float(each) for each in _quantiles(counts[order], self.weights[order])))

    def _errors(self, count: float) -> Floats:
        return self.floors + (self.starts - self.floors) * (count / self.counts[0]) ** -self.slopes


def learning_curve(counts: Sequence[float], figures: Sequence[Sequence[float]]) -> LearningCurve:
    """Fit power laws.

    The likelihood of a law is a Student t of each mean's distance, in standard errors: the spread of seeds is pooled
    over the counts. Before the data all starts, all shares of the start that remain, and all magnitudes of the slope
    from 0.05 to 2 are equally likely.

    Args:
        counts: of labels, at least 3 different ones.
        figures: of each count, the figures in [0, 1] of two or more seeds; higher is better.

    Raises:
        InputError: there are fewer counts, or seeds.

    Example:
        >>> curve = learning_curve([10, 20, 40], [[0.60, 0.62], [0.69, 0.71], [0.75, 0.77]])
        >>> band = curve.at(80)
        >>> band.low < 0.80 < band.high
        True
    """
    if len(set(counts)) < LEAST_POINTS or len(set(counts)) != len(counts):
        raise InputError(
            f"learning curve: needs at least {LEAST_POINTS} different numbers of labels, found "
            f"{', '.join(f'{one:g}' for one in counts)}; give the study more shares"
        )
    if min(map(len, figures)) < 2:
        raise InputError("learning curve: needs two or more seeds for each number of labels; give the study more seeds")
    order = np.argsort(counts)
    sizes = np.array([float(counts[i]) for i in order])
    groups = [np.array(figures[i], float) for i in order]
    means = 1 - np.array([group.mean() for group in groups])
    freedom = sum(len(group) - 1 for group in groups)
    pooled = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / freedom
    # Half a count's own: fewer labels spread more, and a few seeds say little of how much.
    spreads = np.sqrt([max((pooled + float(group.var(ddof=1))) / 2, _LEAST_SPREAD**2) for group in groups])
    standard = spreads / np.sqrt([len(group) for group in groups])
    reach = 5 * max(standard[0], 0.01)
    start = np.linspace(max(means[0] - reach, 1e-4), min(means[0] + reach, 1.0), _STARTS)
    share = np.linspace(0, 1, _FLOORS)
    slope = np.geomspace(*_SLOPE_LIMITS, _SLOPES)
    starts, shares, slopes = (each.ravel() for each in np.meshgrid(start, share, slope, indexing="ij"))
    floors = starts * shares
    laws = floors[:, None] + (starts - floors)[:, None] * (sizes / sizes[0])[None, :] ** -slopes[:, None]
    # Student's t without its constant, which is the same for all laws.
    fit = -(freedom + 1) / 2 * np.log1p(((means - laws) / standard) ** 2 / freedom).sum(axis=1)
    weights = np.exp(fit - fit.max())
    kept = weights > 1e-9
    weights = weights[kept] / weights[kept].sum()
    return LearningCurve(
        tuple(sizes.tolist()), starts[kept], floors[kept], slopes[kept], weights, float(spreads[-1]), freedom
    )


def _quantiles(ordered: Floats, weights: Floats) -> tuple[float, float, float]:
    """The median and the ends of the central part, of values in ascending order."""
    cumulated = np.cumsum(weights)
    places = (0.5, (1 - LEVEL) / 2, (1 + LEVEL) / 2)
    found = [ordered[min(int(np.searchsorted(cumulated, place)), len(ordered) - 1)] for place in places]
    return float(found[0]), float(found[1]), float(found[2])
