"""Passports of weights: overlaps are found without the data, also of changed images; other patients are not."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torchvision

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.import_weights import import_weights
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.classify.audited import audit
from medssl_monai.cli import export as export_verb
from medssl_monai.errors import CheckpointError, NoImagesError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.labels.passport import DISTANCE, make_passport, read_passport
from tests.ingest.dicom_fixtures import KEY, anatomy, write_series

PATIENTS = {"a": 10, "b": 310, "c": 610}
"""And the first slice of each within the synthetic anatomy."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three patients, and an encoder with its passport."""
    home = tmp_path_factory.mktemp("passport")
    for patient, start in PATIENTS.items():
        write_series(home / "in" / patient, anatomy(start, 6), series=f"p{patient}", PatientID=patient)
    build_store([home / "in"], home / "store", key=KEY, progress=False)
    export_encoder(torchvision.models.resnet18(), home / "bare.safetensors", metadata={"method": "test"})
    passport = make_passport(SliceStore(home / "store"), per_series=3).to_text()
    export_run(home / "bare.safetensors", home / "encoder.safetensors", passport=passport)
    return home


def pictures(folder: Path, name: str, start: int, *, turned: bool = False) -> None:
    """A slice in a lung window as an 8-bit picture, larger and compressed."""
    picture = np.clip((anatomy(start, 6)[3].astype(np.float32) + 1350) / 1500 * 255, 0, 255).astype(np.uint8)
    picture = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
    cv2.imwrite(str(folder / name), np.rot90(picture) if turned else picture)


def test_what_the_passport_holds(home: Path) -> None:
    passport = read_passport(home / "encoder.safetensors")
    assert (passport.slices, passport.slices_used, passport.series, passport.series_used) == (9, 18, 3, 3)
    report = json.loads((home / "encoder.report.json").read_text())
    assert report["metadata"]["passport"] == "carried"
    assert "prints of 9 of 18 slices" in (home / "encoder.card.md").read_text()
    # No name, no pseudonym, no series.
    text = passport.to_text()
    assert not any(row["series_id"] in text or row["patient"] in text for row in SliceStore(home / "store").select())


def test_neighbours_that_were_channels_have_prints_too(home: Path) -> None:
    store = SliceStore(home / "store")
    third, spacing = [["slice", "==", 2]], store.select()[0]["slice_spacing_mm"]
    assert make_passport(store, third).slices_used == 3
    assert make_passport(store, third, channel_spacing_mm=spacing).slices_used == 9
    assert make_passport(store, third, channel_spacing_mm=1000).slices_used == 3, "no slice lies so far away"


def test_the_lot_decides_when_there_are_many(home: Path) -> None:
    store = SliceStore(home / "store")
    drawn = {make_passport(store, per_series=2, most=2, salt=bytes([n])).prints.tobytes() for n in range(12)}
    assert len(drawn) == len(PATIENTS)
    again = [make_passport(store, per_series=2, most=2, salt=b"s").prints.tobytes() for _ in range(2)]
    assert again[0] == again[1]
    with pytest.raises(NoImagesError, match="shows enough"):
        make_passport(store, most=0)


@pytest.mark.parametrize(("split", "harmless"), [("test", False), ("train", True)])
def test_changed_pictures_of_seen_patients_are_found(home: Path, tmp_path: Path, split: str, harmless: bool) -> None:
    other = {"train": "test", "test": "train"}[split]
    rows = [("seen.jpg", 10, split), ("a.jpg", 1000, split), ("b.jpg", 1100, other), ("c.jpg", 1200, other)]
    for name, start, _ in rows:
        pictures(tmp_path, name, start, turned=name == "seen.jpg")
    lines = [f"{tmp_path / name},{'xy'[number % 2]},{part}" for number, (name, _, part) in enumerate(rows)]
    (tmp_path / "labels.csv").write_text("\n".join(["source,label,split", *lines]))
    report = audit([home / "encoder.safetensors", tmp_path / "labels.csv"])
    assert not report.unchecked
    seen = [one for one in report.near_duplicates if one.kind == "seen"]
    assert [(Path(one.second_series).name, one.harmless) for one in seen] == [("seen.jpg", harmless)]
    assert seen[0].distance <= DISTANCE
    assert report.leaks == (not harmless)
    assert any(f"encoder.safetensors and {split}: 1 of 2 series" in one for one in report.statements)


def test_a_store_beside_weights_is_asked_about(home: Path) -> None:
    report = audit([home / "encoder.safetensors", home / "store"])
    assert (report.sets[0].name, report.sets[0].kind, report.sets[1].kind) == (
        "encoder.safetensors",
        "pre-training",
        "",
    )
    assert {one.distance for one in report.near_duplicates} == {0}
    assert len({one.second_series for one in report.near_duplicates}) == len(PATIENTS)
    assert report.leaks


def test_weights_without_a_passport_are_said_to_be_unchecked(home: Path, tmp_path: Path) -> None:
    (tmp_path / "network.pth").write_bytes(b"")
    report = audit([home / "bare.safetensors", tmp_path / "network.pth", tmp_path / "none.safetensors", home / "store"])
    assert report.exit_code == 2
    assert "carries no passport" in report.unchecked[0]
    assert all("must be a safetensors file" in one for one in report.unchecked[1:])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 9}, "has version 9"),
        ({"owners": ""}, "damaged"),
        ({"prints": "AAAA"}, "damaged"),
        ({"prints": 7}, "damaged"),
        ({"slices": None}, "damaged"),
    ],
)
def test_damaged_passports(home: Path, tmp_path: Path, change: dict[str, object], said: str) -> None:
    text = json.dumps({**json.loads(read_passport(home / "encoder.safetensors").to_text()), **change})
    network = torchvision.models.resnet18()
    export_encoder(network, tmp_path / "e.safetensors", metadata={"passport": text})
    with pytest.raises(CheckpointError, match=said):
        read_passport(tmp_path / "e.safetensors")


def test_the_passport_stays_with_the_weights_unless_it_is_left_out(home: Path, tmp_path: Path) -> None:
    first = read_passport(home / "encoder.safetensors").to_text()
    export_run(home / "encoder.safetensors", tmp_path / "again.safetensors")
    import_weights(home / "encoder.safetensors", tmp_path / "imported.safetensors")
    for name in ("again", "imported"):
        assert read_passport(tmp_path / f"{name}.safetensors").to_text() == first
    export_verb.run(home / "encoder.safetensors", tmp_path / "bare.safetensors", passport=False)
    with pytest.raises(CheckpointError, match="no passport"):
        read_passport(tmp_path / "bare.safetensors")


def test_the_command_adds_it_with_the_store(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export_verb.run(home / "bare.safetensors", tmp_path / "e.safetensors", data=[home / "store"], licence=None)
    assert read_passport(tmp_path / "e.safetensors").slices == 18
    assert "without a passport" not in capsys.readouterr().out
    export_verb.run(home / "bare.safetensors", tmp_path / "e.pth", "torchvision", data=[home / "store"])
    assert "without a passport" in capsys.readouterr().out
