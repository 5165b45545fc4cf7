"""Use a fine-tuned run: judge it on labelled slices, or let it classify clinical files."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from medssl_monai.atomic import write_json
from medssl_monai.classify.confidence import fit_confidence
from medssl_monai.classify.evaluate import surest_yes, threshold_figures
from medssl_monai.classify.explain import choose_examples, draw_explanations
from medssl_monai.classify.multilabel_predictions import MultilabelPredictions
from medssl_monai.classify.predict import PredictionOptions, predict_studies
from medssl_monai.errors import CheckpointError, LabelError
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.statistics.temperature import temperature_figures

__all__ = ["evaluate_run", "predict_run", "refuse_stopped", "run_settings"]

logger = logging.getLogger(__name__)


def run_settings(run: Path) -> dict[str, Any]:
    """Settings of a fine-tuning run, from its ``configs/train.yaml``.

    Raises:
        CheckpointError: the folder is no finished fine-tuning run: files are missing, or it was stopped on its way.
    """
    config, model = run / "configs" / "train.yaml", run / "models" / "model.pt"
    if not config.is_file() or not model.is_file():
        missing = config if not config.is_file() else model
        raise CheckpointError(
            f"{run} is no finished fine-tuning run: {missing.relative_to(run)} is missing; give the --out folder of a "
            "completed `medssl finetune`"
        )
    settings: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8"))
    refuse_stopped(run, settings)
    return settings


def refuse_stopped(run: Path, settings: Mapping[str, Any]) -> None:
    """Raise CheckpointError for a fine-tuning that was stopped on its way, which has a model too, its best so far.

    How far a run is stands in its checkpoint. Where there is none (a packed bundle, a run of the label server) or it
    tells nothing, the run is believed. `settings` are the run's, of which ``patience`` ends it early.
    """
    try:
        content = torch.load(run / "checkpoints" / "last.pt", map_location="cpu", weights_only=True, mmap=True)
        state = content["trainer"]
        wanted, best = int(state["max_epochs"]), int(state["best_metric_epoch"])
        done = int(state["iteration"]) // int(state["epoch_length"])
    except Exception:
        return
    patience = settings.get("patience")
    if done < wanted and not (patience and best != -1 and done - best >= patience):
        raise CheckpointError(
            f"{run} is no finished fine-tuning run: it stands at epoch {done} of {wanted}; the same command as before "
            f"carries on, and ends there if it is given max_epochs={done}"
        )


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


def predict_run(
    run: Path,
    sources: Sequence[str | Path],
    out: Path,
    options: PredictionOptions | None = None,
    **overrides: Any,
) -> list[dict[str, Any]]:
    """Classify clinical files by the bundle's ``inference.yaml`` and ``predict.yaml``.

    Args:
        run: folder of a fine-tuning run.
        sources: one store; or files, folders and archives of DICOM, NIfTI and the like, or DICOMweb addresses of
            studies, which go through ingestion first; or pictures, for a run that was fine-tuned on pictures.
        out: folder for the tables, see `PredictionResult.write`.
        options: heat maps and DICOM objects.
        overrides: top-level keys of the bundle.

    Returns:
        The content of ``studies.json``: one entry a series.

    Raises:
        CheckpointError: ``run`` is no finished fine-tuning run.
        NoImagesError: the sources hold nothing that this run could classify; NotHounsfieldError: they are pictures,
            and the run is for HU.
        InputError: a source does not exist, or a PACS does not answer.
    """
    return predict_studies(run, run_settings(run), sources, out, options, **overrides).studies
