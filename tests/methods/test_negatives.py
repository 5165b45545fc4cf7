"""Which slices belong together, so that their keys are no negatives."""

from typing import Any

import numpy as np
import pytest

from medssl_monai.errors import ConfigError
from medssl_monai.ingest import SliceStore
from medssl_monai.methods.negatives import slice_origins


@pytest.mark.parametrize(("negatives", "column"), [("other_series", "series_id"), ("other_patients", "patient")])
def test_slices_of_one_origin_have_one_number(negatives: str, column: str, phantom_store: SliceStore) -> None:
    filters = [["slice", ">=", 2]]
    kept = np.array([0, 3, 4, 9, 19])
    names = [row[column] for row in phantom_store.select(filters)]
    for taken in (None, kept):
        origins = slice_origins(negatives, phantom_store, filters, taken)
        assert origins is not None
        here = names if taken is None else [names[i] for i in taken]
        same = np.array([[one == other for other in here] for one in here])
        assert (origins[:, None] == origins).numpy().tolist() == same.tolist()
    assert slice_origins("all", phantom_store, filters) is None


def test_what_leaves_no_negatives_is_refused(phantom_store: SliceStore) -> None:
    one: list[Any] = ["patient", "==", phantom_store.select()[0]["patient"]]
    with pytest.raises(ConfigError, match=r"at least two patients, found 1; give negatives=all, or more data"):
        slice_origins("other_patients", phantom_store, [one])
    with pytest.raises(ConfigError, match=r"negatives: must be all, .* \(did you mean 'other_series'\?\); choose"):
        slice_origins("others_series", phantom_store)
