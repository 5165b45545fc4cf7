"""Which slices are left when those that nearly repeat another are left out of a pre-training.

Neighbouring slices of a thin-sliced CT are near-copies. Wolf et al. 2024 (arXiv 2410.14524) leave them out and compare
ways to tell them; the rules here are of these kinds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from medssl_monai.errors import ConfigError, StoreError, suggestion
from medssl_monai.store.depths import ROUNDING_MM, slice_depths
from medssl_monai.store.index_file import columns_of
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters, filter_expression

RuleKind = Literal["none", "hash", "spacing", "embedding"]
FORMS = "none, hash-N (bits, such as hash-6), spacing-Xmm (such as spacing-5mm) or embedding-T (such as embedding-0.95)"

_NUMBER = r"\d+(?:\.\d+)?"
_RULE = re.compile(rf"none|hash-(?P<hash>\d+)|spacing-(?P<spacing>{_NUMBER})mm|embedding-(?P<embedding>{_NUMBER})")
_COLUMNS = ("series_id", "patient", "phash", "slice_spacing_mm")
_WRITTEN = {"hash": "hash-{}", "spacing": "spacing-{}mm", "embedding": "embedding-{}"}

Look = TypeVar("Look")
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RedundancyRule:
    """When a slice is left out, with the text that names the rule.

    Attributes:
        kind: ``none``, ``hash``, ``spacing`` or ``embedding``.
        value: bits, mm or cosine, by kind; 0 for ``none``.
    """

    kind: RuleKind
    value: float = 0.0

    def __str__(self) -> str:
        return "none" if self.kind == "none" else _WRITTEN[self.kind].format(f"{self.value:g}")


def redundancy_rule(text: object) -> RedundancyRule:
    """The rule that a text names.

    Args:
        text: ``none``; ``hash-N``, N bits from 0 to 64; ``spacing-Xmm``, X above 0; ``embedding-T``, T above 0 and at
            most 1.

    Raises:
        ConfigError: the text is none of these.

    Example:
        >>> redundancy_rule("spacing-2.5mm")
        RedundancyRule(kind='spacing', value=2.5)
    """
    found = _RULE.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ConfigError(f"redundancy: must be {FORMS}, found {text!r}{_meant(text)}; correct it")
    kind, value = next(((name, float(one)) for name, one in found.groupdict().items() if one), ("none", 0.0))
    limits = {"hash": ("from 0 to 64 bits", value <= 64), "spacing": ("above 0 mm", value > 0)}
    limits["embedding"] = ("a cosine above 0 and at most 1", 0 < value <= 1)
    if kind in limits and not limits[kind][1]:
        raise ConfigError(f"redundancy: {kind} takes a number {limits[kind][0]}, found {text!r}; correct it")
    return RedundancyRule(kind, value)  # type: ignore[arg-type]  # the names of the groups are the kinds


def _meant(text: object) -> str:
    """A suggestion with the number that was given, where a word and a number are recognised."""
    parts = re.match(rf"\W*([a-z]+)[\W_]*({_NUMBER})?\W*(?:mm)?\W*$", str(text).lower())
    if parts is None:
        return ""
    kind = re.search(r"'(\w+)'", suggestion(parts[1], get_args(RuleKind)))
    if kind is None:
        return ""
    written = _WRITTEN.get(kind[1], "none")
    return f" (did you mean {written.format(parts[2])!r}?)" if parts[2] or written == "none" else ""


def kept_slices(
    store: SliceStore,
    rule: RedundancyRule,
    filters: Filters | None = None,
    features: Iterable[NDArray[np.floating[Any]]] = (),
) -> Mask:
    """Which of the slices that the filters leave are kept: (N,) bool, in the index's order.

    Of each series the first slice is kept, from the most inferior on, and every slice that is not redundant to the last
    one kept. Redundant is a slice

    - ``hash-N``: with a perceptual hash that differs in at most N of 64 bits (`measures.perceptual_hash`);
    - ``spacing-Xmm``: that lies less than X mm away along the stack's axis; slices that are missing or filtered out
      count as distance;
    - ``embedding-T``: with features of a cosine above T.

    Series of one slice, such as pictures, have no neighbours: each is compared with all that are kept of the patient,
    except by ``spacing``. Where the patient is unknown, it is kept.

    Args:
        store: the slices.
        rule: which are left out; ``none`` keeps all.
        filters: see `SliceStore.select`.
        features: for ``embedding``, (D,) of each slice that the filters leave.

    Raises:
        StoreError: ``spacing``, and the distance of neighbouring slices is not known.
    """
    passing = filter_expression(filters) if filters else None
    index = store.select_table(None, sorted({*_COLUMNS, *columns_of(filters)}))
    index = index.append_column("depth_mm", pa.array(slice_depths(index)))
    rows = index if passing is None else index.filter(passing)
    if rule.kind == "none":
        return np.ones(rows.num_rows, bool)
    if rule.kind == "spacing":
        _check_spacings(rows)
        depths = rows.column("depth_mm").to_pylist()
        return _thinned(rows, depths, lambda last, here: here - last < rule.value - ROUNDING_MM)
    counts = pc.value_counts(index.column("series_id")).to_pylist()
    singles = {each["values"] for each in counts if each["counts"] == 1}
    if rule.kind == "hash":
        hashes = (int(text, 16) for text in rows.column("phash").to_pylist())
        return _thinned(rows, hashes, lambda one, other: (one ^ other).bit_count() <= rule.value, singles)
    units = (vector / max(float(np.linalg.norm(vector)), 1e-12) for vector in features)
    return _thinned(rows, units, lambda one, other: float(one @ other) > rule.value, singles)


def _thinned(
    rows: pa.Table, looks: Iterable[Look], near: Callable[[Look, Look], bool], singles: Container[str] = ()
) -> Mask:
    """`looks` is what `near` compares, one a row; `singles` are the series that are compared within their patient."""
    mask = np.zeros(rows.num_rows, bool)
    kept: dict[tuple[str, str], list[Look]] = {}
    series, patients = (rows.column(name).to_pylist() for name in ("series_id", "patient"))
    for number, (one, patient, look) in enumerate(zip(series, patients, looks, strict=True)):
        alone = one in singles
        before = kept.setdefault(("patient", patient) if alone else ("series", one), [])
        if any(near(other, look) for other in before):
            continue
        mask[number] = True
        if not alone:
            before.clear()
        before.append(look)
    return mask


def _check_spacings(rows: pa.Table) -> None:
    unknown = rows.filter(pc.is_null(rows.column("slice_spacing_mm")))
    without, series = (pc.count_distinct(table.column("series_id")).as_py() for table in (unknown, rows))
    if without:
        raise StoreError(
            f"redundancy: spacing needs the distance of neighbouring slices in mm, and {without} of {series} series "
            "have none (pictures never do); give redundancy=hash-6, or leave these series out by the filter "
            "[slice_spacing_mm, '>', 0]"
        )
