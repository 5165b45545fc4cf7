"""An encoder as it was trained: slices of a store in, features out."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.checkpoints.load import load_encoder, put_into_resnet
from medssl_monai.checkpoints.start import start_from
from medssl_monai.classify.probes import encoder_features
from medssl_monai.errors import CheckpointError
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.reader import SliceStore
from medssl_monai.transforms import LabelledViewd

UNRECORDED: Mapping[str, Any] = {"window": "wide", "mean": 0.25, "std": 0.25}
"""What is taken of weights that record no preprocessing."""

Floats = npt.NDArray[np.floating[Any]]


class Embedder:
    """An encoder with the view that it was trained on.

    Args:
        weights: a run's folder or a file, as `load_encoder` takes it.
        image_size: side of the view in pixels; None takes the weights' own, else 224.
        default: ``window``, ``mean`` and ``std`` of weights that record none.

    Raises:
        CheckpointError: the weights are no encoder.
    """

    def __init__(self, weights: Path, image_size: int | None = None, default: Mapping[str, Any] = UNRECORDED) -> None:
        state, report = load_encoder(weights)
        self.encoder = resnet_encoder(report.arch)
        put_into_resnet(self.encoder, state, report)
        known = start_from(weights, default=default).prepared
        if known.window is None or known.mean is None or known.std is None:  # the default above fills all three
            raise CheckpointError(f"{weights}: records no window, mean and std; export it again from its run")
        self.window = known.window
        self.image_size = image_size or known.image_size or 224
        spacing = known.channel_spacing_mm or 0.0
        self.view = LabelledViewd(
            "image",
            image_size=self.image_size,
            window=known.window,
            mean=known.mean,
            std=known.std,
            channel_spacing_mm=spacing,
            augment=False,
        )
        about: list[Any] = [report.fingerprint, self.image_size, repr((known.window, known.mean, known.std))]
        about += [spacing] if spacing else []
        self.fingerprint = hashlib.sha256(json.dumps(about).encode()).hexdigest()

    def embed(self, store: SliceStore, rows: Sequence[Mapping[str, Any]]) -> Floats:
        """(N, D) of slices of a store."""
        return encoder_features(self.encoder, SliceDataset(store, rows=rows, transform=self.view))
