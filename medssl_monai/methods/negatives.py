"""Which keys are negatives of a query: those of all slices, of other series, or of other patients.

Slices of one series show one patient, and neighbouring slices nearly the same anatomy. A loss that pushes them apart
works against what the features are for.
"""

from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medssl_monai.errors import ConfigError, suggestion
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters

Negatives = Literal["all", "other_series", "other_patients"]
_COLUMNS = {"other_series": "series_id", "other_patients": "patient"}


def slice_origins(
    negatives: str,
    store: SliceStore,
    filters: Filters | None = None,
    kept: NDArray[np.integer[Any]] | None = None,
) -> Tensor | None:
    """What each slice belongs to: (N,) int64, equal for slices of one series or patient; None for ``all``.

    Args:
        negatives: ``all``, ``other_series`` or ``other_patients``. Series of unknown patients count as patients.
        store: the slices.
        filters: which of them a `SliceDataset` has; see there.
        kept: as of `SliceDataset`.

    Raises:
        ConfigError: `negatives` is none of the three; or all slices are of one series or patient, so that no key would
            be left.

    Example:
        >>> origins = slice_origins("other_series", store)  # doctest: +SKIP
        >>> MoCo("resnet50", origins=origins)  # doctest: +SKIP
    """
    if negatives not in get_args(Negatives):
        raise ConfigError(
            f"negatives: must be {', '.join(get_args(Negatives))}, found {negatives!r}"
            f"{suggestion(str(negatives), get_args(Negatives))}; choose one of these"
        )
    if negatives == "all":
        return None
    origins = store.selection(filters).rows[_COLUMNS[negatives]]
    origins = (origins if kept is None else origins[kept]).astype(np.int64)
    found = len(np.unique(origins))
    if found < 2:
        raise ConfigError(
            f"negatives: {negatives} needs slices of at least two {negatives.removeprefix('other_')}, found "
            f"{found}; give negatives=all, or more data"
        )
    return torch.from_numpy(origins)
