"""Distances by SciPy's, thresholds by their definition, and what is far is flagged."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.spatial.distance import cdist

from medssl_monai.classify.reference import Reference, fit_reference, read_reference
from medssl_monai.errors import CheckpointError

WIDTHS = [4, 8]
SCALES = np.array([1.0] * 4 + [100.0] * 8)  # stages of very different size must count alike


def made(held_out: int = 200, quantile: float = 0.95) -> tuple[Reference, np.random.Generator]:
    rng = np.random.default_rng(0)
    train = rng.normal(size=(300, 12)) * SCALES
    series = [f"s{i // 50}" for i in range(300)]
    validation = rng.normal(size=(held_out, 12)) * SCALES if held_out else None
    labels = [i % 2 for i in range(300)]
    return fit_reference(train, WIDTHS, series, series, labels, validation, quantile=quantile), rng


def test_distances_are_scipys() -> None:
    reference, rng = made()
    new = rng.normal(size=(20, 12)) * SCALES
    standardised = (new - reference.mean) / reference.scale
    assert reference.distances(new) == pytest.approx(cdist(standardised, reference.features).min(axis=1), rel=1e-4)


def test_every_stage_weighs_the_same() -> None:
    reference, _ = made()
    middle = reference.mean
    first, second = middle.copy(), middle.copy()
    first[:4] += 10 * reference.scale[:4] / np.sqrt(4 * 2)
    second[4:] += 10 * reference.scale[4:] / np.sqrt(8 * 2)
    sizes = [np.linalg.norm((point - middle) / reference.scale) for point in (first, second)]
    assert sizes[0] == pytest.approx(sizes[1] * np.sqrt(8 / 4) * np.sqrt(4 / 8), rel=1e-6)


def test_the_threshold_is_the_quantile_of_validation() -> None:
    reference, rng = made()
    same = rng.normal(size=(2000, 12)) * SCALES
    far = same + 6 * SCALES
    assert (reference.distances(same) > reference.threshold).mean() == pytest.approx(0.05, abs=0.03)
    assert (reference.distances(far) > reference.threshold).all()
    assert reference.judged_by == "validation slices"
    assert reference.judged_slices == 200


def test_without_validation_patients_or_parts_are_left_out() -> None:
    by_patient, _ = made(held_out=0)
    assert by_patient.judged_by == "training slices, each against other patients"
    features = by_patient.features
    patients = np.arange(300) // 50
    apart = np.where(patients[:, None] == patients, np.inf, cdist(features, features))
    assert by_patient.threshold == pytest.approx(np.quantile(apart.min(axis=1), 0.95), rel=1e-4)
    rng = np.random.default_rng(1)
    train = rng.normal(size=(100, 12))
    alone = fit_reference(train, WIDTHS, ["s"] * 100, ["p"] * 100, [0] * 100)
    assert "too strict for new patients" in alone.judged_by
    parts = np.arange(100) // 20
    apart = np.where(parts[:, None] == parts, np.inf, cdist(alone.features, alone.features))
    assert alone.threshold == pytest.approx(np.quantile(apart.min(axis=1), 0.99), rel=1e-4)


def test_a_file_keeps_it(tmp_path: Path) -> None:
    reference, rng = made()
    reference.write(tmp_path / "reference.safetensors")
    again = read_reference(tmp_path / "reference.safetensors")
    new = (rng.normal(size=(50, 12)) * SCALES).astype(np.float32)
    assert again.distances(new) == pytest.approx(reference.distances(new), rel=1e-5)
    assert (again.threshold, again.describe()) == (reference.threshold, reference.describe())


def test_broken_or_foreign_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "reference.safetensors"
    for content in (b"", b"no tensors", b"\x80\x04pickle"):
        file.write_bytes(content)
        with pytest.raises(CheckpointError, match="reference of training slices"):
            read_reference(file)
    save_file({"features": np.zeros((2, 3), np.float32)}, file)
    with pytest.raises(CheckpointError, match="reference of training slices"):
        read_reference(file)
    reference, _ = made()
    with pytest.raises(CheckpointError, match="holds 12 features a slice, the network gives 5"):
        reference.distances(np.zeros((1, 5)))
