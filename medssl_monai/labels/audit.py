"""Finds what sets of images should not share, and what tells the class without showing it.

The sets are stores (pre-training), the splits of label tables, and data sets of pictures. Patients are compared by
pseudonym. A patient with two identifiers, and the same picture in two sets or in two classes, are found by the images:
perceptual hashes that differ in a few bits, confirmed by correlation.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, starmap
from types import MappingProxyType

import numpy as np

from medssl_monai.labels.audit_report import AuditReport, NearDuplicate, SetSummary, Shared
from medssl_monai.labels.audit_sets import Audited, AuditSet
from medssl_monai.labels.near_duplicates import Pair, Slice, similar_slices
from medssl_monai.labels.passport import Passport, Seen
from medssl_monai.labels.telltales import Telltale, telltales

HARMLESS = frozenset({frozenset({"pre-training", "train"})})
"""Kinds of sets that may share patients: pre-training uses no labels of the training set."""

DISTANCE = 6


def compare(
    sets: Sequence[AuditSet], distance: int = DISTANCE, passports: Mapping[str, Passport] = MappingProxyType({})
) -> AuditReport:
    """Compare sets, every pair of them, and the classes within each.

    Args:
        sets: slices and pictures.
        distance: bits of 64 in which the hashes of look-alikes may differ.
        passports: of weights, by their names, each compared with all sets.

    Raises:
        InputError: the distance is out of range.
    """
    sets = _named_apart(sets)
    pairs = list(combinations(sets, 2))
    alike = [one for first, second in pairs for one in _near_duplicates(first, second, distance)]
    alike += [one for each in sets for one in _within(each, distance)]
    met = [(name, one, each, one.seen(each)) for name, one in passports.items() for each in sets]
    alike += [found for name, _, each, seen in met for found in _seen(name, each, seen)]
    return AuditReport(
        sets=(*starmap(_of_passport, passports.items()), *map(_summary, sets)),
        shared=tuple(one for first, second in pairs for one in _shared(first, second)),
        near_duplicates=tuple(alike),
        telltales=tuple(_telltales(sets)),
        statements=(*_unknown(sets), *starmap(_told, met)),
    )


def _named_apart(sets: Sequence[AuditSet]) -> list[AuditSet]:
    """The same with unique names: several inputs' splits have the input's name before them."""
    several = len({one.origin for one in sets if one.kind != "pre-training"}) > 1
    named: list[AuditSet] = []
    for one in sets:
        name = f"{one.origin}: {one.name}" if several and one.kind != "pre-training" else one.name
        unique, number = name, 2
        while unique in {other.name for other in named}:
            unique, number = f"{name} ({number})", number + 1
        named.append(replace(one, name=unique))
    return named


def _summary(one: AuditSet) -> SetSummary:
    unknown = {item.series_id for item in one.items if item.unknown}
    return SetSummary(
        name=one.name,
        kind=one.kind,
        series=len({item.series_id for item in one.items}),
        slices=len(one.items),
        patients=len({item.patient for item in one.items if item.series_id not in unknown}),
        patients_unknown=len(unknown),
        classes=dict(sorted(Counter(item.label for item in one.items if item.label).items())),
    )


def _of_passport(name: str, passport: Passport) -> SetSummary:
    series = passport.series_used
    return SetSummary(name, "pre-training", series, passport.slices_used, 0, series, {})


def _seen(name: str, one: AuditSet, seen: Sequence[Seen]) -> Iterator[NearDuplicate]:
    """What weights have seen: of each pair of series the nearest slices."""
    items = {(item.series_id, item.slice): item for item in one.items}
    pairs: dict[tuple[int, str], list[Seen]] = defaultdict(list)
    for found in seen:
        pairs[found.passport_series, found.series_id].append(found)
    for (number, series), slices in sorted(pairs.items()):
        best = min(slices, key=lambda each: each.bits)
        yield NearDuplicate(
            first=name,
            second=one.name,
            first_series=f"series {number} of its passport",
            second_series=series,
            first_label="",
            second_label=items[series, best.slice].label,
            kind="seen",
            slices=len(slices),
            distance=best.bits,
            correlation=None,
            example=(None, best.slice),
            harmless=frozenset({"pre-training", one.kind}) in HARMLESS,
        )


def _told(name: str, passport: Passport, one: AuditSet, seen: Sequence[Seen]) -> str:
    compared = {item.series_id for item in one.items if item.comparable}
    return (
        f"{name} and {one.name}: {len({each.series_id for each in seen})} of {len(compared)} series look like slices "
        f"that the weights have seen; its passport has {passport.slices} of {passport.slices_used} slices, of "
        f"{passport.series} of {passport.series_used} series, and no patients"
    )


def _unknown(sets: Sequence[AuditSet]) -> Iterator[str]:
    for one in map(_summary, sets):
        if one.patients_unknown:
            yield (
                f"{one.name}: {one.patients_unknown} of {one.series} series name no patient, so patients "
                "cannot be compared there; only slices are"
            )
    for first, second in combinations(sets, 2):
        if first.key != second.key:
            yield (
                f"{first.name} and {second.name}: the pseudonyms have different keys, so patients cannot be "
                "compared; only slices are"
            )


def _harmless(first: AuditSet, second: AuditSet) -> bool:
    return frozenset({first.kind, second.kind}) in HARMLESS or first.kind == second.kind


def _shared(first: AuditSet, second: AuditSet) -> Iterator[Shared]:
    """Patients, and beyond them series, of both sets."""
    mine, yours = first.patients, second.patients
    patients = set(mine.values()) & set(yours.values())
    series = {name for name in set(mine) & set(yours) if mine[name] not in patients}
    for what, names in (("patients", patients), ("series", series)):
        if names:
            yield Shared(first.name, second.name, what, tuple(sorted(names)), _harmless(first, second))


def _within(one: AuditSet, distance: int) -> Iterator[NearDuplicate]:
    """What looks alike within a set and has two labels; of pictures, whose patients are mostly unknown, all."""
    if any(item.digests[1] for item in one.items):
        yield from _near_duplicates(one, one, distance)
        return
    by_label: dict[str, list[Audited]] = defaultdict(list)
    for item in one.items:
        if item.label:
            by_label[item.label].append(item)
    parts = [replace(one, items=items) for _, items in sorted(by_label.items())]
    for number, part in enumerate(parts[:-1]):
        others = [item for other in parts[number + 1 :] for item in other.items]
        yield from _near_duplicates(part, replace(one, items=others), distance)


def _near_duplicates(first: AuditSet, second: AuditSet, distance: int) -> Iterator[NearDuplicate]:
    """Series of different patients with slices that look alike, and equal pictures of whomever."""
    same_set = first.name == second.name
    both = set() if same_set else set(first.patients.values()) & set(second.patients.values())
    sides = [
        [_slice(one, item) for item in one.items if one.patients[item.series_id] not in both and item.comparable]
        for one in (first, second)
    ]
    by_series: dict[tuple[str, str], list[Pair]] = defaultdict(list)
    for pair in similar_slices(sides[0], sides[1], distance):
        names = pair.first.series_id, pair.second.series_id
        repeated = first is second and names[0] > names[1]
        if not repeated and not (same_set and first.patients[names[0]] == second.patients[names[1]]):
            by_series[names].append(pair)
    mine, yours = ({(item.series_id, item.slice): item for item in one.items} for one in (first, second))
    for equal in _equal(first, second):
        by_series.setdefault((equal.first.series_id, equal.second.series_id), [equal])
    for names, pairs in sorted(by_series.items()):
        best = max(pairs, key=lambda pair: (pair.correlation, -pair.distance))
        one, other = mine[names[0], best.first.slice], yours[names[1], best.second.slice]
        contradictory = bool(one.label and other.label and one.label != other.label)
        yield NearDuplicate(
            first=first.name,
            second=second.name,
            first_series=names[0],
            second_series=names[1],
            first_label=one.label,
            second_label=other.label,
            kind=_kind(one, other, best),
            slices=len({pair.first.slice for pair in pairs}),
            distance=min(pair.distance for pair in pairs),
            correlation=round(best.correlation, 4),
            example=(best.first.slice, best.second.slice),
            harmless=_harmless(first, second) and not contradictory,
        )


def _equal(first: AuditSet, second: AuditSet) -> Iterator[Pair]:
    """Pictures with the same pixels, also where there is too little in them for a hash."""
    held: dict[str, list[Audited]] = defaultdict(list)
    for item in second.items:
        if item.digests[1]:
            held[item.digests[1]].append(item)
    for one in first.items:
        for other in held.get(one.digests[1], ()):
            if one.series_id < other.series_id or (first is not second and one.series_id > other.series_id):
                yield Pair(_slice(first, one), _slice(second, other), 0, 1.0)


def _slice(one: AuditSet, item: Audited) -> Slice:
    return Slice(one.pixels, item.series_id, item.slice, item.phash, item.modality)


def _kind(one: Audited, other: Audited, best: Pair) -> str:
    if one.digests[0] and one.digests[0] == other.digests[0]:
        return "the same file"
    if one.digests[1] and other.digests[1]:
        same = one.digests[1] == other.digests[1]
    else:
        first, second = (side.store.read(side.series_id, side.slice) for side in (best.first, best.second))
        same = np.array_equal(first, second)
    return "the same pixels" if same else "alike"


def _telltales(sets: Sequence[AuditSet]) -> Iterator[Telltale]:
    """Of each input with files: the facts that tell the class, of all splits together."""
    by_origin: dict[str, list[Audited]] = defaultdict(list)
    for one in sets:
        by_origin[one.origin] += [item for item in one.items if item.facts and item.label]
    for origin, items in by_origin.items():
        if items:
            facts = {fact: [item.facts[fact] for item in items] for fact in items[0].facts}
            yield from telltales(origin, facts, [item.label for item in items])
