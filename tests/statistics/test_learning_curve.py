"""Learning curves: known laws are found again, bands hold as often as they say, infinity is said where it is due."""

import math

import numpy as np
import pytest

from medssl_monai.errors import InputError
from medssl_monai.statistics.learning_curve import FURTHEST, learning_curve

COUNTS = np.array([10.0, 25.0, 50.0])


def law(count: np.ndarray | float, start: float = 0.4, floor: float = 0.1, slope: float = 0.6) -> np.ndarray:
    return 1 - (floor + (start - floor) * (np.asarray(count) / 10) ** -slope)


def figures(means: np.ndarray, spread: float, seeds: int, random: np.random.Generator) -> list[list[float]]:
    found: list[list[float]] = (means[:, None] + spread * random.standard_normal((len(means), seeds))).tolist()
    return found


def test_a_law_is_found_again() -> None:
    counts = np.array([10, 20, 40, 80, 160])
    curve = learning_curve(counts.tolist(), [[float(one)] * 3 for one in law(counts)])
    for count in (10, 160, 320):
        band = curve.at(count)
        assert band.low <= law(count) <= band.high
        assert band.value == pytest.approx(law(count), abs=0.01)
    needed = curve.needed(float(law(240)))
    assert needed.low <= 240 <= needed.high
    assert needed.value == pytest.approx(240, rel=0.2)


def test_bands_hold_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    held = []
    for _ in range(150):
        start = random.uniform(0.2, 0.5)
        shape = {"start": start, "floor": start * random.uniform(), "slope": float(np.exp(random.uniform(-3, 0.7)))}
        curve = learning_curve(COUNTS.tolist(), figures(law(COUNTS, **shape), random.uniform(0.01, 0.05), 5, random))
        band = curve.at(100)
        held.append(band.low <= law(100, **shape) <= band.high)
    assert 0.87 <= np.mean(held) <= 1.0


def test_the_band_of_few_further_trainings_is_wider() -> None:
    curve = learning_curve(COUNTS.tolist(), figures(law(COUNTS), 0.02, 5, np.random.default_rng(1)))
    bands = [curve.at(100), curve.at(100, seeds=5), curve.at(100, seeds=1)]
    widths = [band.high - band.low for band in bands]
    assert widths == sorted(widths) and widths[0] < widths[2]
    assert all(0 <= band.low <= band.value <= band.high <= 1 for band in bands)


def test_what_is_reached_already_and_what_never_is() -> None:
    flat = learning_curve(COUNTS.tolist(), [[0.70, 0.71, 0.69]] * 3)
    assert flat.needed(0.5).high == COUNTS[0]
    never = flat.needed(0.95)
    assert math.isinf(never.value) and math.isinf(never.high)


def test_more_seeds_narrow_the_band() -> None:
    random = np.random.default_rng(2)
    few, many = (learning_curve(COUNTS.tolist(), figures(law(COUNTS), 0.03, seeds, random)) for seeds in (3, 50))
    assert many.at(100).high - many.at(100).low < few.at(100).high - few.at(100).low


def test_the_order_of_the_counts_does_not_matter() -> None:
    given = figures(law(COUNTS), 0.02, 4, np.random.default_rng(3))
    assert learning_curve(COUNTS.tolist(), given).at(80) == learning_curve(COUNTS[::-1].tolist(), given[::-1]).at(80)


@pytest.mark.parametrize(
    ("counts", "values", "said"),
    [
        ([10, 20], [[0.5, 0.6]] * 2, "at least 3 different numbers of labels, found 10, 20"),
        ([10, 20, 20], [[0.5, 0.6]] * 3, "at least 3"),
        ([10, 20, 30], [[0.5, 0.6], [0.5], [0.5, 0.6]], "two or more seeds"),
    ],
)
def test_too_little_to_fit(counts: list[float], values: list[list[float]], said: str) -> None:
    with pytest.raises(InputError, match=said):
        learning_curve(counts, values)


def test_questions_that_have_no_answer() -> None:
    curve = learning_curve(COUNTS.tolist(), figures(law(COUNTS), 0.02, 5, np.random.default_rng(4)))
    for count in (5, FURTHEST * 50 + 1):
        with pytest.raises(InputError, match="from 10 to 500 labels"):
            curve.at(count)
    for figure in (0.0, 1.0, 90.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            curve.needed(figure)
