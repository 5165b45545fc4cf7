"""Evaluate a fine-tuned run on labelled slices: metrics, figures, and what the validation slices add to them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import nn
from torch.utils.data import Dataset

from medssl_monai.classify.confidence import fit_confidence
from medssl_monai.classify.explain import choose_examples
from medssl_monai.classify.forward import forward
from medssl_monai.classify.heat_maps import draw_explanations
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.view import ImageViewd
from medssl_monai.classify.predictions import Predictions
from medssl_monai.errors import LabelError
from medssl_monai.labels.names import checked_split
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.folder import run_settings
from medssl_monai.runs.settings import check_results_folder, place_given
from medssl_monai.statistics.calibration import expected_calibration_error
from medssl_monai.statistics.metrics import mean_log_loss
from medssl_monai.statistics.multilabel import best_thresholds, multilabel_metrics
from medssl_monai.statistics.temperature import at_temperature, fit_temperature, probabilities_of
from medssl_monai.store.names_file import paths_of

logger = logging.getLogger(__name__)

SHOWN = ("accuracy", "exact_match", "balanced_accuracy", "f1_macro", "f1_micro")

Slices = Dataset[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation.

    Attributes:
        folder: with ``metrics.json``, ``predictions.csv``, ``studies.json`` and ``figures/``.
        metrics: the content of ``metrics.json``, see `Predictions.metrics`; also ``statements``, what the labels leave
            unknown, and, where the test slices are judged and there are validation slices, ``temperature_scaling``
            (`temperature_figures`) or, of several labels, ``thresholds_by_validation`` (`threshold_figures`).
        predictions: one row a slice, see `Predictions.table`.
    """

    folder: Path
    metrics: Mapping[str, Any]
    predictions: pa.Table


def evaluate(
    run: str | Path,
    data: str | Path,
    out: str | Path,
    *,
    store: str | Path | None = None,
    split: str = "test",
    names: str | Path | None = None,
    **overrides: Any,
) -> Evaluation:
    """Evaluate a run's classifier by its bundle's ``evaluate.yaml``.

    Args:
        run: folder of a fine-tuning run.
        data: label table; of a run on pictures what it was fine-tuned on.
        out: folder for the files.
        store: holds the table's sources; None ingests those that are paths.
        split: rows of the table that are used.
        names: names file of the store (see `store.names_file`): paths are written into the tables and figures. Pictures
            always have their path in the folder of the data set there.
        overrides: top-level keys of the bundle: ``explanations`` (slices that are drawn with Grad-CAM, 6 by default),
            ``calibrate`` (fit the run's temperature and reference again by this table, see `fit_confidence`),
            ``figures`` (False saves seconds), ``thresholds`` and others.

    Raises:
        CheckpointError: ``run`` is no finished fine-tuning run.
        LabelError: the labels do not fit the data or the run's classes.
        ConfigError: `out` holds something other than an evaluation.

    Example:
        >>> evaluation = evaluate("runs/head", "labels.csv", "out")
        >>> evaluation.metrics["all_slices"]["auc"], evaluation.predictions.to_pandas().head()
    """
    folder = Path(place_given(run, "run"))
    run_settings(folder)  # refuses what is no finished run
    check_results_folder(place_given(out, "out"), "an evaluation")
    workflow = run_bundle(
        [folder / "configs" / "train.yaml", folder / "configs" / "evaluate.yaml"],
        {
            "bundle_root": str(folder),
            "dataset_dir": place_given(data, "data"),
            "store_dir": None if store is None else place_given(store, "store"),
            "output_dir": str(out),
            "split": checked_split(split),
            **({} if names is None else {"names": str(names)}),
            **overrides,
        },
    )
    evaluation: Evaluation = workflow.parser.get_parsed_content("evaluation")
    return evaluation


def write_evaluation(
    output_dir: str | Path,
    predictions: Predictions,
    network: nn.Module,
    data: Any,
    view: Any,
    *,
    split: str = "test",
    figures: bool = True,
    explanations: int = 6,
    calibrate: str | Path | None = None,
    mean: float | Sequence[float] = 0.0,
    std: float | Sequence[float] = 1.0,
    names: str | Path | None = None,
) -> Evaluation:
    """Write what an evaluator has predicted; the last step of ``evaluate.yaml``.

    Args:
        output_dir: for the files.
        predictions: of the split, in the order of its data set.
        network: images to logits.
        data: as `LabelledData`.
        view: the evaluation view.
        split: that was predicted.
        figures: see `Predictions.write`.
        explanations: slices of which ``figures/explanations.png`` shows what spoke for the prediction; 0 draws none.
        calibrate: folder of the run, whose confidence is fitted again; None leaves it.
        mean: that views are normalised by.
        std: likewise.
        names: see `evaluate`.
    """
    folder = Path(output_dir)
    predictions.sources = _sources(data, predictions.series, names)
    if calibrate is not None:
        fit_confidence(calibrate, network, data, view, predictions.task)
    validation: Any = []
    try:
        validation = data.dataset("validation", view, optional=True) if split == "test" else []
    except LabelError as error:  # the store given may hold the test patients alone
        logger.info("the validation slices are not used: %s", error)
    more: dict[str, Any] = {"statements": list(data.statements)}
    if len(validation) and predictions.task == "multilabel":
        more["thresholds_by_validation"] = threshold_figures(network, validation, predictions)
    elif len(validation):
        more["temperature_scaling"] = temperature_figures(network, validation, predictions)
    metrics = predictions.write(folder, figures=figures, more=more)
    examples = choose_examples(predictions, explanations)
    if examples:  # none are asked for, or no label holds in any slice
        path, dataset = folder / "figures" / "explanations.png", data.dataset(split, view)
        stretched = isinstance(view, ImageViewd)
        draw_explanations(
            network,
            dataset,
            examples,
            predictions.classes,
            path,
            mean=mean,
            std=std,
            pictures=data.dataset(split) if stretched else None,
            transposed=stretched and view.transpose,
            channel=1 if getattr(view, "channel_spacing_mm", 0) else 0,  # the slice itself between its neighbours
            captions=[_caption(predictions, example.index, stretched) for example in examples],
        )
    return Evaluation(folder, metrics, predictions.table())


def _sources(data: Any, series: Sequence[str], names: str | Path | None) -> dict[str, str]:
    """Paths by series: of pictures those within their folder, which need no names file."""
    if isinstance(data, ImageData):
        return data.files_by_key()
    return {} if names is None else paths_of(Path(names), set(series))


def _caption(predictions: Predictions, index: int, is_picture: bool) -> str:
    """What a slice is called in a figure: its file or series, and its number."""
    series = predictions.series[index]
    name = Path(predictions.sources.get(series, series)).name
    return name if is_picture else f"{name}, slice\N{NO-BREAK SPACE}{predictions.slices[index]}"


def temperature_figures(network: nn.Module, validation: Slices, predictions: Predictions) -> dict[str, Any]:
    """Temperature by the validation slices, and calibration of other predictions before and after it.

    The class predicted, and with it every figure but calibration error and log loss, stays the same.

    Args:
        network: images to logits; put into evaluation mode.
        validation: items with ``image`` and ``label``, one or more.
        predictions: labelled, of slices that are not among them.

    Returns:
        ``temperature``, ``validation_slices``, ``ece`` and ``log_loss``, each [before, after]; JSON-ready.
    """
    truth, logits = _validated(network, validation)
    temperature = fit_temperature(truth, logits)
    labels, before = predictions.arrays()
    each = (before, at_temperature(before, temperature))
    return {
        "temperature": temperature,
        "validation_slices": len(truth),
        "ece": [expected_calibration_error(labels, p) for p in each],
        "log_loss": [mean_log_loss(labels, p) for p in each],
    }


def threshold_figures(network: nn.Module, validation: Slices, predictions: Predictions) -> dict[str, Any]:
    """Thresholds with the best F1 on the validation slices, and what they would make of other predictions.

    Args:
        network: images to logits (B, C); put into evaluation mode.
        validation: items with ``image`` and ``label`` (C,), one or more.
        predictions: labelled, of slices that are not among them.

    Returns:
        ``thresholds`` by name, of the network's own probabilities (see `chosen_thresholds`), ``validation_slices``, and
        some of `multilabel_metrics`, each [before, after]; JSON-ready.
    """
    truth, logits = _validated(network, validation)
    found = best_thresholds(truth > 0.5, probabilities_of(logits, "multilabel"))
    labels, probabilities = predictions.arrays()
    before, after = (
        multilabel_metrics(labels, probabilities, predictions.classes, cuts)
        for cuts in (predictions.rule.cuts, np.asarray(found))
    )
    return {
        "thresholds": dict(zip(predictions.classes, found, strict=True)),
        "validation_slices": len(truth),
        **{name: [before[name], after[name]] for name in SHOWN},
    }


def _validated(network: nn.Module, validation: Slices) -> tuple[npt.NDArray[Any], npt.NDArray[np.float32]]:
    """Labels and logits."""
    labels, logits = zip(
        *((np.asarray(batch["label"]), out) for batch, out in forward(network, validation)), strict=True
    )
    return np.concatenate(labels), np.concatenate(logits)
