"""Flags instead of classes, pooling without what is flagged, and the files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import expit, logit

from medssl_monai.classify.confidence import Confidence
from medssl_monai.classify.prediction_result import FLAG, PredictionResult
from medssl_monai.classify.predictions import Predictions
from medssl_monai.classify.reference import Reference
from medssl_monai.statistics.temperature import at_temperature

NONE = np.zeros(1)
KNOWN = Confidence(1.5, "fitted", Reference(np.zeros((2, 1)), NONE, NONE, 1.0, 0.99, "validation slices", 7), "how")


def made(scores: list[float] | None, **changes: Any) -> PredictionResult:
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]])
    values: dict[str, Any] = {
        "classes": ["a", "b"],
        "probabilities": probabilities,
        "series": ["y", "y", "y", "x", "x"],
        "slices": [1, 0, 2, 0, 1],
        "patients": ["q", "q", "q", "p", "p"],
        "confidence": KNOWN if scores else Confidence(),
        "scores": None if scores is None else np.array(scores),
    }
    return PredictionResult(**{**values, **changes})


def test_flagged_slices_have_no_class_and_no_say() -> None:
    result = made([0.5, 1.0, 1.1, 2.0, 3.0])
    rows = {(row["series_id"], row["slice"]): row for row in result.slice_rows()}
    assert (rows["y", 1]["predicted"], rows["y", 1]["flag"]) == ("a", None)
    assert (rows["y", 0]["predicted"], rows["y", 0]["flag"]) == ("a", None), "at the threshold is still like training"
    assert (rows["y", 2]["predicted"], rows["y", 2]["flag"]) == (None, FLAG)
    assert rows["y", 2]["threshold"] == 1.0
    x, y = result.studies
    assert (x["series_id"], x["predicted"], x["flag"], x["flagged_slices"], x["score"]) == ("x", None, FLAG, 2, 2.5)
    assert (y["predicted"], y["pooled_slices"], y["slices"], y["flag"]) == ("a", 2, 3, None)
    assert y["probabilities"] == {"a": pytest.approx(0.85), "b": pytest.approx(0.15)}


def test_half_flagged_is_still_classified_by_the_rest() -> None:
    x, _ = made([0.1, 0.1, 0.1, 9.0, 0.1]).studies
    assert (x["predicted"], x["probabilities"]["b"], x["pooled_slices"]) == ("b", 0.8, 1)


def test_without_a_reference_nothing_is_flagged_and_it_is_said() -> None:
    result = made(None)
    assert not result.flagged.any()
    assert result.studies[0]["score"] is None
    assert "keeps no reference" in result.as_json()["out_of_distribution"]["note"]


def test_several_labels_are_pooled_by_the_largest() -> None:
    x, y = made(None, task="multilabel", thresholds=[0.5, 0.75]).studies
    assert (x["predicted"], x["probabilities"], x["pooling"]) == ("b", {"a": 0.3, "b": 0.8}, "max")
    assert y["predicted"] == "a|b"


@pytest.mark.parametrize("temperature", [0.06, 0.4, 3.0])
def test_a_label_is_named_at_any_temperature_as_when_it_was_evaluated(temperature: float) -> None:
    own = np.array([[0.6, 0.9], [0.3, 0.97], [0.4, 0.2], [0.45, 0.999], [0.1, 0.95]])
    cuts = [0.4, 0.95]
    evaluated = Predictions(["a", "b"], "multilabel", cuts)
    blank = made(None)
    for i, probability in enumerate(own):
        evaluated.add(probability, blank.series[i], blank.slices[i], blank.patients[i], None)
    there = {
        "own": own,
        "probabilities": at_temperature(own, temperature, "multilabel"),
        "confidence": Confidence(temperature, "fitted"),
    }
    result = made(None, task="multilabel", thresholds=cuts, **there)
    assert [row["predicted"] for row in result.slice_rows()] == [row["predicted"] for row in evaluated.slice_rows()]
    assert [study["predicted"] for study in result.studies] == ["a|b", "a|b"]
    content = result.as_json()
    assert content["label_thresholds_as_set"] == cuts
    assert content["label_thresholds"] == pytest.approx(expit(logit(cuts) / temperature))


def test_files(tmp_path: Path) -> None:
    left = [{"kind": "series", "series_id": "z", "files": 3, "reason": "LOCALIZER", "detail": "is a localizer"}]
    made([0.5, 1.0, 1.1, 2.0, 3.0], left_out=left, names={"x": "/there"}).write(tmp_path)
    content = json.loads((tmp_path / "prediction.json").read_text(encoding="utf-8"))
    assert content["temperature"] == {"value": 1.5, "note": "fitted"}
    assert content["left_out"] == left
    assert content["pooling"].startswith("mean over the slices that are not flagged")
    assert json.loads((tmp_path / "studies.json").read_text(encoding="utf-8")) == content["studies"]
    with (tmp_path / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["series_id"], r["slice"]) for r in rows] == [("x", "0"), ("x", "1"), ("y", "0"), ("y", "1"), ("y", "2")]
    assert (rows[0]["predicted"], rows[0]["flag"], rows[0]["score"], rows[0]["threshold"]) == ("", FLAG, "2.0", "1.0")
    assert (rows[2]["p_a"], rows[2]["temperature"]) == ("0.800000", "1.5000")
    with (tmp_path / "left_out.csv").open(encoding="utf-8") as file:
        assert [row["reason"] for row in csv.DictReader(file)] == ["LOCALIZER"]
    made(None, task="multilabel", thresholds=[0.95, 0.95]).write(tmp_path)
    with (tmp_path / "studies.csv").open(encoding="utf-8") as file:
        assert {row["predicted"] for row in csv.DictReader(file)} == {"|"}, "as in a label table"
