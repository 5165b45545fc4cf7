"""Subsets of labels: nested, stratified, by patient, and as the reference drew them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.classify.pictures.published import image_task
from medssl_monai.errors import ConfigError
from medssl_monai.labels.subsets import (
    choose_unit,
    grouped_split,
    nested_subset,
    reference_split,
    reference_subset,
)
from tests.golden import fill

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def test_the_references_splits_and_subsets() -> None:
    meta, arrays = fill.load(GOLDEN / "downstream_splits.npz")
    for i, case in enumerate(meta["cases"]):
        train, validation = reference_split(case["n"], seed=case["seed"])
        assert validation == arrays[f"c{i}_val"].tolist()
        assert train == arrays[f"c{i}_train_before_reduction"].tolist()
        for share in case["sizes"]:
            kept = [train[k] for k in reference_subset(len(train), float(share))]
            assert kept == arrays[f"c{i}_train_p{share}"].tolist()
    for i, case in enumerate(meta["covid"]):
        assert reference_subset(case["n"], case["data_percentage"]) == arrays[f"covid{i}"].tolist()
    assert reference_subset(10, 0.35, shuffle=False) == [0, 1, 2]


@given(st.integers(0, 10**6), st.sampled_from(["patients", "slices"]))
@settings(max_examples=30)
def test_smaller_subsets_lie_in_larger_ones(seed: int, unit: Any) -> None:
    generator = np.random.default_rng(seed)
    patients = [f"p{i:02d}" for i in generator.integers(0, 20, 120)]
    labels = generator.integers(0, 3, 120)
    fractions = (0.1, 0.25, 0.5, 1.0)
    found = [set(nested_subset(labels, patients, f, unit=unit, seed=seed % 7)) for f in fractions]
    assert found[0] <= found[1] <= found[2] <= found[3] == set(range(120))
    assert all(set(labels[list(f)]) == {0, 1, 2} for f in found)
    if unit == "patients":
        for subset in found:
            owners = {patients[i] for i in subset}
            assert subset == {i for i, p in enumerate(patients) if p in owners}, "patients stay whole"
    else:
        assert len({patients[i] for i in found[0]}) == len(set(patients))


def test_patients_of_rare_classes_come_along() -> None:
    labels = np.array([0] * 36 + [1] * 4)  # a patient a slice
    patients = [f"p{i:02d}" for i in range(40)]
    for seed in range(5):
        assert set(labels[nested_subset(labels, patients, 0.1, seed=seed)]) == {0, 1}
        half = labels[nested_subset(labels, patients, 0.5, seed=seed)]
        assert len(half) == 20
        assert 1 <= half.sum() <= 3
    assert nested_subset(labels, patients, 0.1, seed=0) != nested_subset(labels, patients, 0.1, seed=1)


def test_units_and_bounds() -> None:
    assert choose_unit([f"p{i}" for i in range(24)], 0.1) == "patients"
    assert choose_unit(["a", "b", "c"] * 9, 0.1) == "slices"
    assert choose_unit([""] * 100, 0.1) == "slices"
    with pytest.raises(ConfigError, match="above 0"):
        nested_subset([0, 1], ["a", "b"], 0.0)
    with pytest.raises(ConfigError, match="patients or slices"):
        nested_subset([0, 1], ["a", "b"], 0.5, unit="series")  # type: ignore[arg-type]
    rest, held = grouped_split([0, 0, 1, 1], ["a", "a", "b", "c"], 0.5)
    assert sorted(rest + held) == [0, 1, 2, 3]
    with pytest.raises(ConfigError, match="too few for two sides"):
        grouped_split([0, 1], ["a", "a"], 0.5)
    with pytest.raises(ConfigError, match="is unknown"):
        image_task("chest", ".")  # type: ignore[arg-type]
