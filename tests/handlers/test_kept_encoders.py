"""Encoders that are kept on the way are measured on the same slices, chosen by a measure, and the same after a stop."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.classify.label_free import MeasuredSlices, chosen_rows
from medssl_monai.errors import ConfigError, NoImagesError
from medssl_monai.handlers.kept_encoders import KeptEncoders
from medssl_monai.ingest import SliceStore
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.folder import kept_encoder
from medssl_monai.runs.pretrain import PretrainedRun, pretrain
from medssl_monai.statistics.encoder_measures import MEASURES, best_of

SMALL: dict[str, Any] = {"arch": "resnet18", "image_size": 32, "batch_size": 6, "epoch_length": 1, "device": "cpu"}
SHORT: dict[str, Any] = {"max_epochs": 2, "num_workers": 0, "queue_length": 12}
FEW = [["slice", "<", 3]]
RARE = {"probe_interval": 9, "guard_interval": 9, "filters": FEW}


def run(store: SliceStore, out: Path, **settings: Any) -> PretrainedRun:
    return pretrain("moco", store, out, **{**SMALL, **SHORT, **RARE, **settings})


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """None but those of the measures, to save time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("medssl_monai.handlers.embedding_probe.EmbeddingProbe.attach", lambda *_: None)
        patch.setattr("medssl_monai.handlers.history.draw_history", lambda *_: None)
        yield


@pytest.fixture(scope="module")
def kept(phantom_store: SliceStore, tmp_path_factory: pytest.TempPathFactory) -> PretrainedRun:
    out = tmp_path_factory.mktemp("runs") / "whole"
    return run(phantom_store, out, keep_interval=1, keep_best_by="uniformity")


def test_encoders_are_kept_measured_and_chosen(kept: PretrainedRun, phantom_store: SliceStore) -> None:
    rows = kept.measures
    assert [(row["epoch"], row["step"]) for row in rows] == [(1, 1), (2, 2)]
    assert all(isinstance(row[name], float) for row in rows for name in MEASURES)
    assert (kept.folder / "figures" / "measures.png").stat().st_size > 10_000
    best = best_of(rows, "uniformity")
    assert best is not None
    state, report = load_encoder(kept.folder)
    same, _ = load_encoder(kept_encoder(kept.folder, best["epoch"]))
    assert all(torch.equal(state[name], same[name]) for name in same)
    assert (report.metadata["keep_best_by"], report.metadata["epoch"]) == ("uniformity", str(best["epoch"]))
    # What the run measured is what the file measures.
    slices = MeasuredSlices(phantom_store, FEW, image_size=32)
    encoder = resnet_encoder("resnet18", encoder_weights=kept.encoder)
    before = torch.get_rng_state()
    assert slices.measure(encoder) == pytest.approx({name: best[name] for name in MEASURES})
    assert torch.equal(torch.get_rng_state(), before) and encoder.training
    assert slices.digest == best["slices"] != MeasuredSlices(phantom_store, FEW, image_size=64).digest


@pytest.mark.slow
def test_a_stopped_run_keeps_and_chooses_the_same(
    kept: PretrainedRun, phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"keep_interval": 1, "keep_best_by": "uniformity"}
    with monkeypatch.context() as patch:
        patch.setattr(KeptEncoders, "_finish", lambda *_: (_ for _ in ()).throw(RuntimeError("killed")))
        patch.setattr("medssl_monai.handlers.run_checkpoint.RunCheckpoint.save", _once())
        patch.setattr("medssl_monai.handlers.kept_encoders.draw_measures", lambda *_: None)
        with pytest.raises(RuntimeError, match="Failed to evaluate"):
            run(phantom_store, tmp_path, **settings)
    left = kept_encoder(tmp_path, 9)
    left.write_bytes(b"of a run before")
    again = run(phantom_store, tmp_path, **settings)
    assert again.measures == kept.measures
    (_, mine), (_, whole) = load_encoder(again.folder), load_encoder(kept.folder)
    assert (mine.fingerprint, mine.metadata) == (whole.fingerprint, whole.metadata)
    assert not left.exists()


def _once() -> Any:
    """`RunCheckpoint.save` that works in the first epoch alone, as for a run that is killed later."""
    from medssl_monai.handlers.run_checkpoint import RunCheckpoint

    save = RunCheckpoint.save
    return lambda self, engine: save(self, engine) if engine.state.epoch == 1 else None


def test_the_last_is_exported_by_default(kept: PretrainedRun, phantom_store: SliceStore, tmp_path: Path) -> None:
    plain = run(phantom_store, tmp_path)
    assert plain.measures == [] and not (tmp_path / "models" / "kept").exists()
    last, report = load_encoder(plain.folder)
    same, _ = load_encoder(kept_encoder(kept.folder, 2))
    assert all(torch.equal(last[name], same[name]) for name in same)
    assert "keep_best_by" not in report.metadata


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"keep_best_by": "lidarr"},
            r"keep_best_by: must be one of none, effective_rank, .*\(did you mean 'lidar'\?\)",
        ),
        (
            {"keep_best_by": "lidar"},
            "keep_best_by: lidar chooses among kept encoders, and keep_interval=null keeps none",
        ),
        ({"keep_interval": 0}, "keep_interval: must be a whole number from 1, found 0"),
    ],
)
def test_what_cannot_be_chosen_is_refused(
    settings: dict[str, Any], told: str, phantom_store: SliceStore, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        run(phantom_store, tmp_path / "run", **settings)
    assert not (tmp_path / "run").exists()


def test_slices_are_spread_over_series(phantom_store: SliceStore, tmp_path: Path) -> None:
    rows = chosen_rows(phantom_store, None, count=8)
    assert [row["place"] for row in rows] == [0, 0.4, 0.6, 1] * 2
    assert len({row["series_id"] for row in rows}) == 2
    assert len(chosen_rows(phantom_store, None, count=1000)) == 30
    one = [["series_id", "==", phantom_store.series_ids[0]]]
    slices = MeasuredSlices(phantom_store, one)
    assert len(slices.rows) == 6
    assert slices.undefined["knn_place"] == "all slices are of one series"
    with pytest.raises(ConfigError, match="knn_series cannot be measured on these data, because all slices are of one"):
        KeptEncoders(resnet_encoder("resnet18"), tmp_path, {}, slices, 1, "knn_series")
    lone = MeasuredSlices(phantom_store, [["slice", "==", 2]], image_size=32)
    assert lone.undefined["knn_series"] == "every series has a single slice"
    values = lone.measure(resnet_encoder("resnet18"))
    assert values["knn_series"] is values["knn_place"] is None
    assert json.dumps(values, allow_nan=False)
    with pytest.raises(NoImagesError, match="two slices or more, and the filters leave 1"):
        MeasuredSlices(phantom_store, [*one, ["slice", "==", 2]])
