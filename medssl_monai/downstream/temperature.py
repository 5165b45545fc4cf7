"""What temperature scaling would make of a classifier's confidence: fitted on validation slices, judged on others."""

from typing import Any

import numpy as np
import torch
from sklearn.metrics import log_loss
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medssl_monai.downstream.calibration import expected_calibration_error, fit_temperature, scale_temperature
from medssl_monai.downstream.predictions import Predictions

__all__ = ["temperature_figures"]


@torch.no_grad()
def temperature_figures(
    network: nn.Module, validation: Dataset[dict[str, Any]], predictions: Predictions, batch_size: int = 32
) -> dict[str, Any]:
    """Temperature by the validation slices, and calibration of other predictions before and after it.

    The class predicted, and with it every figure but calibration error and log loss, stays the same.

    Args:
        network: images to logits; put into evaluation mode.
        validation: items with ``image`` and ``label``, one or more.
        predictions: labelled, of slices that are not among them.
        batch_size: slices a forward pass; has no influence.

    Returns:
        ``temperature``, ``validation_slices``, ``ece`` and ``log_loss``, each [before, after]; JSON-ready.
    """
    network.eval()
    device = next(network.parameters()).device
    parts, truth = [], []
    for batch in DataLoader(validation, batch_size=batch_size):
        parts.append(network(batch["image"].to(device)).float().softmax(dim=1).cpu().numpy())
        truth.append(np.asarray(batch["label"]))
    temperature = fit_temperature(np.concatenate(truth), np.concatenate(parts))
    labels, before = np.asarray(predictions.labels, dtype=np.int64), np.stack(predictions.probabilities)
    after = scale_temperature(before, temperature)
    every = np.arange(before.shape[1])
    return {
        "temperature": temperature,
        "validation_slices": int(sum(len(part) for part in truth)),
        "ece": [expected_calibration_error(labels, p) for p in (before, after)],
        "log_loss": [float(log_loss(labels, scale_temperature(p, 1.0), labels=every)) for p in (before, after)],
    }
