"""Which study to label next: scores of active learning, from predictions and embeddings.

Shapes: n studies, C classes, D features; a study's slices are (m, D). The study with the largest score comes first.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating[Any]]

STRATEGIES = {
    "uncertain": "the study with the least certain prediction (entropy of its probabilities)",
    "diverse": "the study furthest from all labelled or suggested studies (k-centre, Sener and Savarese 2018)",
    "unlike_labelled": "the study with the slice least like any labelled slice",
}


def uncertainty(probabilities: Sequence[Floats], *, exclusive: bool = True) -> npt.NDArray[np.float64]:
    """Entropy of each study's probabilities (C,), divided by its maximum: 0 is certain, 1 uniform.

    If the classes do not exclude each other, it is the mean over the classes of the entropy of yes and no.
    """
    found = []
    for row in probabilities:
        p = np.asarray(row, dtype=np.float64)
        if exclusive:
            found.append(_entropy(p) / np.log(max(len(p), 2)))
        else:
            found.append(float(np.mean([_entropy(np.array([one, 1 - one])) for one in p])) / np.log(2))
    return np.asarray(found)


def _entropy(p: npt.NDArray[np.float64]) -> float:
    p = p[p > 0]
    return float(-(p * np.log(p)).sum())


def diversity(candidates: Sequence[Floats], covered: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """Distance, 1 - cosine, of each study's mean embedding to the nearest covered one, in [0, 2].

    Taking the largest repeatedly is Gonzalez's farthest-first traversal, the greedy solution of k-centre (Sener and
    Savarese 2018, arXiv 1708.00489). If nothing is covered, the score is minus the mean distance to all others, which
    is largest for the most central study.

    Args:
        candidates: slices (m, D) of each study.
        covered: slices of each study that has been labelled or suggested.
    """
    means = _unit(np.stack([np.asarray(c, np.float64).mean(axis=0) for c in candidates]))
    if not covered:
        return np.asarray(-(1 - means @ means.T).mean(axis=1))
    known = _unit(np.stack([np.asarray(c, np.float64).mean(axis=0) for c in covered]))
    return np.asarray((1 - means @ known.T).min(axis=1))


def novelty(candidates: Sequence[Floats], labelled: Sequence[Floats]) -> npt.NDArray[np.float64]:
    """Distance, 1 - cosine, from each study's least familiar slice to its nearest labelled slice, in [0, 2].

    It finds a study that looks ordinary on average but has one unusual slice, which `diversity` misses. If nothing is
    labelled, every study has 2.
    """
    if not labelled:
        return np.full(len(candidates), 2.0)
    known = _unit(np.concatenate([np.asarray(one, np.float64) for one in labelled]))
    return np.asarray([float((1 - _unit(np.asarray(c, np.float64)) @ known.T).min(axis=1).max()) for c in candidates])


def _unit(vectors: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12))
