"""Cross-validation of pictures that have no split of their own."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import StratifiedGroupKFold

from medssl_monai.errors import ConfigError
from medssl_monai.labels.subsets import grouped_split

FOLDS = 5
VALIDATION = 0.15
"""Share of what is not tested on that is held out for validation."""


def fold_splits(labels: npt.NDArray[np.int64], groups: Sequence[str], fold: int) -> dict[str, list[int]]:
    """Positions of train, validation and test in one fold of a stratified cross-validation.

    Args:
        labels: (N,) class indices.
        groups: per picture; a group is never on both sides.
        fold: 0 to 4 are the folds of a first draw, which together test each picture once; 5 to 9 those of a second
            draw, and so on.

    Raises:
        ConfigError: the fold is negative, or there are too few pictures.
    """
    if not isinstance(fold, int) or fold < 0:
        raise ConfigError(f"fold: must be a whole number from 0, found {fold!r}; 0 to {FOLDS - 1} are the first draw's")
    fewest = min(
        (len({groups[int(i)] for i in np.flatnonzero(labels == label)}) for label in np.unique(labels)), default=0
    )
    if fewest < FOLDS or len(np.unique(labels)) < 2:
        raise ConfigError(f"folds: a cross-validation needs {FOLDS} pictures of each class, found {fewest}; give more")
    draw, place = divmod(fold, FOLDS)
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=draw).split(labels, labels, groups)
    learned, tested = list(folds)[place]
    train, validation = grouped_split(labels[learned], [groups[i] for i in learned], VALIDATION, seed=fold)
    return {
        "train": [int(learned[i]) for i in train],
        "validation": [int(learned[i]) for i in validation],
        "test": [int(i) for i in tested],
    }
