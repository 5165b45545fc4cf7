"""Several labels a slice: figures against scikit-learn and slow oracles; from the table to the predictions."""

import csv
import dataclasses
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from sklearn.metrics import average_precision_score, balanced_accuracy_score, f1_score, hamming_loss, roc_auc_score

from medssl_monai.classify.classes import balanced_loss, positive_weights
from medssl_monai.classify.confidence import read_confidence
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.finetune import finetune
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.predictions import Predictions
from medssl_monai.classify.probes import linear_probe, nearest_votes
from medssl_monai.classify.thresholds import chosen_thresholds
from medssl_monai.cli.main import main
from medssl_monai.errors import ConfigError, InputError, LabelError
from medssl_monai.ingest import SliceStore
from medssl_monai.labels.labelled_slices import labelled_slices
from medssl_monai.labels.subsets import nested_subset
from medssl_monai.labels.table import read_labels
from medssl_monai.statistics.comparison import paired_label_permutation, paired_permutation
from medssl_monai.statistics.intervals import weighted_auc
from medssl_monai.statistics.metrics import figures_for_choice
from medssl_monai.statistics.multilabel import (
    best_thresholds,
    broadcast_thresholds,
    label_intervals,
    multilabel_metrics,
)
from medssl_monai.terminal import metrics_table

Array = npt.NDArray[Any]
NAMES = ["a", "b", "c"]
CUTS = np.array([0.5, 0.4, 0.6])


def made(slices: int = 90, patients: int = 12, seed: int = 0) -> tuple[Array, Array, list[str]]:
    generator = np.random.default_rng(seed)
    labels = generator.random((slices, 3)) < [0.5, 0.2, 0.7]
    probabilities = 1 / (1 + np.exp(-generator.normal(2.0 * labels - 1, 1)))
    return labels, probabilities, [f"p{i % patients:02d}" for i in range(slices)]


def test_figures_are_scikit_learns() -> None:
    labels, probabilities, _ = made()
    said = probabilities >= CUTS
    found = multilabel_metrics(labels, probabilities, NAMES, CUTS)
    assert found["accuracy"] == pytest.approx(1 - hamming_loss(labels, said))
    assert found["exact_match"] == pytest.approx((labels == said).all(axis=1).mean())
    assert found["f1_macro"] == pytest.approx(f1_score(labels, said, average="macro"))
    assert found["f1_micro"] == pytest.approx(f1_score(labels, said, average="micro"))
    assert found["auc"] == pytest.approx(roc_auc_score(labels, probabilities, average="macro"))
    assert found["auc_micro"] == pytest.approx(roc_auc_score(labels, probabilities, average="micro"))
    assert found["average_precision"] == pytest.approx(average_precision_score(labels, probabilities))
    micro = average_precision_score(labels, probabilities, average="micro")
    assert found["average_precision_micro"] == pytest.approx(micro)
    balanced = [balanced_accuracy_score(labels[:, c], said[:, c]) for c in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    assert found["by_label"]["b"]["positives"] == labels[:, 1].sum()
    assert np.sum(found["by_label"]["c"]["confusion_matrix"]) == len(labels)
    loss = torch.nn.functional.binary_cross_entropy(torch.from_numpy(probabilities), torch.from_numpy(labels).double())
    assert found["log_loss"] == pytest.approx(float(loss))
    choice = figures_for_choice(labels.astype(np.float32), probabilities)
    assert choice["auc"] == pytest.approx(found["auc"])
    assert choice["log_likelihood"] == pytest.approx(-found["log_loss"])


def test_a_label_without_both_answers_takes_no_part() -> None:
    labels, probabilities, _ = made()
    labels[:, 2] = False
    found = multilabel_metrics(labels, probabilities, NAMES, CUTS)
    assert found["auc"] == pytest.approx(roc_auc_score(labels[:, :2], probabilities[:, :2]))
    assert found["by_label"]["c"]["auc"] is None
    assert found["by_label"]["c"]["recall"] is None
    labels[:] = False
    nothing = multilabel_metrics(labels, probabilities, NAMES, CUTS)
    assert nothing["auc"] is nothing["f1_macro"] is nothing["average_precision_micro"] is None
    assert np.isnan(figures_for_choice(labels, probabilities)["auc"])


def test_thresholds_are_the_best_there_are() -> None:
    labels, probabilities, _ = made()
    found = best_thresholds(labels, probabilities)
    for c, threshold in enumerate(found):
        best = max(f1_score(labels[:, c], probabilities[:, c] >= p) for p in probabilities[:, c])
        assert f1_score(labels[:, c], probabilities[:, c] >= threshold) == pytest.approx(best)
        assert not np.isclose(probabilities[:, c], threshold, atol=1e-12).any(), "between two, not on one"
    labels[:, 0] = False
    assert best_thresholds(labels, probabilities)[0] == 0.5
    assert broadcast_thresholds(0.3, 2).tolist() == [0.3, 0.3]
    for wrong in ([0.5, 1.5], [0.1, 0.2, 0.3], [0.5, float("nan")], "high"):
        with pytest.raises(ConfigError, match="thresholds: one number"):
            broadcast_thresholds(wrong, 2)  # type: ignore[arg-type]


def test_intervals_resample_patients() -> None:
    labels, probabilities, patients = made(slices=240)
    found = label_intervals(labels, probabilities, patients, CUTS)
    point = multilabel_metrics(labels, probabilities, NAMES, CUTS)
    for name, (low, high) in found["figures"].items():
        assert low < point[name] < high, name
    # A patient drawn twice counts as one whose slices are there twice.
    weights = np.ones((1, 240), dtype=int)
    weights[0, ::12] = 2
    doubled = np.concatenate([np.arange(240), np.arange(0, 240, 12)])
    wanted = roc_auc_score(labels[doubled, 0], probabilities[doubled, 0])
    assert weighted_auc(labels[:, 0], probabilities[:, 0], weights)[0] == pytest.approx(wanted)
    assert "fewer than 10" in label_intervals(labels, probabilities, ["p"] * 240, CUTS)["note"]


def test_exchanges_of_labels() -> None:
    labels, probabilities, patients = made(slices=120)
    good, poor = probabilities >= 0.5, np.random.default_rng(1).random(labels.shape) < 0.5
    found = paired_label_permutation(labels, good, poor, patients)
    wanted = np.mean([balanced_accuracy_score(labels[:, c], good[:, c]) for c in range(3)])
    wanted -= np.mean([balanced_accuracy_score(labels[:, c], poor[:, c]) for c in range(3)])
    assert found.difference == pytest.approx(wanted)
    assert found.p is not None
    assert found.p < 0.01
    assert paired_label_permutation(labels, good, good, patients).p == 1
    # One label alone is a question with two classes.
    one, two = (np.stack([1.0 - x[:, 0], x[:, 0]], axis=1) for x in (good, poor))
    classes = paired_permutation(labels[:, 0].astype(int), one, two, patients)
    alone = paired_label_permutation(labels[:, :1], good[:, :1], poor[:, :1], patients)
    assert (alone.difference, alone.p) == pytest.approx((classes.difference, classes.p))


def test_weights_balance_yes_and_no() -> None:
    labels, _, _ = made()
    weights = positive_weights(labels).numpy()
    assert np.allclose(weights * labels.sum(axis=0), (~labels).sum(axis=0))
    with pytest.raises(LabelError, match="label number 1"):
        positive_weights(labels * [1, 0, 1])

    class Data:
        def labels_of(self, split: str) -> Array:
            return labels

    loss = balanced_loss("multilabel", "loss", Data(), 3)
    assert isinstance(loss, torch.nn.BCEWithLogitsLoss)
    assert loss.pos_weight is not None
    with pytest.raises(ConfigError, match="class_balance"):
        balanced_loss("multilabel", "some", Data(), 3)


def test_subsets_show_every_label() -> None:
    labels, _, patients = made(slices=120)
    part = nested_subset(labels.astype(np.float32), patients, 0.25)
    assert len({patients[i] for i in part}) == 3
    assert labels[part].any(axis=0).all()
    assert set(part) < set(nested_subset(labels.astype(np.float32), patients, 0.5))
    slices = nested_subset(labels, patients, 0.5, unit="slices")
    assert {patients[i] for i in slices} == set(patients)
    classes = labels.argmax(axis=1)
    one_hot = classes[:, None] == np.arange(3)
    assert nested_subset(classes, patients, 0.25) == nested_subset(one_hot, patients, 0.25)


def test_probes_answer_each_label() -> None:
    generator = np.random.default_rng(0)
    labels = generator.random((80, 3)) < 0.5
    labels[:, 2] = True
    features = generator.normal(size=(80, 3)) * 0.1 + labels
    for probabilities in (
        linear_probe(features[:60], labels[:60], features[60:], 3),
        nearest_votes(features[:60], labels[:60], features[60:], 3),
    ):
        assert roc_auc_score(labels[60:, :2], probabilities[:, :2]) > 0.99
        assert (probabilities[:, 2] == 1).all()


@pytest.fixture(scope="module")
def table(phantom_labels: Path) -> Path:
    """The phantom's regions as several labels: air in the chest, bone in head and chest, neither in the abdomen."""
    path = phantom_labels.parent / "several.csv"
    sets = {"head": "bone", "thorax": "bone|air", "abdomen_pelvis": "|"}
    with phantom_labels.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    train = sorted({row["patient"] for row in rows if row["split"] == "train"})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            split = "validation" if row["patient"] == train[0] else row["split"]
            writer.writerow({**row, "label": sets[row["label"]], "split": split})
    return path


def test_tables_of_several_labels(table: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    data = LabelledData(table, phantom_store.path, task="multilabel")
    assert data.classes == ["air", "bone"]
    item: Any = data.dataset("train", lambda x: x)[0]
    assert item["label"].dtype == np.float32
    assert {tuple(v) for v in data.labels_of("train")} == {(0, 0), (0, 1), (1, 1)}
    with pytest.raises(LabelError, match=r"row \d+: a slice has one class, found '\|'"):
        LabelledData(table, phantom_store.path)
    with pytest.raises(LabelError, match="class_balance=loss"):
        data.dataset("train", lambda x: x, balanced=True)
    with pytest.raises(ConfigError, match="task: must be one of multiclass, multilabel"):
        LabelledData(table, phantom_store.path, task="several")  # type: ignore[arg-type]
    rows = [{"source": "s", "slice": i, "label": x} for i, x in enumerate([["b", "a"], "a | b", [], "|", "a"])]
    path = tmp_path / "l.json"
    path.write_text(json.dumps(rows))
    read = read_labels(path, multilabel=True)
    assert [row.label for row in read.rows] == ["a|b", "a|b", "|", "|", "a"]
    assert [row.names for row in read.rows] == [("a", "b"), ("a", "b"), (), (), ("a",)]
    path.write_text(json.dumps([{"source": "s", "label": []}]))
    with pytest.raises(LabelError, match="no row names a class"):
        read_labels(path, multilabel=True)


@pytest.fixture(scope="module")
def run(table: Path, phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fine-tuned on that table."""
    run = tmp_path_factory.mktemp("several") / "run"
    settings: dict[str, Any] = {
        "arch": "resnet18",
        "image_size": 32,
        "batch_size": 6,
        "num_workers": 0,
        "max_epochs": 6,
    }
    settings |= {"device": "cpu", "frozen_epochs": 0, "learning_rate": 1e-3, "augment": False, "epoch_length": 2}
    settings |= {"task": "multilabel", "class_balance": "loss"}
    return finetune(table, run, store=phantom_store.path, **settings).folder


def test_from_the_table_to_the_predictions(run: Path, table: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    validation = json.loads((run / "validation" / "metrics.json").read_text())
    assert validation["all_slices"]["slices"] == 6
    assert (run / "validation" / "figures" / "roc.png").is_file()
    metrics = evaluate(run, table, tmp_path / "out", store=phantom_store.path, explanations=2).metrics
    assert metrics["task"] == "multilabel"
    assert metrics["all_slices"]["slices"] == 12
    assert set(metrics["thresholds_by_validation"]["thresholds"]) == {"air", "bone"}
    assert metrics["studies"]["pooling"] == "max"
    assert metrics_table(metrics).row_count >= 4
    for name in ("confusion_matrix", "roc", "reliability", "explanations"):
        assert (tmp_path / "out" / "figures" / f"{name}.png").stat().st_size > 5000
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        named = {c for c in ("air", "bone") if float(row[f"p_{c}"]) >= 0.5}
        assert set(row["predicted"].split("|")) - {""} == named
    assert sum(float(row["p_air"]) + float(row["p_bone"]) for row in rows) != pytest.approx(len(rows)), "no softmax"
    inference = (run / "configs" / "inference.yaml").read_text()
    assert "task: multilabel" in inference


def predicted(folder: Path) -> dict[tuple[str, str], str]:
    with (folder / "predictions.csv").open(newline="") as file:
        return {(row["series_id"], row["slice"]): row["predicted"] for row in csv.DictReader(file)}


@pytest.mark.parametrize("temperature", [0.3, 4.0])
def test_recommended_thresholds_name_the_same_in_evaluation_and_prediction(
    run: Path,
    table: Path,
    phantom_store: SliceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    temperature: float,
) -> None:
    mine = tmp_path / "run"
    shutil.copytree(run, mine)
    about = {"temperature": temperature, "temperature_note": "fitted", "reference_note": "flags nothing"}
    (mine / "models" / "confidence.json").write_text(json.dumps(about))
    reference = read_confidence(run / "models").reference
    assert reference is not None
    dataclasses.replace(reference, threshold=1e9).write(mine / "models" / "reference.safetensors")
    found = evaluate(mine, table, tmp_path / "first", store=phantom_store.path, explanations=0, figures=False).metrics
    cuts = list(found["thresholds_by_validation"]["thresholds"].values())
    store, words = phantom_store.path, ["--thresholds", tmp_path / "first" / "metrics.json", "--out"]
    for verb in (
        ["evaluate", mine, "--data", table, "--store", store, *words, tmp_path / "eval"],
        ["predict", mine, store, *words, tmp_path / "pred"],
    ):
        monkeypatch.setattr(sys, "argv", ["medssl", *map(str, verb)])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
    evaluated, answered = predicted(tmp_path / "eval"), predicted(tmp_path / "pred")
    assert {place: answered[place] for place in evaluated} == evaluated
    assert len(set(evaluated.values())) > 1, "or any rule would do"
    metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
    assert metrics["thresholds"] == pytest.approx(cuts)
    assert metrics["all_slices"]["f1_macro"] == pytest.approx(found["thresholds_by_validation"]["f1_macro"][1])


def test_thresholds_as_a_user_gives_them(tmp_path: Path) -> None:
    settings = {"task": "multilabel", "classes": ["air", "bone"]}
    assert chosen_thresholds(None, settings) == {}
    assert chosen_thresholds("0.4", settings) == {"thresholds": [0.4, 0.4]}
    assert chosen_thresholds("0.4, 0.6", settings) == {"thresholds": [0.4, 0.6]}
    path = tmp_path / "metrics.json"
    path.write_text(json.dumps({"thresholds_by_validation": {"thresholds": {"bone": 0.2, "air": 0.1}}}))
    assert chosen_thresholds(str(path), settings) == {"thresholds": [0.1, 0.2]}, "by name"
    other = tmp_path / "other.json"
    other.write_text("{}")
    for text, changes, message in (
        ("0.4", {"task": "multiclass"}, "classes of this run exclude each other"),
        ("40%", {}, "'40%' is neither numbers"),
        ("1.5", {}, r"one number in \[0, 1\]"),
        ("0.1,0.2,0.3", {}, "one for each of the 2 labels"),
        (str(path), {"classes": ["air", "fat"]}, "is of the labels air, bone, this run's are air, fat"),
        (str(other), {}, "holds no thresholds_by_validation"),
    ):
        with pytest.raises(InputError, match=message):
            chosen_thresholds(text, {**settings, **changes})


def test_studies_hold_what_a_slice_holds() -> None:
    predictions = Predictions(["a", "b"], "multilabel")
    for i, (probabilities, label) in enumerate([((0.9, 0.1), (1, 0)), ((0.2, 0.3), (0, 0)), ((0.1, 0.6), (0, 1))]):
        predictions.add(np.array(probabilities), "s1" if i < 2 else "s2", i, "p", np.array(label))
    first, second = predictions.studies()
    assert (first["predicted"], first["probabilities"], first["pooling"]) == ("a", {"a": 0.9, "b": 0.3}, "max")
    assert second["predicted"] == "b"
    assert predictions.metrics()["studies"]["accuracy"] == 1


def test_queries_label_what_they_find(phantom_store: SliceStore, tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_text("source,label\nquery: modality == CT and slice < 2,low\nquery: slice >= 2,high\n")
    rows = labelled_slices(read_labels(path), phantom_store, None)
    assert {(row["slice"] < 2, row["label_name"]) for row in rows} == {(True, "low"), (False, "high")}
    assert len(rows) == len(phantom_store)
    for text, message in (
        ("query: modality == CT,a\nquery: slice == 1,b", "row 2: labels slice 1 of the series"),
        ("query: modality == MR,a", "row 1: the query .* finds no slice"),
        ("query: weight > 3,a", "row 1: the query's term 'weight > 3' must be COLUMN OPERATOR VALUE"),
        ("query: slice == first,a", "row 1: the query's column slice holds numbers, found 'first'"),
    ):
        path.write_text(f"source,label\n{text}\n")
        with pytest.raises(LabelError, match=message):
            labelled_slices(read_labels(path), phantom_store, None)
    path.write_text("source,label,split\nquery: slice < 2,a,train\nquery: slice >= 2,b,test\n")
    with pytest.raises(LabelError, match="the series is in the split"):
        labelled_slices(read_labels(path), phantom_store, None)
    path.write_text("source,slice,label\nquery: slice < 2,1,a\n")
    with pytest.raises(LabelError, match="takes no 'slice'"):
        read_labels(path)
    path.write_text("source,label\nquery: slice < 2,a\nquery: slice >= 2,b\n")
    with pytest.raises(LabelError, match="a query asks a store"):
        LabelledData(path)
