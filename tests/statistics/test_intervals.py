"""Intervals and tests between methods against slow oracles, the reference's metrics, and laws."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import f1_score, roc_auc_score

from medssl_monai.classify.figures import draw_reliability
from medssl_monai.classify.predictions import Predictions
from medssl_monai.statistics.calibration import expected_calibration_error, reliability
from medssl_monai.statistics.comparison import delong_test, holm, paired_permutation
from medssl_monai.statistics.intervals import bootstrap_figures, patient_intervals, weighted_auc
from medssl_monai.statistics.metrics import balanced_accuracy, classification_metrics, text_report
from medssl_monai.statistics.multilabel import label_bootstrap
from medssl_monai.statistics.temperature import at_temperature, fit_temperature
from medssl_monai.terminal import metrics_table
from tests.golden import fill

Array = npt.NDArray[Any]
GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def made(
    slices: int = 60, patients: int = 12, classes: int = 3, seed: int = 0, signal: float = 1.0
) -> tuple[Array, Array, Array]:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, slices)
    logits = generator.normal(size=(slices, classes)) + signal * np.eye(classes)[labels]
    owners = np.array([f"p{i % patients:02d}" for i in range(slices)])
    return labels, softmax(logits, axis=1), owners


def test_the_references_figures() -> None:
    meta, arrays = fill.load(GOLDEN / "downstream_metrics.npz")
    for i, case in enumerate(meta["cases"]):
        labels = arrays[f"c{i}_labels"]
        probabilities = softmax(arrays[f"c{i}_logits"].astype(np.float64), axis=1)
        classes = [str(c) for c in range(case["classes"])]
        figures, logged = classification_metrics(labels, probabilities, classes), case["logged"]
        assert figures["accuracy"] == pytest.approx(logged["test/Accuracy"], abs=1e-6)
        assert figures["log_loss"] == pytest.approx(logged["val/loss"], abs=1e-6)
        if case["classes"] == 2:
            binary = figures["binary"]
            assert binary["positive_class"] == "1"
            assert binary["auc"] == pytest.approx(logged["test/AUC"], abs=1e-6)
            assert binary["f1"] == pytest.approx(logged["test/F1"], abs=1e-6)
            assert binary["precision"] == pytest.approx(logged["test/Precision"], abs=1e-6)
        else:
            assert figures["auc"] == pytest.approx(logged["test/AUC"], abs=1e-6)
            assert figures["f1_micro"] == pytest.approx(logged["test/F1"], abs=1e-6)


def test_calibration_by_hand() -> None:
    labels = np.array([0, 0, 1, 1])
    probabilities = np.array([[0.95, 0.05], [0.95, 0.05], [0.95, 0.05], [0.3, 0.7]])
    table = reliability(labels, probabilities, bins=10)
    assert table.count.tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 3]
    assert table.accuracy[9] == pytest.approx(2 / 3)
    assert table.error == pytest.approx((3 * (0.95 - 2 / 3) + 1 * 0.3) / 4)
    assert expected_calibration_error(np.array([0, 1]), np.eye(2)) == 0.0


def test_temperature_finds_what_was_done() -> None:
    generator = np.random.default_rng(0)
    probabilities = softmax(generator.normal(size=(20_000, 3)) * 2, axis=1)
    labels = (probabilities.cumsum(1) < generator.random((20_000, 1))).sum(1)  # calibrated by construction
    overdone = at_temperature(probabilities, 0.4)
    assert fit_temperature(labels, np.log(overdone)) == pytest.approx(2.5, rel=0.05)
    assert expected_calibration_error(labels, at_temperature(overdone, 2.5)) < 0.02
    assert (overdone.argmax(1) == probabilities.argmax(1)).all()


def test_resampled_figures_are_those_of_repeated_slices() -> None:
    labels, probabilities, owners = made()
    drawn = bootstrap_figures(labels, probabilities, owners, resamples=20, seed=3)
    generator = np.random.Generator(np.random.Philox(3))
    names = np.unique(owners)
    for r, counts in enumerate(generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=20)):
        rows = np.concatenate(
            [np.flatnonzero(owners == n) for n, c in zip(names, counts, strict=True) for _ in range(c)]
        )
        truth, shares = labels[rows], probabilities[rows]
        predicted = shares.argmax(1)
        assert drawn["balanced_accuracy"][r] == pytest.approx(balanced_accuracy(truth, predicted))
        assert drawn["f1_macro"][r] == pytest.approx(
            f1_score(truth, predicted, labels=np.unique(truth), average="macro", zero_division=0)
        )
        assert drawn["ece"][r] == pytest.approx(expected_calibration_error(truth, shares))
        areas = [roc_auc_score(truth == c, shares[:, c]) for c in np.unique(truth)]
        assert drawn["auc"][r] == pytest.approx(np.mean(areas))


def test_figures_of_folds_are_the_mean_over_the_folds() -> None:
    labels, probabilities, owners = made()
    folds = np.unique(owners, return_inverse=True)[1] % 3
    drawn = bootstrap_figures(labels, probabilities, owners, resamples=20, seed=3, folds=folds)
    generator = np.random.Generator(np.random.Philox(3))
    names = np.unique(owners)
    for r, counts in enumerate(generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=20)):
        weights = counts[np.unique(owners, return_inverse=True)[1]]
        rows = [np.flatnonzero((folds == fold) & (weights > 0)) for fold in range(3)]
        right = [np.average((probabilities[i].argmax(1) == labels[i]), weights=weights[i]) for i in rows if len(i)]
        assert drawn["accuracy"][r] == pytest.approx(np.mean(right))
        areas = [
            np.mean([roc_auc_score(labels[i] == c, probabilities[i, c], sample_weight=weights[i]) for c in held])
            for i in rows
            if len(held := np.unique(labels[i])) > 1
        ]
        assert drawn["auc"][r] == pytest.approx(np.mean(areas))


def test_scores_of_two_folds_are_not_ranked_together() -> None:
    """Each network is right about its own slices; the scores of the second are higher throughout."""
    labels = np.tile([0, 1], 20)
    scores = np.where(np.arange(40) < 20, 0.1, 0.5) + 0.2 * labels
    owners, folds = np.arange(40).astype(str), np.arange(40) // 20
    judged = labels, np.stack([1 - scores, scores], axis=1), owners
    assert bootstrap_figures(*judged, resamples=50, seed=0)["auc"].mean() < 0.8
    assert (bootstrap_figures(*judged, resamples=50, seed=0, folds=folds)["auc"] == 1).all()
    several = np.stack([labels == 0, labels == 1], axis=1)
    how: dict[str, Any] = {"thresholds": np.full(2, 0.5), "resamples": 50, "seed": 0}
    assert (label_bootstrap(several, *judged[1:], folds=folds, **how)["auc"] == 1).all()
    assert label_bootstrap(several, *judged[1:], **how)["auc"].mean() < 0.8


@pytest.mark.filterwarnings("error")
def test_a_fold_that_a_resample_leaves_out_does_not_count() -> None:
    labels = np.array([0, 1] * 10 + [0])
    probabilities = np.eye(2)[labels]
    owners, folds = np.repeat(np.arange(11), 2)[:21].astype(str), np.repeat([0, 1], [20, 1])
    drawn = bootstrap_figures(labels, probabilities, owners, resamples=50, seed=0, folds=folds)
    for name in ("accuracy", "balanced_accuracy", "f1_macro", "auc"):
        assert (drawn[name] == 1).all(), name
    several = np.stack([labels == 0, labels == 1], axis=1)
    drawn = label_bootstrap(several, probabilities, owners, np.full(2, 0.5), resamples=50, seed=0, folds=folds)
    assert (drawn["accuracy"] == 1).all()


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.integers(0, 3)), min_size=2, max_size=20))
def test_weighted_area_is_scikit_learns(cases: list[tuple[bool, int, int]]) -> None:
    truth, scores, weights = (np.array(column) for column in zip(*cases, strict=True))
    found = weighted_auc(truth.astype(bool), scores.astype(float), weights[None])[0]
    if weights[truth].sum() and weights[~truth].sum():
        assert found == pytest.approx(roc_auc_score(truth, scores, sample_weight=weights))
    else:
        assert np.isnan(found)


def test_intervals_hold_the_figure_and_shrink_with_patients() -> None:
    few, many = (patient_intervals(*made(slices=10 * n, patients=n), resamples=300) for n in (12, 120))
    for found, n in ((few, 12), (many, 120)):
        labels, probabilities, _ = made(slices=10 * n, patients=n)
        low, high = found["figures"]["accuracy"]
        assert low < (probabilities.argmax(1) == labels).mean() < high
    width = [f["figures"]["accuracy"][1] - f["figures"]["accuracy"][0] for f in (few, many)]
    assert width[1] < width[0] / 2


def test_slices_of_one_patient_do_not_count_as_many() -> None:
    """All slices of a patient right or wrong together: the interval is as wide as that of the patients."""
    right = np.array([1] * 12 + [0] * 8)
    labels = np.zeros(2000, dtype=np.int64)
    owners = np.repeat([f"p{i:02d}" for i in range(20)], 100)
    confident = np.repeat(right, 100)[:, None] * [0.9, 0.1] + np.repeat(1 - right, 100)[:, None] * [0.1, 0.9]
    low, high = patient_intervals(labels, confident, list(owners))["figures"]["accuracy"]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.6 * 0.4 / 20), rel=0.15)


def test_too_few_patients_are_said_plainly() -> None:
    found = patient_intervals(*made(patients=6))
    assert "figures" not in found
    assert found["note"] == "6 patients, fewer than 10: too few for an interval; read the figures by patient"
    labels, probabilities, _ = made()
    assert "patients unknown" in patient_intervals(labels, probabilities, [""] * len(labels))["note"]


def delong_slowly(positive: Array, first: Array, second: Array) -> tuple[float, float]:
    """The 1988 paper's definition, pair by pair."""

    def kernel(scores: Array) -> Array:
        ups, downs = scores[positive], scores[~positive]
        return np.asarray((ups[:, None] > downs) + 0.5 * (ups[:, None] == downs))

    tables = [kernel(s) for s in (first, second)]
    over_ups = np.cov([t.mean(1) for t in tables])
    over_downs = np.cov([t.mean(0) for t in tables])
    s = over_ups / positive.sum() + over_downs / (~positive).sum()
    return float(tables[0].mean() - tables[1].mean()), float(s[0, 0] + s[1, 1] - 2 * s[0, 1])


@given(st.integers(0, 1000))
@settings(max_examples=25)
def test_delong_is_the_papers_definition(seed: int) -> None:
    generator = np.random.default_rng(seed)
    positive = np.arange(24) < generator.integers(3, 20)
    first, second = (generator.integers(0, 8, 24) + 2.0 * positive * generator.random() for _ in range(2))
    found = delong_test(positive, first, second)
    difference, variance = delong_slowly(positive, first, second)
    assert found.first == pytest.approx(roc_auc_score(positive, first))
    assert found.first - found.second == pytest.approx(difference)
    assert found.variance == pytest.approx(variance, abs=1e-12)
    again = delong_test(positive, second, first)
    assert again.p == pytest.approx(found.p)
    assert delong_test(positive, first, first).p == 1.0


def test_delong_needs_both_sides() -> None:
    with pytest.raises(ValueError, match="two positive and two negative"):
        delong_test(np.array([True, False, False]), np.arange(3.0), np.arange(3.0))


def test_fast_exchange_equals_the_slow_one() -> None:
    labels, first, owners = made(patients=10)
    second = made(patients=10, seed=1)[1][np.random.default_rng(2).permutation(60)]

    def judge(truth: Array, shares: Array) -> float:
        return balanced_accuracy(truth, shares.argmax(1))

    fast, slow = (paired_permutation(labels, first, second, owners, metric=m) for m in (None, judge))
    assert fast.difference == slow.difference
    assert fast.p == slow.p
    assert "1024 all" in fast.note


def test_permutation_tells_a_better_method_from_an_equal_one() -> None:
    labels, noise, owners = made(slices=200, patients=20, signal=0)
    good = made(slices=200, patients=20, signal=3)[1]
    found = paired_permutation(labels, good, noise, owners, permutations=500)
    assert found.p is not None
    assert found.p < 0.01
    assert found.difference > 0.3
    same = paired_permutation(labels, noise, noise, owners, permutations=500)
    assert same.p == 1.0
    assert paired_permutation(labels, good, noise, ["a"] * 200).p is None


def test_holm_by_hand_and_by_law() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_only_raises_and_keeps_order(values: list[float]) -> None:
    adjusted = holm(values)
    assert all(a >= v for a, v in zip(adjusted, values, strict=True))
    assert max(adjusted) <= 1
    order = np.argsort(values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_studies_are_judged_where_they_have_a_label(tmp_path: Path) -> None:
    predictions = Predictions(["a", "b"])
    _, probabilities, _ = made(slices=40, classes=2, signal=2)
    for i in range(40):
        predictions.add(probabilities[i], f"s{i % 4}", i // 4, f"p{i % 4}", int(i % 4 > 1))
    studies = predictions.metrics()["studies"]
    assert studies["studies"] == 4
    assert studies["pooling"] == "mean"
    predictions.labels[0] = 1
    assert predictions.metrics()["studies"] is None
    predictions.patients = [""] * 40
    assert predictions.metrics()["per_patient"] == {}
    predictions.write(tmp_path)
    assert "precision" in (tmp_path / "classification_report.txt").read_text()
    assert (tmp_path / "figures" / "reliability.png").stat().st_size > 10_000


def test_table_shows_intervals() -> None:
    labels, probabilities, owners = made()
    predictions = Predictions(["a", "b", "c"])
    for i in range(60):
        predictions.add(probabilities[i], f"s{i}", 0, owners[i], int(labels[i]))
    metrics = {**predictions.metrics(), "intervals": patient_intervals(labels, probabilities, owners, resamples=50)}
    table = metrics_table(metrics)
    assert table.row_count == 14
    assert "12 patients" in str(table.caption)
    assert text_report(labels, probabilities, ["a", "b", "c"]).startswith(" ")


def test_reliability_picture(tmp_path: Path) -> None:
    labels, probabilities, _ = made(slices=500)
    draw_reliability(reliability(labels, probabilities), tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
