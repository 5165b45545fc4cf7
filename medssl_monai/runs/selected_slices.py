"""What the filters leave of a store, said before a pre-training starts."""

import logging
from typing import Any

from medssl_monai.processes import process_rank
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters

logger = logging.getLogger(__name__)

LITTLE = 0.5
"""Share of the slices below which a warning names the filter that removes most."""


def selected_slices(store: SliceStore, filters: Filters | None) -> dict[str, Any]:
    """Log how many slices and patients the filters leave.

    Args:
        store: the store.
        filters: as of `SliceStore.select`; None for all.

    Returns:
        ``slices_in_store`` and ``patients_in_store``, before the filters, for ``run.json``.
    """
    kept = store.count(filters)
    if process_rank() == 0:
        few = kept < LITTLE * len(store)
        logger.log(
            logging.WARNING if few else logging.INFO,
            "the filters leave %d of %d slices, of %s (in the store: %s)%s",
            kept,
            len(store),
            store.patients_told(filters),
            store.patients_told(),
            _most_removed_by(store, filters) if few else "",
        )
    patients = len(store.select_table(None, ["patient"]).column("patient").unique())
    return {"slices_in_store": len(store), "patients_in_store": patients}


def _most_removed_by(store: SliceStore, filters: Filters | None) -> str:
    """The condition that alone leaves least, in words; "" where conditions are alternatives."""
    if not filters or not isinstance(filters[0][0], str):
        return ""
    left = {str(list(one)): store.count([one]) for one in filters}
    worst = min(left, key=lambda name: left[name])
    return f"; {worst} removes most, {len(store) - left[worst]} slices: change filters=[…] if they are wanted"
