"""Splits for label tables: by patient, stratified by class, drawn with a seed.

Nested fractions of a training set are drawn by `medssl_monai.labels.subsets`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medssl_monai.atomic import write_csv
from medssl_monai.errors import LabelError
from medssl_monai.ingest.lookup import find_series
from medssl_monai.labels.cells import COLUMNS
from medssl_monai.labels.labelled_slices import patients_of
from medssl_monai.labels.names import SPLITS, split_suggestion
from medssl_monai.labels.table import LabelTable
from medssl_monai.store.reader import SliceStore

SHARES: Mapping[str, float] = {"train": 0.7, "validation": 0.1, "test": 0.2}


def assign_splits(
    labels: Sequence[str], patients: Sequence[str], shares: Mapping[str, float] = SHARES, *, seed: int = 0
) -> list[str]:
    """Draw a split for each row; all rows of a patient get the same one.

    Patients are grouped by their most frequent class. Each group is dealt out in a random order, every patient to the
    split that lacks most of its share. Each split's number of patients of a class then differs from its share by less
    than one. The order of the rows does not matter.

    Args:
        labels: class of each row.
        patients: name of each row's patient.
        shares: of the splits; they need not add up to one.
        seed: of the draw.

    Raises:
        LabelError: a row names no patient, a share is not positive, or there are fewer patients than splits.
    """
    unknown = sum(not name for name in patients)
    if unknown:
        raise LabelError(
            f"splits: {unknown} of {len(patients)} rows name no patient, so one could be in two splits; "
            "fill in the column 'patient'"
        )
    if not shares or min(shares.values()) <= 0:
        raise LabelError(f"splits: shares must be positive, found {dict(shares)}; leave out a split to omit it")
    classes: dict[str, Counter[str]] = defaultdict(Counter)
    for label, patient in zip(labels, patients, strict=True):
        classes[patient][label] += 1
    if len(classes) < len(shares):
        raise LabelError(f"splits: {len(classes)} patient(s) cannot be divided among {len(shares)} splits; give more")
    groups: dict[str, list[str]] = defaultdict(list)
    for patient in sorted(classes):
        groups[min(classes[patient], key=lambda label: (-classes[patient][label], label))].append(patient)
    generator = np.random.Generator(np.random.Philox(seed))
    whole = sum(shares.values())
    wanted = {name: share / whole for name, share in shares.items()}
    given: Counter[str] = Counter()
    split_of: dict[str, str] = {}
    # The class with fewest patients first: later classes even out the differences that it leaves.
    for _, members in sorted(groups.items(), key=lambda item: (len(item[1]), item[0])):
        here: Counter[str] = Counter()
        for number, place in enumerate(generator.permutation(len(members)), start=1):
            dealt = len(split_of) + 1
            split = max(
                wanted,
                key=lambda name: (
                    round(wanted[name] * number - here[name], 9),
                    round(wanted[name] * dealt - given[name], 9),
                ),
            )
            split_of[members[int(place)]] = split
            here[split] += 1
            given[split] += 1
    return [split_of[patient] for patient in patients]


def split_table(
    table: LabelTable,
    store: SliceStore,
    out: Path,
    shares: Mapping[str, float] = SHARES,
    *,
    seed: int = 0,
    key: bytes | None = None,
) -> Path:
    """Write a copy of a label table with splits, and with the store's pseudonyms where it names no patient.

    Args:
        table: from `read_labels`; its own splits are not kept.
        store: holds its sources.
        out: the CSV to write. Its sources are series ids of the store, so it may be moved.
        shares: of train, validation and test.
        seed: of the draw.
        key: of the store's pseudonyms; None loads the user's own.

    Raises:
        LabelError: a source is not in the store, a split is unknown, or the patients do not suffice.
    """
    unknown = sorted(set(shares) - set(SPLITS))
    if unknown:
        hint = split_suggestion(unknown[0])
        raise LabelError(f"splits: {unknown[0]!r} is none of {', '.join(SPLITS)}{hint}; correct the shares")
    series = {source: find_series(store, source, key) for source in sorted({row.source for row in table.rows})}
    patient_of = patients_of(store)
    patients = [row.patient or patient_of[series[row.source]] for row in table.rows]
    splits = assign_splits([row.label for row in table.rows], patients, shares, seed=seed)
    rows = (
        [series[row.source], "" if row.slice is None else row.slice, row.label, patient, split]
        for row, patient, split in zip(table.rows, patients, splits, strict=True)
    )
    write_csv(out, COLUMNS, rows)
    return out
