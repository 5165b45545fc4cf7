"""What an evaluation adds where several labels may hold at once: thresholds from validation, slices worth a look."""

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import log_loss
from torch import nn
from torch.utils.data import DataLoader, Dataset

from medssl_monai.atomic import write_json
from medssl_monai.classify.confidence import fit_confidence
from medssl_monai.classify.explain import Example, choose_examples, draw_explanations
from medssl_monai.classify.multilabel_predictions import MultilabelPredictions
from medssl_monai.classify.predictions import Predictions
from medssl_monai.errors import LabelError
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.folder import run_settings
from medssl_monai.statistics.calibration import (
    expected_calibration_error,
    fit_temperature,
    scale_temperature,
)
from medssl_monai.statistics.multilabel import best_thresholds, multilabel_metrics
from medssl_monai.statistics.temperature import Floats

logger = logging.getLogger(__name__)

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


def evaluate_run(
    run: Path,
    labels: Path,
    out: Path,
    *,
    store: Path | None = None,
    split: str = "test",
    explanations: int = 6,
    calibrate: bool = False,
    **overrides: Any,
) -> dict[str, Any]:
    """Evaluate a run's classifier by its bundle's ``evaluate.yaml``.

    Args:
        run: folder of a fine-tuning run.
        labels: label table.
        out: folder for ``metrics.json``, ``predictions.csv``, ``studies.json`` and figures.
        store: holds the table's sources; None ingests those that are paths.
        split: rows of the table that are used.
        explanations: slices of which ``figures/explanations.png`` shows what spoke for the prediction; 0 draws none.
        calibrate: fit the run's temperature and its reference of training slices anew by this table, and keep them in
            the run, see `fit_confidence`.
        overrides: top-level keys of the bundle.

    Returns:
        The content of ``metrics.json``, with what the table leaves unknown as ``statements``; where the test is judged
        and the table has a validation part, with ``temperature_scaling``, see `temperature_figures`; of several labels
        ``thresholds_by_validation``, see `threshold_figures`.
    """
    settings = run_settings(run)
    workflow = run_bundle(
        [run / "configs" / "train.yaml", run / "configs" / "evaluate.yaml"],
        {
            "bundle_root": str(run),
            "dataset_dir": str(labels),
            "store_dir": None if store is None else str(store),
            "output_dir": str(out),
            "split": split,
            **overrides,
        },
    )
    metrics: dict[str, Any] = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    network, data, view, dataset, handlers = (
        workflow.parser.get_parsed_content(name)
        for name in ("network", "data", "validate::preprocessing", "validate::dataset", "validate::handlers")
    )
    predictions = handlers[0].predictions  # of the evaluation just run, in the order of the data set
    if calibrate:
        fit_confidence(run, network, data, view, settings.get("task", "multiclass"))
    validation: Any = []
    try:
        validation = data.dataset("validation", view, optional=True) if split == "test" else []
    except LabelError as error:  # the store given may hold the test patients alone
        logger.info("no temperature is fitted: %s", error)
    metrics["statements"] = list(data.statements)
    if isinstance(predictions, MultilabelPredictions) and len(validation):
        metrics["thresholds_by_validation"] = threshold_figures(network, validation, predictions)
    elif len(validation):
        metrics["temperature_scaling"] = temperature_figures(network, validation, predictions)
    write_json(out / "metrics.json", metrics)
    if isinstance(predictions, MultilabelPredictions):
        examples = surest_yes(predictions, explanations)
    else:
        examples = choose_examples(predictions, explanations)
    if examples:  # none are asked for, or no label holds in any slice
        draw_explanations(
            network,
            dataset,
            examples,
            predictions.classes,
            out / "figures" / "explanations.png",
            mean=settings["mean"],
            std=settings["std"],
        )
    return metrics


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
    return {
        "temperature": temperature,
        "validation_slices": int(sum(len(part) for part in truth)),
        "ece": [expected_calibration_error(labels, p) for p in (before, after)],
        "log_loss": [_log_loss(labels, p) for p in (before, after)],
    }


def _log_loss(labels: npt.NDArray[np.int64], probabilities: Floats) -> float:
    """0 where a network has one class alone, of which scikit-learn's makes none."""
    every = np.arange(probabilities.shape[1])
    return float(log_loss(labels, scale_temperature(probabilities, 1.0), labels=every)) if len(every) > 1 else 0.0
