"""Probes on features that are known to tell, and known not to."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Engine

from medssl_monai.classify.probes import free_labels, probe, series_lengths
from medssl_monai.handlers.embedding_probe import EmbeddingProbe
from medssl_monai.ingest import SliceStore
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.transforms import LabelledViewd

PATIENTS = [f"p{i // 10}" for i in range(60)]


def test_features_that_tell_and_features_that_do_not() -> None:
    generator = np.random.default_rng(0)
    labels = ["a" if i % 2 else "b" for i in range(60)]
    telling = generator.normal(size=(60, 8)) + 5 * np.array([[1 if label == "a" else -1] * 8 for label in labels])
    found = probe(telling, labels, PATIENTS)
    assert found["knn"] == found["linear"] == 1.0
    assert found["left_out"] == "patients"
    silent = probe(generator.normal(size=(60, 8)), labels, PATIENTS)
    assert 0.2 < silent["knn"] < 0.8
    assert silent["chance"] == 0.5


def test_what_tells_the_patient_does_not_pass_for_the_label() -> None:
    """Features that name the patient predict nothing on patients left out."""
    labels = ["a" if i % 20 < 10 else "b" for i in range(60)]  # a patient has one label
    features = np.eye(6)[[int(p[1]) for p in PATIENTS]] + 0.01 * np.random.default_rng(0).normal(size=(60, 6))
    assert probe(features, labels, PATIENTS, folds=6)["knn"] <= 0.5
    assert probe(features, labels, ["one"] * 60)["left_out"] == "slices"


def test_free_labels_are_those_that_differ() -> None:
    rows = [
        {"series_id": s, "slice": i, "plane": "axial", "kernel": k, "body_part": None}
        for s, k in (("x", "B30f"), ("y", "B70f"))
        for i in range(8)
    ]
    labels = free_labels(rows, {"x": 8, "y": 8})
    assert set(labels) == {"kernel", "place"}
    assert (
        labels["place"][:8]
        == ["lowest quarter"] * 2 + ["second quarter"] * 2 + ["third quarter"] * 2 + ["highest quarter"] * 2
    )


def test_the_place_of_a_slice_counts_in_its_whole_series(phantom_store: SliceStore) -> None:
    """Of a large archive the probe takes one slice of each series, and the filters leave some."""
    every = phantom_store.select()
    lengths = series_lengths(phantom_store, [row["series_id"] for row in every])
    assert sum(lengths.values()) == len(every)
    lowest = [row for row in every if row["slice"] == 0]
    assert set(free_labels(lowest, lengths)["place"]) == {"lowest quarter"}
    assert len(set(free_labels(every, lengths)["place"])) > 2


def test_the_handler_leaves_the_encoder_as_it_was(phantom_store: SliceStore, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder("resnet18").train()
    before = {k: v.clone() for k, v in encoder.state_dict().items()}
    view = LabelledViewd("image", image_size=32, augment=False)
    handler = EmbeddingProbe(encoder, phantom_store, view, tmp_path, interval=2)
    engine = Engine(lambda engine, batch: None)
    engine.state.device = torch.device("cpu")  # type: ignore[attr-defined]
    handler.attach(engine)
    engine.run([0, 1], max_epochs=3)
    assert encoder.training
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    lines = [json.loads(line) for line in (tmp_path / "logs" / "probes.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["label"] == "place"] == [4, 6]
    assert (tmp_path / "figures" / "embeddings.png").stat().st_size > 5_000
    assert lines[0]["linear"] == pytest.approx(lines[-1]["linear"])
    drawn = torch.get_rng_state()
    handler.look(7)
    assert torch.equal(torch.get_rng_state(), drawn)  # else a run would depend on its interval
