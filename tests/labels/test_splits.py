"""Splits keep patients whole and classes in their shares."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.errors import LabelError
from medssl_monai.ingest import SliceStore
from medssl_monai.labels.labelled_slices import labelled_slices
from medssl_monai.labels.splits import SHARES, assign_splits, split_table
from medssl_monai.labels.table import read_labels


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), min_size=3, max_size=60),
    st.integers(0, 1000),
    st.randoms(use_true_random=False),
)
def test_laws_of_splits(patients: list[tuple[str, int]], seed: int, draw: object) -> None:
    rows = [(label, f"p{number}") for number, (label, slices) in enumerate(patients) for _ in range(slices)]
    splits = assign_splits([label for label, _ in rows], [name for _, name in rows], seed=seed)
    split_of = {name: split for (_, name), split in zip(rows, splits, strict=True)}
    # No patient in two splits.
    assert all(split_of[name] == split for (_, name), split in zip(rows, splits, strict=True))
    # Of each class, each split has its share, but for less than one patient beyond the share and one below.
    for label in {one for one, _ in patients}:
        members = [f"p{number}" for number, (one, _) in enumerate(patients) if one == label]
        counts = Counter(split_of[name] for name in members)
        for name, share in SHARES.items():
            assert abs(counts[name] - share * len(members)) < 1.5
    # The order of the rows does not matter.
    shuffled = list(rows)
    draw.shuffle(shuffled)  # type: ignore[attr-defined]
    again = assign_splits([label for label, _ in shuffled], [name for _, name in shuffled], seed=seed)
    assert {name: split for (_, name), split in zip(shuffled, again, strict=True)} == split_of


def test_seed_matters() -> None:
    labels, patients = ["x", "y"] * 20, [f"p{i}" for i in range(40)]
    drawn = {tuple(assign_splits(labels, patients, seed=seed)) for seed in range(5)}
    assert len(drawn) == 5
    assert all(Counter(one) == {"train": 28, "test": 8, "validation": 4} for one in drawn)


def test_what_cannot_be_split() -> None:
    with pytest.raises(LabelError, match="1 of 2 rows name no patient"):
        assign_splits(["x", "x"], ["p", ""])
    with pytest.raises(LabelError, match="2 patient"):
        assign_splits(["x", "x"], ["p", "q"])
    with pytest.raises(LabelError, match="must be positive"):
        assign_splits(["x", "x"], ["p", "q"], {"train": 1.0, "test": 0.0})


def test_table_with_splits_is_read_again(phantom_store: SliceStore, phantom_labels: Path, tmp_path: Path) -> None:
    table = read_labels(phantom_labels)
    out = split_table(table, phantom_store, tmp_path / "split.csv", {"train": 3, "test": 2}, seed=1)
    written = read_labels(out)
    assert len(written.rows) == len(table.rows)
    rows = labelled_slices(written, phantom_store, None)
    assert {row["split"] for row in rows} == {"train", "test"}
    assert len({(row["patient"], row["split"]) for row in rows}) == len({row["patient"] for row in rows}) == 5
    with pytest.raises(LabelError, match="'dev' is none of"):
        split_table(table, phantom_store, tmp_path / "no.csv", {"dev": 1})
