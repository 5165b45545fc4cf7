"""The slices of a store that a pre-training uses: those that filters leave, without near-copies of one another."""

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from medssl_monai.atomic import write_atomically
from medssl_monai.checkpoints.model_card import DESCRIBED, describe_data
from medssl_monai.checkpoints.preprocessing import HOUNSFIELD, PICTURES, Constants, input_of
from medssl_monai.classify.embedder import Embedder
from medssl_monai.classify.forward import forward
from medssl_monai.errors import ConfigError
from medssl_monai.processes import from_first_process, process_rank
from medssl_monai.resources import user_cache
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.redundancy import Mask, RedundancyRule, kept_slices, redundancy_rule
from medssl_monai.store.schema import Filters
from medssl_monai.windows import WindowSpec

VERSION = 1
"""Of the rules: masks that another version computed are computed again."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ThinnedSlices:
    """The slices that a training uses.

    Attributes:
        store: holds them.
        filters: which slices were considered, see `SliceStore.select`.
        rule: which of these were left out.
        mask: (N,) bool of the N considered, in the index's order; None if all are used.
    """

    store: SliceStore
    filters: Filters | None
    rule: RedundancyRule
    mask: Mask | None

    @property
    def kept(self) -> npt.NDArray[np.intp] | None:
        """Positions of those that are used among the considered; None for all. `SliceDataset` takes them."""
        return None if self.mask is None else np.flatnonzero(self.mask)

    @cached_property
    def digest(self) -> str | None:
        """16 hex digits that differ where other slices are left out; None if none are."""
        return None if self.mask is None else hashlib.sha256(np.packbits(self.mask).tobytes()).hexdigest()[:16]

    def describe(self) -> dict[str, Any]:
        """`describe_data` of the slices that are used, and how many of how many they are."""
        table = self.store.select_table(self.filters, DESCRIBED)
        if self.mask is None:
            return describe_data(table)
        counts = f"{np.count_nonzero(self.mask)} of {len(self.mask)} slices, by {self.rule}"
        return {**describe_data(table.filter(self.mask)), "left after thinning": counts}


def thinned_slices(
    store: SliceStore,
    filters: Filters | None = None,
    redundancy: str = "none",
    encoder: str | Path | None = None,
    *,
    window: WindowSpec = "wide",
    mean: Constants = 0.25,
    std: Constants = 0.25,
    device: str | torch.device = "cpu",
) -> ThinnedSlices:
    """Leave out slices that nearly repeat another, by the rule `redundancy` (see `kept_slices`), and log how many.

    What is left is computed once for each content of a store, filters, rule and encoder, and kept in `user_cache`. Of
    several processes the first computes. The global random generators do not move.

    Args:
        store: the slices.
        filters: which are considered.
        redundancy: ``none``, ``hash-6``, ``spacing-5mm``, ``embedding-0.95`` or others of these kinds.
        encoder: for ``embedding``: weights (file or run), which see slices as they were trained to.
        window: with `mean` and `std` what the encoder sees where its weights record no preprocessing; the window also
            says whether the slices are pictures.
        mean: see `window`.
        std: see `window`.
        device: of the encoder.

    Raises:
        ConfigError: no such rule; or an encoder is missing, or was trained on pictures and the slices are in HU, or the
            other way round.
        StoreError: ``spacing``, and the store does not know the distance of slices.
        CheckpointError: the encoder cannot be read.

    Example:
        >>> slices = thinned_slices(store, redundancy="hash-6")  # doctest: +SKIP
        >>> SliceDataset(store, kept=slices.kept)  # doctest: +SKIP
    """
    rule = redundancy_rule(redundancy)
    if rule.kind == "embedding" and not encoder:
        raise ConfigError(
            f"redundancy: {rule} compares features of an encoder, and none is given; give one that has learned from "
            "such images as redundancy_encoder (a run's folder or a file of weights), or take redundancy=hash-6"
        )
    if rule.kind != "embedding" and encoder:
        raise ConfigError(
            f"redundancy_encoder: only embedding-T uses an encoder, and redundancy is {rule}; leave it out, or give "
            "for instance redundancy=embedding-0.95"
        )
    if rule.kind == "none":
        return ThinnedSlices(store, filters, rule, None)
    with torch.random.fork_rng(devices=[]):  # a network is initialised, a loader draws its seed
        embedder = None
        if encoder:
            embedder = Embedder(Path(encoder), default={"window": window, "mean": mean, "std": std})
            if {input_of(window), input_of(embedder.window)} == {PICTURES, HOUNSFIELD}:
                raise ConfigError(
                    f"redundancy_encoder: was trained on {input_of(embedder.window)}, and the slices are "
                    f"{input_of(window)}; give an encoder that was trained on such images, or take redundancy=hash-6"
                )
        considered = store.count(filters)

        def computed() -> torch.Tensor:
            return torch.from_numpy(_cached(store, rule, filters, considered, embedder, device))

        mask = from_first_process(computed, torch.empty(considered, dtype=torch.bool), device).numpy()
    if process_rank() == 0:
        left = np.count_nonzero(mask)
        share = f" ({left / considered:.0%})" if considered else ""
        logger.info("redundancy %s: %d of %d slices are left%s for training", rule, left, considered, share)
    return ThinnedSlices(store, filters, rule, mask)


def _cached(
    store: SliceStore,
    rule: RedundancyRule,
    filters: Filters | None,
    considered: int,
    embedder: Embedder | None,
    device: str | torch.device,
) -> Mask:
    """The mask of the cache, where there is one that fits, else a new one."""
    seen_by = None if embedder is None else embedder.fingerprint
    content = json.dumps([VERSION, store.fingerprint, filters, str(rule), seen_by], default=str)
    path = user_cache() / "redundancy" / f"{hashlib.sha256(content.encode()).hexdigest()[:32]}.npy"
    try:
        mask: Mask = np.load(path, allow_pickle=False)
        if mask.dtype == bool and mask.shape == (considered,):
            return mask
    except (OSError, ValueError, EOFError):  # there is none, or it is damaged
        pass
    features = () if embedder is None else _features(store, filters, embedder, device)
    mask = kept_slices(store, rule, filters, features)
    try:
        write_atomically(path, lambda draft: np.save(draft, mask))
    except OSError as error:
        logger.warning("%s cannot be written (%s), so the next run computes it again", path, error)
    return mask


def _features(
    store: SliceStore, filters: Filters | None, embedder: Embedder, device: str | torch.device
) -> Iterator[npt.NDArray[np.float32]]:
    """Of one slice after another, so that a million need not lie in memory."""
    slices = SliceDataset(store, filters, transform=embedder.view)
    for _, features in forward(embedder.encoder.to(device), slices, description="features for redundancy"):
        yield from features
