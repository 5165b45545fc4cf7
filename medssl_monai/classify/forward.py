"""A network's pass over a data set: every use of a trained network goes through this loop."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medssl_monai.progress import progress_bar

BATCH = 32


@torch.inference_mode()
def forward(
    network: nn.Module, dataset: Dataset[dict[str, Any]], batch_size: int = BATCH, *, description: str | None = None
) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.float32]]]:
    """Pass every item's ``image`` through a network in evaluation mode, on the device of its parameters.

    Args:
        network: (B, 3, H, W) -> (B, D); put into evaluation mode.
        dataset: items with ``image``, and whatever else the caller reads from the batch.
        batch_size: images a forward pass; does not change the outputs.
        description: of a progress bar; None shows none.

    Yields:
        Each batch, and the network's outputs (B, D) float32 for it.
    """
    network.eval()
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    # Its own generator: a look at the features in the middle of a training must not move the global one.
    own = torch.Generator().manual_seed(0)
    loader: DataLoader[dict[str, Any]] = DataLoader(dataset, batch_size=batch_size, generator=own)
    for batch in progress_bar(loader, desc=description, unit="batch", shown=description is not None):
        yield batch, network(batch["image"].to(device)).float().cpu().numpy()
