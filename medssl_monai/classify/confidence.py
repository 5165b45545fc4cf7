"""What a fine-tuned run knows of its own limits: a temperature, and what slices are like those it learned from.

Written once training has ended, as ``RUN/models/confidence.json`` and ``RUN/models/reference.safetensors``.
"""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Dataset, Subset

from medssl_monai.atomic import write_json
from medssl_monai.classify.features import embed
from medssl_monai.classify.reference import Reference, fit_reference, read_reference
from medssl_monai.errors import CheckpointError
from medssl_monai.mappings import read_mapping
from medssl_monai.networks.classifier import load_classifier
from medssl_monai.processes import process_rank
from medssl_monai.statistics.temperature import TEMPERATURES, fit_temperature

logger = logging.getLogger(__name__)

Slices = Dataset[dict[str, Any]]

REFERENCE_SLICES = 2000
"""Training slices kept at most, evenly spread: 14 MB for a ResNet-50."""

UNFITTED = "not fitted: the label table has no validation part, so probabilities are the network's own"


@dataclass(frozen=True)
class Confidence:
    """How far a run's answers can be trusted.

    Attributes:
        temperature: the logits are divided by; 1 where none was fitted.
        temperature_note: what it was fitted on, or why it was not.
        reference: of the training slices; None where the run has none.
        reference_note: how its threshold was found, or why there is none.
    """

    temperature: float = 1.0
    temperature_note: str = UNFITTED
    reference: Reference | None = None
    reference_note: str = "unknown: this run keeps no reference of its training slices"

    def describe(self) -> dict[str, Any]:
        """JSON-ready; what a result must state."""
        known = {} if self.reference is None else self.reference.describe()
        return {
            "temperature": {"value": round(self.temperature, 4), "note": self.temperature_note},
            "out_of_distribution": {**known, "note": self.reference_note},
        }


def fit_confidence(
    output_dir: str | Path,
    network: nn.Module,
    data: Any,
    view: Any,
    task: str = "multiclass",
    *,
    quantile: float = 0.99,
) -> Confidence:
    """Fit a run's confidence to its best network, and write it beside the weights; of several processes the first does.

    Args:
        output_dir: the run's folder; ``models/model.pt`` is loaded into the network.
        network: images to logits.
        data: gives ``dataset(split, transform, optional)``, as `LabelledData` and `ImageData` do.
        view: the evaluation view.
        task: ``multiclass`` or ``multilabel``.
        quantile: of the distances of slices that are known to be fine, which is the threshold of flagging.
    """
    if process_rank() > 0:
        return Confidence()
    models = Path(output_dir) / "models"
    load_classifier(network, models / "model.pt")
    train = _spread(data.dataset("train", view), REFERENCE_SLICES)
    validation: Any = data.dataset("validation", view, optional=True)
    learned = embed(network, train)
    held_out, temperature, note = None, 1.0, UNFITTED
    if len(validation):
        judged = embed(network, validation)
        assert judged.labels is not None
        held_out = judged.features
        temperature = fit_temperature(judged.labels, judged.outputs, task)
        note = f"fitted on {len(held_out)} validation slices"
        if temperature < 1.01 * TEMPERATURES[0]:
            # Where every slice is classified correctly, the loss has no minimum: any answer would become certain.
            temperature = 1.0
            note = (
                f"not fitted: all of {len(held_out)} validation slices are classified correctly, which leaves it open"
            )
        elif temperature > 0.99 * TEMPERATURES[1]:
            # Where the answers are no better than chance, it has none either: all classes would become equally likely.
            temperature = 1.0
            note = f"not fitted: on {len(held_out)} validation slices the answers are no better than chance"
    assert learned.labels is not None
    reference = fit_reference(
        learned.features,
        learned.widths,
        learned.series,
        learned.patients,
        learned.labels.tolist(),
        held_out,
        quantile=quantile,
    )
    reference_note = (
        f"distance to the nearest of {len(reference.features)} training slices; the threshold is the "
        f"{quantile:.0%} quantile over {reference.judged_slices} {reference.judged_by}"
    )
    found = Confidence(temperature, note, reference, reference_note)
    reference.write(models / "reference.safetensors")
    write_json(
        models / "confidence.json",
        {"temperature": temperature, "temperature_note": note, "reference_note": reference_note},
    )
    logger.info("temperature %.3f (%s); %s", temperature, note, reference_note)
    return found


def read_confidence(models: str | Path) -> Confidence:
    """The confidence beside a run's weights; where there is none, one that says so.

    Raises:
        ConfigError: ``confidence.json`` is no JSON, or holds a list.
        CheckpointError: an entry is missing or of another kind, or the reference is broken.
    """
    file = Path(models) / "confidence.json"
    if not file.is_file():
        return Confidence(temperature_note="not fitted: this run was made before temperatures were, or without")
    about = read_mapping(file)
    try:
        temperature, notes = float(about["temperature"]), (str(about["temperature_note"]), str(about["reference_note"]))
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{file}: is not readable ({type(error).__name__}: {error}); fine-tune the run again"
        ) from error
    return Confidence(temperature, notes[0], read_reference(file.with_name("reference.safetensors")), notes[1])


def _spread(dataset: Slices, count: int) -> Slices:
    size = len(dataset)  # type: ignore[arg-type]
    if size <= count:
        return dataset
    return Subset(dataset, np.linspace(0, size - 1, count).round().astype(int).tolist())
