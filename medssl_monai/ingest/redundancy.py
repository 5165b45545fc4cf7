"""Slices that add little to the one before: neighbours in a thin-sliced volume look alike, and may be left out.

Nothing leaves the store; the rows that are kept are handed to `SliceDataset`:

    SliceDataset(store, rows=without_redundancy(store.select([["modality", "==", "CT"]]), distance=6))

Wolf et al. 2024, "Less is More: Selective reduction of CT data for self-supervised pre-training", found pre-training on
fewer, more varied slices of a volume to be as good or better, and faster; hashes were among what they compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from medssl_monai.errors import InputError
from medssl_monai.store.measures import hamming_distance

__all__ = ["without_redundancy"]


def without_redundancy(rows: Iterable[dict[str, Any]], distance: int = 6) -> list[dict[str, Any]]:
    """Of each series the first slice, and every one that looks different from the last one kept.

    Args:
        rows: of a store's index, in its order (series, then slices from inferior to superior).
        distance: a slice is left out if its perceptual hash differs from that of the last one kept in at most so many
            of 64 bits; 0 leaves out only slices with equal hashes.

    Raises:
        InputError: the distance does not lie in 0 to 64.
    """
    if not 0 <= distance <= 64:
        raise InputError(f"distance: must lie in 0 to 64 bits, found {distance}; choose about 6")
    kept: list[dict[str, Any]] = []
    for row in rows:
        last = kept[-1] if kept and kept[-1]["series_id"] == row["series_id"] else None
        if last is None or hamming_distance(last["phash"], row["phash"]) > distance:
            kept.append(row)
    return kept
