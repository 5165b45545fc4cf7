"""How well a trained SparK reconstructs the masked part of slices, also of slices that it was not trained on."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader

from medssl_monai.atomic import write_json
from medssl_monai.errors import CheckpointError
from medssl_monai.methods.spark import SparK
from medssl_monai.progress import progress_bar
from medssl_monai.store.epochs import EpochDataset, SampleKey


def load_method(method: torch.nn.Module, checkpoint: str | Path) -> None:
    """Load a whole method (encoder, decoder and all) from a run's ``checkpoints/last.pt``; nothing is unpickled.

    Raises:
        CheckpointError: the file cannot be read, or is of another method or size.
    """
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["method"]
        method.load_state_dict(state)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise CheckpointError(
            f"{checkpoint} is not the checkpoint of this method ({type(error).__name__}: {reason}); give a "
            "pre-training run with the same arch and decoder_width"
        ) from error


@torch.no_grad()
def evaluate_reconstruction(
    method: SparK,
    dataset: EpochDataset,
    output_dir: str | Path,
    device: str | torch.device = "cpu",
    batch_size: int = 32,
) -> dict[str, Any]:
    """Mean squared error of normalised masked patches (SparK's loss; 1 is what predicting each patch's mean gives).

    The views and masks are those that the dataset draws in epoch 0; the method is in evaluation mode.

    Args:
        method: with its weights.
        dataset: items with ``views``, ``mask`` and ``series_id``.
        output_dir: ``metrics.json`` is written there.
        device: where to compute.
        batch_size: slices a forward pass; has no influence on the result.

    Returns:
        ``loss`` over all slices, and ``per_series``; JSON-ready.
    """
    method.to(device).eval()
    losses: dict[str, list[float]] = defaultdict(list)
    keys = [SampleKey(0, index) for index in range(len(dataset))]
    loader = DataLoader(dataset, batch_size, sampler=keys)
    for batch in progress_bar(loader, desc="evaluating", unit="batch"):
        image, mask = batch["views"][0].to(device), batch["mask"].to(device)
        for i, series in enumerate(batch["series_id"]):  # one by one: a batch's loss is weighted by masked patches
            one = method({"views": [image[i : i + 1]], "mask": mask[i : i + 1]}, None)
            losses[series].append(float(one["loss"]))
    means = {series: sum(values) / len(values) for series, values in sorted(losses.items())}
    count = sum(len(values) for values in losses.values())
    result = {"slices": count, "loss": sum(sum(values) for values in losses.values()) / count, "per_series": means}
    write_json(Path(output_dir) / "metrics.json", result)
    return result
