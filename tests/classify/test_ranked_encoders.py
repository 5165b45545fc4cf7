"""Encoders of several runs are ranked, measured where they were not, and kept apart where they cannot be compared."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.classify.ranked_encoders import rank_encoders
from medssl_monai.cli.main import main
from medssl_monai.errors import CheckpointError, ConfigError, InputError
from medssl_monai.ingest import SliceStore
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.folder import kept_encoder
from medssl_monai.runs.step_log import StepLog, read_rows
from medssl_monai.statistics.encoder_measures import MEASURES

FEW = [["slice", "<", 2]]


def made(folder: Path, store: SliceStore, epochs: tuple[int, ...] = (2, 4), **settings: Any) -> Path:
    """A run of four epochs of three steps, as far as ranking reads it."""
    own = {"max_epochs": 4, "arch": "resnet18", "image_size": 32, "window": "wide", "mean": 0.25, "std": 0.25}
    fingerprint = store.fingerprint
    record = {"bundle": "ct_ssl_moco", "settings": {**own, "filters": FEW, **settings}}
    write_json(folder / "run.json", {**record, "data_fingerprint": fingerprint})
    StepLog(folder, "history").write({"step": 12, "loss": 1.0})
    torch.manual_seed(len(folder.name))
    for file in [kept_encoder(folder, epoch) for epoch in epochs] or [folder / "models" / "encoder.safetensors"]:
        header = {"step": str(3 * int(file.stem[-1]))} if epochs else {}
        export_encoder(resnet_encoder("resnet18"), file, metadata=header)
    return folder


def test_encoders_are_measured_and_ranked(
    phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [made(tmp_path / "a", phantom_store), made(tmp_path / "bb", phantom_store, epochs=())]
    with pytest.raises(InputError, match=r"rank: no encoder of .*a, .*bb was measured; give --data STORE"):
        rank_encoders(runs, "uniformity")
    found = rank_encoders(runs, "uniformity", phantom_store.path)
    (group,) = found["groups"]
    values = [row["uniformity"] for row in group["encoders"]]
    assert values == sorted(values)
    assert [row["rank"] for row in group["encoders"]] == [1, 2, 3]
    assert {(row["run"], row["epoch"]) for row in group["encoders"]} == {
        (str(runs[0]), 2),
        (str(runs[0]), 4),
        (str(runs[1]), 4),
    }
    assert group["differs"] == "" and found["not_measured"] == {}
    assert [(row["epoch"], row["step"]) for row in read_rows(runs[0] / "logs" / "measures.jsonl")] == [(2, 6), (4, 12)]
    # Nothing is measured twice, and what was measured needs no store.
    monkeypatch.setattr("medssl_monai.classify.label_free.MeasuredSlices.measure", None)
    assert rank_encoders(runs, "uniformity", phantom_store.path) == found
    assert rank_encoders(runs, "uniformity") == found
    export_encoder(resnet_encoder("resnet18"), kept_encoder(runs[0], 3), metadata={})
    other = made(tmp_path / "other", phantom_store, image_size=64)
    own = read_rows(runs[0] / "logs" / "measures.jsonl")
    StepLog(other, "measures").write({**own[0], "slices": "0" * 16, "knn_place": None})
    monkeypatch.setattr(sys, "argv", ["medssl", "rank", *map(str, [*runs, other]), "--measure", "knn_place"])
    with pytest.raises(SystemExit):
        main()
    shown = capsys.readouterr().out
    assert "Encoders by knn_place: higher is better" in shown
    assert all(name in shown for name in MEASURES)
    assert f"{other}: not compared with {runs[0]}, because of image_size 64, not 32" in shown
    assert f"{runs[0]}: not measured at epoch 3; give the run's store as --data" in shown
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--json"])
    with pytest.raises(SystemExit):
        main()
    assert json.loads(capsys.readouterr().out)["groups"][1]["encoders"][0]["rank"] is None


def test_what_is_no_run_is_refused(phantom_store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--measure: must be one of effective_rank, .*\(did you mean 'lidar'\?\)"):
        rank_encoders([tmp_path], "lidr")
    with pytest.raises(CheckpointError, match=r"must be the folder of a pre-training run, found no run\.json"):
        rank_encoders([tmp_path], "uniformity")
    run = made(tmp_path / "run", phantom_store, epochs=())
    (run / "models" / "encoder.safetensors").unlink()
    with pytest.raises(CheckpointError, match="has no encoder yet; let the run finish, or give it keep_interval=N"):
        rank_encoders([run], "uniformity")
