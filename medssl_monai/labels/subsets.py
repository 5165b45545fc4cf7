"""Subsets of labelled slices for training: nested and stratified ones, and those of the reference.

Shapes: N slices, P patients.
"""

import random
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from medssl_monai.errors import ConfigError

Ints = npt.NDArray[np.integer[Any]]
Unit = Literal["patients", "slices"]


def choose_unit(patients: Sequence[str], smallest_fraction: float) -> Unit:
    """``patients`` if the smallest subset has at least two of them, else ``slices``."""
    known = all(patients)
    return "patients" if known and round(smallest_fraction * len(set(patients))) >= 2 else "slices"


def nested_subset(
    labels: npt.ArrayLike, patients: Sequence[str], fraction: float, *, unit: Unit = "patients", seed: int = 0
) -> list[int]:
    """Positions of a share of the slices, sorted; a smaller fraction is a subset of a larger one.

    ``patients`` draws whole patients in a random order, beginning with patients that together have all classes; after
    them the patients' most frequent classes alternate in proportion. ``slices`` draws the same share of slices, at
    least one, from each patient and class (or combination of classes). All patients then remain, so the subset says
    less about training on few labelled patients.

    Args:
        labels: (N,) class indices, or (N, C) with 1 where a class holds (multi-label).
        patients: per slice. "" means unknown: each such slice counts as one patient, or all of them as one patient if
            slices are drawn.
        fraction: in (0, 1].
        unit: ``patients`` or ``slices``.
        seed: of the draw, which does not depend on the fraction.

    Raises:
        ConfigError: the fraction is not in (0, 1], or the unit is unknown.
    """
    if not 0 < fraction <= 1:
        raise ConfigError(f"label_fraction: must be above 0 and at most 1, found {fraction}; give for instance 0.1")
    truth, owners = np.asarray(labels), _owners(patients)
    generator = np.random.Generator(np.random.Philox(seed))
    if unit == "patients":
        order, least = _patient_order(truth, owners, generator)
        chosen = set(order[: max(least, round(fraction * len(order)))])
        return [i for i, owner in enumerate(owners) if owner in chosen]
    if unit != "slices":
        raise ConfigError(f"subset_unit: must be patients or slices, found {unit!r}; choose one of them")
    kept: list[int] = []
    owners = np.asarray(patients, dtype=np.str_)
    kinds = truth if truth.ndim == 1 else np.unique(truth, axis=0, return_inverse=True)[1].ravel()
    for owner in np.unique(owners):
        for kind in np.unique(kinds[owners == owner]):
            group = np.flatnonzero((owners == owner) & (kinds == kind))
            kept += generator.permutation(group)[: max(1, round(fraction * len(group)))].tolist()
    return sorted(kept)


def grouped_split(
    labels: npt.ArrayLike, patients: Sequence[str], share: float, *, seed: int = 0
) -> tuple[list[int], list[int]]:
    """(rest, held out): about ``share`` of the patients held out, stratified by class; no patient is on both sides.

    Raises:
        ConfigError: there are too few patients for two sides.
    """
    truth, owners = np.asarray(labels), _owners(patients)
    order, least = _patient_order(truth, owners, np.random.Generator(np.random.Philox(seed)))
    count = max(least, round(share * len(order)))
    if count >= len(order):
        raise ConfigError(f"split: {len(order)} patient(s) are too few for two sides; give more, or splits")
    out = set(order[:count])
    sides: tuple[list[int], list[int]] = ([], [])
    for i, owner in enumerate(owners):
        sides[owner in out].append(i)
    return sides


def _owners(patients: Sequence[str]) -> npt.NDArray[np.str_]:
    return np.array([name or f"unknown-{i}" for i, name in enumerate(patients)])


def _patient_order(truth: Ints, owners: npt.NDArray[np.str_], generator: np.random.Generator) -> tuple[list[str], int]:
    """Patients in a random order of which every prefix has about the shares of the classes, and the length of the
    shortest prefix with all classes.
    """
    held = truth if truth.ndim == 2 else truth[:, None] == np.arange(truth.max() + 1)  # (N, C)
    shown = {str(owner): held[owners == owner].sum(axis=0) for owner in generator.permutation(np.unique(owners))}
    first: list[str] = []
    missing = set(np.flatnonzero(held.any(axis=0)).tolist())
    for owner, counts in shown.items():
        if missing & set(np.flatnonzero(counts).tolist()):
            missing -= set(np.flatnonzero(counts).tolist())
            first.append(owner)
    groups: dict[int, list[str]] = {}
    for owner, counts in shown.items():
        if owner not in first:
            groups.setdefault(int(counts.argmax()), []).append(owner)
    rest = [((place + 0.5) / len(members), name) for members in groups.values() for place, name in enumerate(members)]
    return first + [name for _, name in sorted(rest)], len(first)


def reference_split(items: int, *, seed: int = 42, share: float = 0.15) -> tuple[list[int], list[int]]:
    """(train, validation) positions as in the reference's brain task: random slices, regardless of patients.

    Wolf et al. 2023, Brain.ipynb: the first ``int(share * items)`` of NumPy's legacy shuffle are validation. Patients
    may be on both sides; `grouped_split` keeps them apart.
    """
    order = np.arange(items)
    np.random.RandomState(seed).shuffle(order)  # reproduces the legacy generator
    held = int(share * items)
    return order[held:].tolist(), order[:held].tolist()


def reference_subset(items: int, fraction: float, *, shuffle: bool = True) -> list[int]:
    """Positions of the training items that the reference used, in its order.

    Its ``seed`` setting had no effect: the order is always that of Python's generator seeded with 42 (Brain.ipynb,
    COVID-19.ipynb), and OrganSMNIST kept the first ``int(items * fraction)`` unshuffled (``shuffle=False``).
    `nested_subset` is the stratified draw with a seed.
    """
    order = list(range(items))
    if shuffle:
        random.Random(42).shuffle(order)
    return order[: int(items * fraction)]
