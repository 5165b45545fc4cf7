"""What an evaluation adds where several labels may hold at once: thresholds from validation, slices worth a look."""

from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medssl_monai.classify.explain import Example
from medssl_monai.classify.multilabel_predictions import MultilabelPredictions
from medssl_monai.statistics.multilabel import best_thresholds, multilabel_metrics

__all__ = ["surest_yes", "threshold_figures"]

SHOWN = ("accuracy", "exact_match", "balanced_accuracy", "f1_macro", "f1_micro")


@torch.no_grad()
def threshold_figures(
    network: nn.Module, validation: Dataset[dict[str, Any]], predictions: MultilabelPredictions, batch_size: int = 32
) -> dict[str, Any]:
    """Thresholds with the best F1 on the validation slices, and what they would make of other predictions.

    Args:
        network: images to logits (B, C); put into evaluation mode.
        validation: items with ``image`` and ``label`` (C,), one or more.
        predictions: labelled, of slices that are not among them.
        batch_size: slices a forward pass; has no influence.

    Returns:
        ``thresholds`` by name, of the network's own probabilities (see `chosen_thresholds`), ``validation_slices``, and
        some of `multilabel_metrics`, each [before, after]; JSON-ready.
    """
    network.eval()
    device = next(network.parameters()).device
    parts, truth = [], []
    for batch in DataLoader(validation, batch_size=batch_size):
        parts.append(network(batch["image"].to(device)).float().sigmoid().cpu().numpy())
        truth.append(np.asarray(batch["label"]) > 0.5)
    found = best_thresholds(np.concatenate(truth), np.concatenate(parts))
    labels, probabilities = predictions.truth(), np.stack(predictions.probabilities)
    before, after = (
        multilabel_metrics(labels, probabilities, predictions.classes, cuts)
        for cuts in (predictions.cuts, np.asarray(found))
    )
    return {
        "thresholds": dict(zip(predictions.classes, found, strict=True)),
        "validation_slices": sum(len(part) for part in truth),
        **{name: [before[name], after[name]] for name in SHOWN},
    }


def surest_yes(predictions: MultilabelPredictions, count: int) -> list[Example]:
    """Of each label the slice where it holds and is surest, until there are ``count``."""
    labels, probabilities = predictions.truth(), np.stack(predictions.probabilities)
    found = []
    for c in range(len(predictions.classes)):
        places = np.flatnonzero(labels[:, c])
        if len(places):
            i = int(places[probabilities[places, c].argmax()])
            found.append(Example(i, c, c, float(probabilities[i, c])))
    return found[:count]
