"""Metrics by hand and by law, predictions and their files, baselines."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score
from torch import nn

from medssl_monai.classify.predictions import Predictions
from medssl_monai.classify.probes import encoder_features, linear_probe
from medssl_monai.statistics.metrics import balanced_accuracy, classification_metrics, per_patient

CLASSES = ["a", "b", "c"]
LABELS = np.array([0, 0, 0, 1])
# The first three slices: right, right, wrong; the fourth: right.
PROBABILITIES = np.array([[0.8, 0.1, 0.1], [0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.1, 0.5, 0.4]])


def test_figures_by_hand() -> None:
    metrics = classification_metrics(LABELS, PROBABILITIES, CLASSES)
    assert metrics["accuracy"] == 0.75
    assert metrics["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert metrics["recall"] == pytest.approx({"a": 2 / 3, "b": 1.0})
    assert metrics["f1_macro"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert metrics["confusion_matrix"] == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    # a: the score 0.8, 0.6, 0.2 against 0.1 ranks all pairs right; b: 0.5 beats 0.1 and 0.3, not 0.7.
    assert metrics["auc"] == pytest.approx((1 + 2 / 3) / 2)


def test_one_class_has_no_auc() -> None:
    assert classification_metrics(LABELS[:3], PROBABILITIES[:3], CLASSES)["auc"] is None


def test_patients_are_judged_alone() -> None:
    figures = per_patient(LABELS, PROBABILITIES, ["y", "x", "y", "x"], CLASSES)
    assert list(figures) == ["x", "y"]
    assert figures["x"]["balanced_accuracy"] == 1.0
    assert figures["y"]["accuracy"] == 0.5


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=30))
def test_balanced_accuracy_is_scikit_learns(pairs: list[tuple[int, int]]) -> None:
    truth, predicted = (np.array(side) for side in zip(*pairs, strict=True))
    if np.isin(predicted, truth).all() and len(set(truth)) > 1:  # of the rest scikit-learn's function warns
        assert balanced_accuracy(truth, predicted) == pytest.approx(balanced_accuracy_score(truth, predicted))
    assert 0 <= balanced_accuracy(truth, predicted) <= 1


def filled(labels: list[int | None]) -> Predictions:
    predictions = Predictions(CLASSES)
    for i, label in enumerate(labels):
        predictions.add(PROBABILITIES[i], "s2" if i < 2 else "s1", 1 - i % 2, "p", label)
    return predictions


def test_files_of_labelled_predictions(tmp_path: Path) -> None:
    filled([0, 0, 0, 1]).write(tmp_path)
    assert json.loads((tmp_path / "metrics.json").read_text())["all_slices"]["accuracy"] == 0.75
    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["series_id"], r["slice"]) for r in rows] == [("s1", "0"), ("s1", "1"), ("s2", "0"), ("s2", "1")]
    assert [r["label"] for r in rows] == ["b", "a", "a", "a"]
    for name in ("confusion_matrix", "roc"):
        assert (tmp_path / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_unlabelled_predictions_have_no_metrics(tmp_path: Path) -> None:
    filled([None] * 4).write(tmp_path)
    assert not (tmp_path / "metrics.json").exists()
    studies = json.loads((tmp_path / "studies.json").read_text())
    assert [s["series_id"] for s in studies] == ["s1", "s2"]
    assert studies[1]["probabilities"] == pytest.approx({"a": 0.7, "b": 0.2, "c": 0.1})
    assert studies[1]["predicted"] == "a"


def test_probe_separates_what_is_separable() -> None:
    generator = np.random.default_rng(0)
    labels = np.repeat([0, 1], 20)
    features = generator.normal(size=(40, 5)) + 4 * labels[:, None]
    assert (linear_probe(features, labels.tolist(), features, 2).argmax(1) == labels).all()


def test_features_are_those_of_evaluation_mode() -> None:
    norm = nn.BatchNorm2d(4)
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(5, 3, 8, 8)
    dataset = [{"image": image} for image in images]
    assert norm.running_mean is not None
    before = norm.running_mean.clone()
    found = encoder_features(encoder, dataset, batch_size=2)  # type: ignore[arg-type]
    assert torch.equal(norm.running_mean, before)
    assert np.allclose(found, encoder(images).detach().numpy(), atol=1e-6)
