"""Temperatures that are known are found; the order of classes stays."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from medssl_monai.statistics.temperature import at_temperature, fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_a_known_temperature_is_found(temperature: float) -> None:
    rng = np.random.default_rng(0)
    honest = rng.normal(size=(6000, 3)) * 2
    labels = np.array([rng.choice(3, p=p) for p in softmax(honest, axis=1)])
    assert fit_temperature(labels, honest * temperature) == pytest.approx(temperature, rel=0.08)
    held = rng.random((6000, 3)) < expit(honest)
    assert fit_temperature(held, honest * temperature, "multilabel") == pytest.approx(temperature, rel=0.08)


def test_probabilities_at_a_temperature_are_those_of_divided_logits() -> None:
    logits = np.random.default_rng(1).normal(size=(50, 4)) * 5
    assert at_temperature(softmax(logits, axis=1), 2.5) == pytest.approx(softmax(logits / 2.5, axis=1), abs=1e-9)
    each = at_temperature(expit(logits), 2.5, "multilabel")
    assert each == pytest.approx(expit(logits / 2.5), abs=1e-9)
    assert (np.argsort(each) == np.argsort(logits)).all()
    same = expit(logits)
    assert at_temperature(same, 1.0) is same
