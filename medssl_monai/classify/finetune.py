"""Fine-tune a classifier on labelled slices or pictures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.resources import bundle_dir, config_files
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.settings import place_given


@dataclass(frozen=True)
class FinetunedRun:
    """A finished fine-tuning.

    Attributes:
        folder: of the run, itself a MONAI bundle.
        settings: as run, with the class names, the window, and mean and std of the views.
        validation: metrics of the best epoch on the validation slices, see `Predictions.metrics`; None without them.
        steps: optimizer steps that were taken, also before the run was resumed.
        train_slices: number of labelled slices that it learned from.
        train_patients: number of their patients; None where a patient is unknown.
        best_epoch: from 1, the one that was kept; None without validation slices.
    """

    folder: Path
    settings: Mapping[str, Any]
    validation: Mapping[str, Any] | None
    steps: int
    train_slices: int
    train_patients: int | None
    best_epoch: int | None

    @property
    def model(self) -> Path:
        """Weights of the best epoch."""
        return self.folder / "models" / "model.pt"


def finetune(
    data: str | Path,
    out: str | Path,
    *,
    encoder: str | Path | None = None,
    store: str | Path | None = None,
    config: str | Path | Sequence[str | Path] = (),
    **settings: Any,
) -> FinetunedRun:
    """Fine-tune a ResNet by the bundle ``ct_classification``. A run that was stopped in ``out`` is resumed.

    Args:
        data: label table (CSV or JSON); with an overlay for pictures also their folder or file.
        out: folder of the run.
        encoder: encoder weights, a pre-training run, or the name of a shipped encoder such as
            ``ct-lidc-spark-resnet50``; None trains from scratch.
        store: slice store that holds the table's sources; None ingests those that are paths, once, into a cache.
        config: overlays, each a YAML file or a name in ``configs/``.
        settings: top-level keys of the bundle's ``train.yaml``, such as ``max_epochs``.

    Raises:
        ConfigError: a setting or an overlay is unknown or out of range.
        LabelError: the labels do not fit the data.
        CheckpointError: the encoder's weights do not fit, or ``out`` holds a run of other settings.

    Example:
        >>> run = finetune("labels.csv", "runs/head", encoder="encoder.safetensors", max_epochs=20)
        >>> run.model, run.validation["all_slices"]["balanced_accuracy"]
    """
    overlays = config_files(config)
    workflow = run_bundle(
        [bundle_dir("ct_classification") / "configs" / "train.yaml", *overlays],
        {
            "dataset_dir": place_given(data, "data"),
            "store_dir": None if store is None else place_given(store, "store"),
            "output_dir": place_given(out, "out"),
            "encoder_weights": None if encoder is None else place_given(encoder, "encoder"),
            "overlays": [str(path) for path in overlays],
            **settings,
        },
    )
    trained_on, trainer, record = (
        workflow.parser.get_parsed_content(name) for name in ("data", "train::trainer", "run_record")
    )
    folder = Path(workflow.parser.get_parsed_content("output_dir"))
    metrics = folder / "validation" / "metrics.json"
    patients = trained_on.patients_of("train")
    return FinetunedRun(
        folder,
        record["settings"],
        json.loads(metrics.read_text(encoding="utf-8")) if metrics.is_file() else None,
        int(trainer.state.iteration),
        len(patients),
        len(set(patients)) if all(patients) else None,
        int(trainer.state.best_metric_epoch) if trainer.state.best_metric_epoch > 0 else None,
    )
