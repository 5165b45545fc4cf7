"""Scores of active learning, against closed forms and a slow search."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medssl_monai.label_server.choice import diversity, novelty, uncertainty


def test_entropy_of_sure_and_unsure_predictions() -> None:
    found = uncertainty([np.array([1.0, 0, 0]), np.full(3, 1 / 3), np.array([0.5, 0.5, 0])])
    assert found == pytest.approx([0, 1, np.log(2) / np.log(3)])
    both = uncertainty([np.array([0.5, 0.5]), np.array([1.0, 1.0]), np.array([0.5, 1.0])], exclusive=False)
    assert both == pytest.approx([1, 0, 0.5])


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=6))
def test_entropy_does_not_care_for_the_order_of_classes(values: list[float]) -> None:
    p = np.array(values) / sum(values)
    forward, backward = uncertainty([p, p[::-1]])
    assert forward == pytest.approx(backward)
    assert 0 <= forward <= 1 + 1e-9


def studies(seed: int, count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(int(rng.integers(1, 5)), 4)) for _ in range(count)]


def cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def test_distances_against_a_slow_search() -> None:
    candidates, known = studies(0, 5), studies(1, 3)
    slow = [min(cosine_distance(c.mean(0), k.mean(0)) for k in known) for c in candidates]
    assert diversity(candidates, known) == pytest.approx(slow)
    slices = np.concatenate(known)
    slow = [max(min(cosine_distance(s, k) for k in slices) for s in c) for c in candidates]
    assert novelty(candidates, known) == pytest.approx(slow)


def test_farthest_first_covers_every_cluster() -> None:
    """Three clusters of very different size: the first three suggestions are one of each."""
    rng = np.random.default_rng(0)
    clusters = [0] * 20 + [1] * 3 + [2] * 2
    found = [np.eye(3)[c] + rng.normal(scale=0.02, size=(2, 3)) for c in clusters]
    chosen: list[int] = []
    for _ in range(3):
        scores = diversity(found, [found[i] for i in chosen])
        chosen.append(int(scores.argmax()))
    assert {clusters[i] for i in chosen} == {0, 1, 2}
    assert clusters[chosen[0]] == 0, "nothing is covered: the most central is asked for"


def test_one_strange_slice_is_novel_though_the_mean_is_not() -> None:
    plain = np.tile([1.0, 0, 0], (40, 1))
    strange = np.vstack([plain, [[0, 0, 1.0]]])
    assert novelty([plain, strange], [plain]) == pytest.approx([0, 1])
    assert diversity([plain, strange], [plain])[1] < 0.01
    assert novelty([plain, strange], []) == pytest.approx([2, 2])
