"""Which slice the second view of a slice shows: the same, a neighbour, or one of another series at the same place."""

import logging
import re
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medssl_monai.errors import ConfigError
from medssl_monai.processes import process_rank
from medssl_monai.store.depths import ROUNDING_MM, slice_depths
from medssl_monai.store.epochs import SampleKey
from medssl_monai.store.index_file import columns_of
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters, filter_expression
from medssl_monai.transforms.draws import below, sample_generator

Kind = Literal["same_slice", "neighbour", "other_series"]
_RULE = re.compile(r"same_slice|(?P<kind>neighbour|other_series)-(?P<distance>\d+(?:\.\d+)?)mm")
_COLUMNS = ("series_id", "patient", "study_day", "plane", "z_mm", "slice_spacing_mm")
_MEANT = {
    "neighbour": "slices of one series",
    "other_series": "axial slices of two series of one patient and study day",
}
_STREAM = 1
"""Of `sample_generator`: the choice of a partner leaves the draws of views as they are."""

Positions = NDArray[np.float64]
NOTHING = np.empty(0, np.int64)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PositiveRule:
    """Which slices may be partners.

    Attributes:
        kind: ``same_slice``, ``neighbour`` or ``other_series``.
        distance_mm: the largest distance of the two, mm; 0 for ``same_slice``.
    """

    kind: Kind
    distance_mm: float = 0.0

    def __str__(self) -> str:
        return self.kind if self.kind == "same_slice" else f"{self.kind}-{self.distance_mm:g}mm"


def positive_rule(text: object) -> PositiveRule:
    """The rule that a text names: ``same_slice``, ``neighbour-Xmm`` or ``other_series-Xmm``, X above 0.

    Raises:
        ConfigError: the text is none of these.

    Example:
        >>> positive_rule("neighbour-5mm")
        PositiveRule(kind='neighbour', distance_mm=5.0)
    """
    found = _RULE.fullmatch(text) if isinstance(text, str) else None
    distance = float((found and found["distance"]) or 0.0)
    if found is None or (found["kind"] and distance == 0):
        raise ConfigError(
            f"positives: must be same_slice, neighbour-Xmm (such as neighbour-5mm) or other_series-Xmm, X above 0, "
            f"found {text!r}; correct it"
        )
    return PositiveRule(found["kind"] or "same_slice", distance)  # type: ignore[arg-type]  # the pattern has the kinds


class Partners:
    """The partner of each slice, drawn again in each epoch, from (seed, epoch, index) alone.

    Partners are other slices of the same data set, each equally likely; a slice that has none is its own partner.

    Args:
        series: (N,) int64, number of each slice's series, from 0.
        positions: (N,) mm, on an axis that series which are compared share; NaN where unknown.
        compared: of each series, the series that hold its partners.
        distance_mm: the largest distance of two partners.
        seed: of the run.

    Example:
        >>> partners = Partners(np.array([0, 0, 0]), np.array([0.0, 2.0, 9.0]), [[0]], distance_mm=3.0, seed=0)
        >>> [partners(SampleKey(0, index)) for index in range(3)]
        [1, 0, 2]
    """

    def __init__(
        self,
        series: NDArray[np.int64],
        positions: Positions,
        compared: list[list[int]],
        distance_mm: float,
        seed: int,
    ) -> None:
        self.series, self.positions, self.compared = series, positions, compared
        self.reach, self.seed = distance_mm + ROUNDING_MM, seed
        self._order = np.lexsort((positions, series))  # unknown positions come last in their series
        self._sorted = positions[self._order]
        self._bounds = np.searchsorted(series[self._order], np.arange(len(compared) + 1))

    def __call__(self, key: SampleKey) -> int:
        """The index of a sample's partner."""
        found = self.candidates(key.index)
        if not found.size:
            return key.index
        return int(found[below(sample_generator(self.seed, key.epoch, key.index, _STREAM), found.size)])

    def candidates(self, index: int) -> NDArray[np.int64]:
        """The indices of all slices that may be a slice's partner."""
        position = self.positions[index]
        if np.isnan(position):
            return NOTHING
        ranges = (self._range(other, position) for other in self.compared[self.series[index]])
        found: NDArray[np.int64] = np.concatenate([NOTHING, *(self._order[slice(*each)] for each in ranges)])
        return np.compress(found != index, found)

    def count(self) -> int:
        """How many slices have a partner other than themselves."""
        having = 0
        for number, others in enumerate(self.compared):
            here = self._sorted[slice(*self._bounds[number : number + 2])]
            here = here[~np.isnan(here)]
            ranges = [self._range(other, here) for other in others]
            within = sum((last - first for first, last in ranges), np.zeros(len(here), np.int64))
            having += int(np.count_nonzero(within > (number in others)))
        return having

    def _range(self, series: int, position: Any) -> tuple[Any, Any]:
        """Where in `_order` the slices of a series begin and end that lie near a position, or each of several."""
        begin, end = self._bounds[series : series + 2]
        there = self._sorted[begin:end]
        first = np.searchsorted(there, position - self.reach, "left")
        return begin + first, begin + np.searchsorted(there, position + self.reach, "right")


def positive_partners(
    positives: str,
    store: SliceStore,
    filters: Filters | None = None,
    kept: NDArray[np.integer[Any]] | None = None,
    *,
    seed: int,
) -> Partners | None:
    """The partners of the slices of a `SliceDataset`, by a rule; logs how many slices have one.

    - ``neighbour-Xmm``: another slice of the same series, at most X mm away along its axis.
    - ``other_series-Xmm``: a slice of another series of the same patient and study day, such as another reconstruction
      of the scan; both axial, z at most X mm apart. The store does not know the frame of reference, so the series of a
      second scan on the same day count too.

    Args:
        positives: ``same_slice`` or one of these.
        store: the slices.
        filters: which of them the `SliceDataset` has; see there.
        kept: as of `SliceDataset`. Slices that are left out are no partners, but count as distance.
        seed: of the run.

    Returns:
        None for ``same_slice``.

    Raises:
        ConfigError: there is no such rule, or no slice has a partner, as pictures never do.

    Example:
        >>> partners = positive_partners("neighbour-5mm", store, seed=0)  # doctest: +SKIP
        >>> SliceDataset(store, transform=TwoViewsd(seed=0), partners=partners)  # doctest: +SKIP
    """
    rule = positive_rule(positives)
    if rule.kind == "same_slice":
        return None
    passing = filter_expression(filters) if filters else None
    index = store.select_table(None, sorted({*_COLUMNS, *columns_of(filters)}))
    index = index.append_column("depth_mm", pa.array(slice_depths(index)))
    rows = index if passing is None else index.filter(passing)
    rows = rows if kept is None else rows.take(kept)
    coded = rows.column("series_id").combine_chunks().dictionary_encode()
    series = coded.indices.to_numpy().astype(np.int64)
    if rule.kind == "neighbour":
        positions, compared = rows.column("depth_mm").to_numpy(), [[number] for number in range(len(coded.dictionary))]
    else:
        positions, compared = _heights(rows), _other_series(rows, series, len(coded.dictionary))
    partners = Partners(series, positions, compared, rule.distance_mm, seed)
    having = partners.count()
    if not having:
        raise ConfigError(
            f"positives: {rule} pairs {_MEANT[rule.kind]} that lie at most {rule.distance_mm:g} mm apart, and none of "
            f"{len(series)} slices has such a partner (pictures never do); give a larger distance, or same_slice"
        )
    if process_rank() == 0:
        logger.info(
            "positives %s: %d of %d slices have a partner, and %d are paired with themselves",
            rule,
            having,
            len(series),
            len(series) - having,
        )
    return partners


def _heights(rows: pa.Table) -> Positions:
    """z in the patient, mm; NaN where it is unknown or does not tell slices apart."""
    axial = pc.equal(rows.column("plane"), "axial")
    heights: Positions = pc.if_else(axial, rows.column("z_mm"), None).cast(pa.float64()).to_numpy()
    return heights


def _other_series(rows: pa.Table, series: NDArray[np.int64], count: int) -> list[list[int]]:
    """Of each series, the others of the same patient and study day."""
    firsts = np.unique(series, return_index=True)[1]
    scans: dict[tuple[str, int], list[int]] = {}
    told = rows.select(["patient", "study_day"]).take(firsts).to_pylist()
    for number, row in enumerate(told):
        if row["study_day"] is not None:
            scans.setdefault((row["patient"], row["study_day"]), []).append(number)
    others: list[list[int]] = [[] for _ in range(count)]
    for together in scans.values():
        for number in together:
            others[number] = [other for other in together if other != number]
    return others
