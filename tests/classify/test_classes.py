"""Classes that a network cannot learn are named before anything is trained."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl_monai.classify.classes import named_classes, network_classes
from medssl_monai.classify.evaluate import temperature_figures
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.listed_data import class_numbers
from medssl_monai.classify.pictures.table import image_table
from medssl_monai.classify.predictions import Predictions
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.ingest import SliceStore
from medssl_monai.labels.table import LabelTable, read_labels


def table(folder: Path, rows: str, *, multilabel: bool = False) -> LabelTable:
    path = folder / "labels.csv"
    path.write_text(f"source,label,patient,split\n{rows}")
    return read_labels(path, multilabel=multilabel)


def test_names_are_text_whatever_yaml_made_of_them() -> None:
    assert named_classes([0, 1.5, "x"]) == ["0", "1.5", "x"]
    assert named_classes(["he\u0301matome"]) == ["h\u00e9matome"]
    assert class_numbers("He\u0301matome", ["a", "h\u00e9matome"]) == [1]
    assert named_classes(None) is named_classes([]) is None
    for wrong, message in (
        ([True, False], "classes: each must be text, found True, .* quote them"),
        (["no", None], "found None"),
        ("head", "must be a list of names, found 'head'"),
        (["1", 1], "each must be named once"),
    ):
        with pytest.raises(ConfigError, match=message):
            named_classes(wrong)


def test_a_class_that_no_training_row_shows_is_refused_or_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = "sa,head,A,train\nsb,chest,B,train\nsc,chets,C,test\n"
    with pytest.raises(LabelError, match=r"the class 'chets' is in no row of the split 'train'.*classes=\[chest, "):
        network_classes(table(tmp_path, rows))
    with pytest.raises(LabelError, match="the class 'chets' is in no row of the split 'train'"):
        network_classes(table(tmp_path, rows, multilabel=True), task="multilabel")
    with caplog.at_level(logging.WARNING):
        assert network_classes(table(tmp_path, rows), ["head", "chest", "chets"]) == ["head", "chest", "chets"]
    assert "nothing can learn what no training row shows: chets" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert network_classes(table(tmp_path, "sa,head,,test\nsb,chest,,test\n")) == ["chest", "head"]
        assert network_classes(table(tmp_path, "sa,head,,test\n"), ["head", "chest"]) == ["head", "chest"]
    assert not caplog.text, "a table to be tested on"
    with pytest.raises(LabelError, match="the label 'chets' is not a class of this network"):
        network_classes(table(tmp_path, rows), ["head", "chest"])


def test_one_class_alone_is_refused_where_classes_exclude_each_other(tmp_path: Path) -> None:
    rows = "sa,head,A,train\nsb,head,B,test\n"
    with pytest.raises(LabelError, match=r"all rows are of the class 'head'.* add rows of another class"):
        network_classes(table(tmp_path, rows))
    assert network_classes(table(tmp_path, rows, multilabel=True), task="multilabel") == ["head"]


def test_data_sets_ask_for_it(tmp_path: Path, phantom_labels: Path, phantom_store: SliceStore) -> None:
    text = phantom_labels.read_text(encoding="utf-8")
    path = tmp_path / "labels.csv"
    kept = [line.replace(",head,", ",skull,") if line.endswith("test") else line for line in text.splitlines()]
    path.write_text("\n".join(kept), encoding="utf-8")
    with pytest.raises(LabelError, match="the class 'skull' is in no row of the split 'train'"):
        LabelledData(path, phantom_store.path)
    (tmp_path / "a.png").touch()
    (tmp_path / "b.png").touch()
    pictures = tmp_path / "pictures.csv"
    pictures.write_text("source,label,patient,split\na.png,x,A,train\nb.png,x,B,test\n")
    with pytest.raises(LabelError, match="all rows are of the class 'x'"):
        image_table(pictures)


def test_pictures_that_chance_keeps_from_training_are_told(tmp_path: Path) -> None:
    names = [f"{i}.png" for i in range(12)]
    for name in names:
        (tmp_path / name).touch()
    rows = [f"{name},{'rare' if i == 0 else 'x' if i % 2 else 'y'},p{i}\n" for i, name in enumerate(names)]
    path = tmp_path / "labels.csv"
    path.write_text("source,label,patient\n" + "".join(rows))
    data = image_table(path)
    assert not (np.asarray(data.labels_of("train")) == data.classes.index("rare")).any()
    assert any("no picture drawn for training shows: rare" in sentence for sentence in data.statements)


def test_an_old_run_of_one_class_can_be_judged() -> None:
    import torch

    predictions = Predictions(["a"])
    predictions.add(np.array([1.0]), "s", 0, "p", 0)
    items: Any = [{"image": torch.zeros(3, 2, 2), "label": 0}]
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 1))
    assert temperature_figures(network, items, predictions)["log_loss"] == [0.0, 0.0]
