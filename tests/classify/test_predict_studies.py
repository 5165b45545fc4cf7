"""Predictions of clinical files and of pictures, as a user asks for them."""

import dataclasses
import json
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import nibabel as nib
import numpy as np
import pytest
import torch

from medssl_monai.classify import confidence
from medssl_monai.classify.confidence import read_confidence
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.explain import occlusion_map
from medssl_monai.classify.features import embed
from medssl_monai.classify.finetune import finetune
from medssl_monai.classify.heat_maps import on_slice
from medssl_monai.classify.inputs import parse_dicomweb
from medssl_monai.classify.pictures.inputs import PictureInput
from medssl_monai.classify.predict import PredictionOptions, predict
from medssl_monai.cli.main import main
from medssl_monai.errors import CheckpointError, ConfigError, InputError, NoImagesError, NotHounsfieldError
from medssl_monai.ingest import SliceStore
from medssl_monai.ingest.sources.dicomweb import PacsSeries, PacsSource
from medssl_monai.store.names_file import add_names
from medssl_monai.store.verdicts import Reason, RejectedError
from tests.csv_rows import rows

SMALL = {"arch": "resnet18", "image_size": 64, "batch_size": 6, "num_workers": 0, "device": "cpu"}


@pytest.fixture(scope="module")
def study(phantom_labels: Path) -> Path:
    return phantom_labels.parent / "phantom-005"


def content(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "prediction.json").read_text(encoding="utf-8"))
    return found


def test_a_run_knows_its_limits(fine_tuned: Path) -> None:
    known = read_confidence(fine_tuned / "models")
    assert 0.05 <= known.temperature <= 20
    assert known.temperature_note == "fitted on 6 validation slices"
    assert known.reference is not None
    assert known.reference.judged_by == "validation slices"
    assert known.reference.features.shape == (12, 128 + 256 + 512)
    assert known.reference.threshold > 0


def test_evaluation_can_fit_it_again(
    fine_tuned: Path, phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(fine_tuned, run)
    (run / "models" / "confidence.json").unlink()
    (run / "models" / "reference.safetensors").unlink()
    table = phantom_labels.with_name("labels_for_predictions.csv")
    evaluate(run, table, tmp_path / "out", store=phantom_store.path, explanations=0, calibrate=True)
    first, again = (read_confidence(one / "models") for one in (fine_tuned, run))
    assert again.temperature == pytest.approx(first.temperature, rel=1e-6)
    assert first.reference is not None
    assert again.reference is not None
    assert again.reference.threshold == pytest.approx(first.reference.threshold, rel=1e-6)


@pytest.mark.slow
def test_an_evaluation_on_what_was_learned_from_says_so(
    fine_tuned: Path,
    phantom_labels: Path,
    phantom_store: SliceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [line.rsplit(",", 1)[0] for line in phantom_labels.read_text(encoding="utf-8").splitlines()]
    table = phantom_labels.with_name("unsplit.csv")
    table.write_text("\n".join(rows), encoding="utf-8")
    words = ["evaluate", fine_tuned, "--data", table, "--store", phantom_store.path, "--out", tmp_path / "out"]
    printed = []
    for more in ([], ["--json"]):
        monkeypatch.setattr(sys, "argv", ["medssl", *map(str, words), *more])
        with pytest.raises(SystemExit) as stopped:
            main()
        assert not stopped.value.code
        printed.append(capsys.readouterr().out)
    count = len(rows) - 1
    sentence = f"split unknown in {count} of {count} rows: they are used for training and testing alike, "
    sentence += "so the test is on training data"
    assert f"unsplit.csv: {sentence}" in printed[0]
    written = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert json.loads(printed[1])["statements"] == written["statements"] == [sentence]


@pytest.mark.parametrize(
    ("answers", "note"),
    [
        (np.argmax, "not fitted: all of 6 validation slices are classified correctly, which leaves it open"),
        (np.argmin, "not fitted: on 6 validation slices the answers are no better than chance"),
    ],
)
def test_no_temperature_is_fitted_where_slices_leave_it_open(
    answers: Callable[..., Any],
    note: str,
    fine_tuned: Path,
    phantom_labels: Path,
    phantom_store: SliceStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def labelled(*arguments: Any) -> Any:
        """With the classes that make every answer right, or wrong."""
        found = embed(*arguments)
        return dataclasses.replace(found, labels=answers(found.outputs, axis=1))

    monkeypatch.setattr(confidence, "embed", labelled)
    run = tmp_path / "run"
    shutil.copytree(fine_tuned, run)
    table = phantom_labels.with_name("labels_for_predictions.csv")
    evaluate(run, table, tmp_path / "out", store=phantom_store.path, explanations=0, calibrate=True)
    known = read_confidence(run / "models")
    assert (known.temperature, known.temperature_note) == (1.0, note)


def test_folder_archive_and_volume_with_heat_maps(fine_tuned: Path, study: Path, tmp_path: Path) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(study, mixed)
    (mixed / "letter.txt").write_text("Dear colleague")
    studies = predict(fine_tuned, [mixed], tmp_path / "a", PredictionOptions(heat_maps=1, occlusion=True)).studies
    assert [one["slices"] for one in studies] == [6]
    found = content(tmp_path / "a")
    assert [one["reason"] for one in found["left_out"]] == ["NOT_AN_IMAGE_FILE"]
    assert found["temperature"]["note"] == "fitted on 6 validation slices"
    assert found["out_of_distribution"]["threshold"] == found["slices"][0]["threshold"]
    (picture,) = (tmp_path / "a" / "heat_maps").iterdir()
    assert picture.name.startswith(studies[0]["series_id"])
    assert picture.stat().st_size > 20_000
    with zipfile.ZipFile(tmp_path / "study.zip", "w") as archive:
        for file in study.rglob("*"):
            archive.write(file, file.relative_to(study))
    again = predict(fine_tuned, [tmp_path / "study.zip"], tmp_path / "b").studies
    assert again == studies, "an archive is a folder"
    predict(fine_tuned, [mixed], tmp_path / "c", PredictionOptions(names=True))
    assert content(tmp_path / "c")["studies"][0]["source"].startswith(str(mixed))
    assert str(tmp_path) not in (tmp_path / "a" / "prediction.json").read_text(encoding="utf-8")
    assert {row["source"] for row in rows(tmp_path / "c" / "left_out.csv")} == {str(mixed / "letter.txt")}


def test_slices_of_a_store_are_named_by_its_names_file(
    fine_tuned: Path, phantom_labels: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(*words: object) -> int:
        monkeypatch.setattr(sys, "argv", ["medssl", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return int(stopped.value.code or 0)

    store, names = tmp_path / "store", tmp_path / "names.csv"
    assert call("ingest", phantom_labels.parent, "--out", store, "--modality", "CT", "--names", names) == 0
    assert call("predict", fine_tuned, store, "--out", tmp_path / "out", "--names", names) == 0
    found = rows(tmp_path / "out" / "predictions.csv")
    places = {Path(row["source"]).relative_to(phantom_labels.parent).parts[0] for row in found}
    assert places == {path.name for path in phantom_labels.parent.glob("phantom-*")}
    left_out = {row["source"] for row in rows(tmp_path / "out" / "left_out.csv")}
    assert left_out == {str(path) for path in phantom_labels.parent.glob("*.*")}
    table = phantom_labels.with_name("labels_for_predictions.csv")
    words = ("evaluate", fine_tuned, "--data", table, "--store", store, "--out", tmp_path / "judged")
    assert call(*words, "--names", names) == 0
    judged = rows(tmp_path / "judged" / "predictions.csv")
    assert {(row["series_id"], row["source"]) for row in judged} < {(r["series_id"], r["source"]) for r in found}
    assert call(*words) == 0
    assert "source" not in rows(tmp_path / "judged" / "predictions.csv")[0]
    with pytest.raises(InputError, match="series and files; give the one"):
        add_names(tmp_path / "other.csv", [])
        predict(fine_tuned, store, tmp_path / "no", PredictionOptions(names=tmp_path / "other.csv"))
    with pytest.raises(InputError, match="a store holds no paths"):
        predict(fine_tuned, store, tmp_path / "no", PredictionOptions(names=True))
    with pytest.raises(InputError, match="give --paths instead"):
        predict(fine_tuned, study, tmp_path / "no", PredictionOptions(names=names))


def test_no_heat_map_of_an_earlier_patient_stays(
    fine_tuned: Path, phantom_labels: Path, study: Path, tmp_path: Path
) -> None:
    maps, other = tmp_path / "out" / "heat_maps", phantom_labels.parent / "phantom-004"
    predict(fine_tuned, [study], tmp_path / "out", PredictionOptions(heat_maps=1))
    (first,) = maps.iterdir()
    (maps / "image-000003_slice-0000.png").touch()
    (maps / "mine.png").touch()
    (found,) = predict(fine_tuned, [other], tmp_path / "out", PredictionOptions(heat_maps=1)).studies
    assert not first.name.startswith(found["series_id"])
    mine, new = sorted(path.name for path in maps.iterdir())
    assert (mine, new.split("_")[0]) == ("mine.png", found["series_id"])
    predict(fine_tuned, [study], tmp_path / "out")
    assert [path.name for path in maps.iterdir()] == ["mine.png"]


def test_what_is_unlike_training_is_flagged(fine_tuned: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(-1024, 3000, (64, 64, 6)).astype(np.int16)
    nib.save(nib.Nifti1Image(noise, np.diag([-3.0, -3.0, 5.0, 1.0])), tmp_path / "noise.nii.gz")  # type: ignore[no-untyped-call]
    (study,) = predict(fine_tuned, [tmp_path / "noise.nii.gz"], tmp_path / "out").studies
    assert (study["predicted"], study["flag"], study["flagged_slices"]) == (None, "out_of_distribution", 6)
    assert study["score"] > study["threshold"]


def test_a_run_without_confidence_says_so(fine_tuned: Path, study: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(fine_tuned, run)
    (run / "models" / "confidence.json").unlink()
    predict(run, [study], tmp_path / "out")
    found = content(tmp_path / "out")
    assert found["temperature"]["value"] == 1.0
    assert found["temperature"]["note"].startswith("not fitted")
    assert found["slices"][0]["score"] is None
    (run / "models" / "confidence.json").write_text("{}")
    with pytest.raises(CheckpointError, match="confidence"):
        predict(run, [study], tmp_path / "out")


def test_a_kept_store_is_not_mistaken_for_the_sources(fine_tuned: Path, study: Path, tmp_path: Path) -> None:
    inbox, cache = tmp_path / "inbox", str(tmp_path / "cache")
    shutil.copytree(study, inbox / "one")
    first = predict(fine_tuned, [inbox], tmp_path / "a", cache_dir=cache).studies
    shutil.rmtree(inbox / "one")
    shutil.copytree(study.with_name("phantom-004"), inbox / "two")
    second = predict(fine_tuned, [inbox], tmp_path / "b", cache_dir=cache).studies
    assert len(first) == len(second) == 1
    assert first[0]["series_id"] != second[0]["series_id"]


def test_wrong_input_is_told(fine_tuned: Path, tmp_path: Path) -> None:
    picture = tmp_path / "x.png"
    cv2.imwrite(str(picture), np.zeros((32, 32), np.uint8))
    with pytest.raises(NotHounsfieldError, match="which a picture does not have"):
        predict(fine_tuned, [picture], tmp_path / "out")
    upright = np.full((32, 6, 32), -1000, np.int16)
    upright[8:24, :, 8:24] = 40
    affine = np.array([[0, 0, 3.0, 0], [0, 5.0, 0, 0], [3.0, 0, 0, 0], [0, 0, 0, 1]])
    nib.save(nib.Nifti1Image(upright, affine), tmp_path / "coronal.nii.gz")  # type: ignore[no-untyped-call]
    with pytest.raises(NoImagesError, match="is coronal; the classifier is for axial slices"):
        predict(fine_tuned, [tmp_path / "coronal.nii.gz"], tmp_path / "out")
    with pytest.raises(InputError, match="not for a whole PACS"):
        predict(fine_tuned, ["https://pacs.example/dicom-web"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match=r"a prediction needs a folder of its own, found a run \(run\.json\)"):
        predict(fine_tuned, [tmp_path / "coronal.nii.gz"], fine_tuned)
    with pytest.raises(ConfigError, match=r"an evaluation needs a folder of its own, found a run \(run\.json\)"):
        evaluate(fine_tuned, tmp_path / "labels.csv", fine_tuned)


def test_addresses_of_studies() -> None:
    service = "https://pacs.example/dicom-web"
    assert parse_dicomweb(f"{service}/studies/1.2/", {}) == (service, {"Modality": "CT", "StudyInstanceUID": "1.2"})
    assert parse_dicomweb(f"{service}/studies/1.2/series/3.4", {})[1]["SeriesInstanceUID"] == "3.4"
    assert parse_dicomweb(service, {"StudyInstanceUID": "1.2"})[0] == service


def test_a_study_of_a_pacs(fine_tuned: Path, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def series(self: PacsSource) -> list[PacsSeries]:
        assert dict(self.query) == {"Modality": "CT", "StudyInstanceUID": "1.2"}
        return [PacsSeries("1.2", f"1.2.{n}", "CT", ("1.2.3.4",)) for n in range(2)]

    def retrieve(self: PacsSource, one: PacsSeries, folder: Path) -> None:
        if one.series_uid == "1.2.1":
            raise RejectedError(Reason.NOT_RETRIEVED, "the server did not give its images")
        shutil.copytree(study, folder)
        places.append(folder)

    places: list[Path] = []
    monkeypatch.setattr(PacsSource, "series", series)
    monkeypatch.setattr(PacsSource, "retrieve", retrieve)
    address = "https://pacs.example/dicom-web/studies/1.2"
    named = predict(fine_tuned, [address], tmp_path / "named", PredictionOptions(names=True)).studies
    assert named[0]["source"] == f"{address}/series/1.2.0"
    places.clear()
    options = PredictionOptions(dicom_out=tmp_path / "objects")
    (found,) = predict(fine_tuned, [address], tmp_path / "out", options).studies
    assert found["slices"] == 6
    assert [one["reason"] for one in content(tmp_path / "out")["left_out"]] == ["NOT_RETRIEVED"]
    assert len(list((tmp_path / "objects").iterdir())) == 2, "a report and a picture"
    assert not places[0].exists(), "what was fetched does not stay"
    assert "1.2.1" not in (tmp_path / "out" / "prediction.json").read_text(encoding="utf-8")


def test_runs_on_pictures_predict_pictures(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name, level in (("dark", 60), ("light", 190)):
        for number in range(8):
            path = tmp_path / "pictures" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.normal(level, 20, (40, 50)).clip(0, 255).astype(np.uint8))
    settings: dict[str, Any] = {**SMALL, "max_epochs": 1, "frozen_epochs": 0}
    finetune(tmp_path / "pictures", tmp_path / "run", config=["finetune_folders"], **settings)
    chosen = [tmp_path / "pictures" / "dark" / name for name in ("0.png", "1.png")]
    words = ["predict", tmp_path / "run", *chosen, "--out", tmp_path / "out", "--heatmaps", "1"]
    monkeypatch.setattr(sys, "argv", ["medssl", *map(str, words)])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    assert "temperature" in capsys.readouterr().out
    assert [row["source"] for row in content(tmp_path / "out")["slices"]] == [str(path) for path in chosen]
    judged = evaluate(tmp_path / "run", tmp_path / "pictures", tmp_path / "judged", figures=False).predictions
    assert {source.rpartition("/")[0] for source in judged.column("source").to_pylist()} == {"dark", "light"}
    assert (tmp_path / "out" / "heat_maps" / "picture-000000_slice-0000.png").is_file()
    with pytest.raises(NoImagesError, match="fine-tuned on pictures"):
        predict(tmp_path / "run", [study], tmp_path / "no")
    with pytest.raises(InputError, match="this run takes pictures"):
        predict(tmp_path / "run", [study], tmp_path / "no", PredictionOptions(dicom_out=tmp_path / "d"))


def test_pictures_in_an_archive_and_what_is_none(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.full((8, 9), 7, np.uint8))
    cv2.imwrite(str(tmp_path / "deep.png"), np.full((8, 9), 700, np.uint16))
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in ("a.png", "deep.png"):
            archive.write(tmp_path / name, name)
    found = PictureInput([tmp_path / "x.zip"])
    assert len(found) == 1
    assert found[0]["image"].shape == (3, 8, 9)
    assert int(found[0]["image"].max()) == 7
    assert [one["reason"] for one in found.left_out] == ["NOT_A_PICTURE"]


class _Corner(torch.nn.Module):
    """Class 1 is the brightness of the upper left corner."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(8.0))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        bright = image[:, :, :16, :16].mean((1, 2, 3)) * self.scale
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


def test_occlusion_finds_what_counts() -> None:
    view = torch.zeros(3, 64, 64)
    view[:, :16, :16] = 1
    fall = occlusion_map(_Corner(), view, 1, patch=16)
    assert fall.shape == (64, 64)
    assert fall[:8, :8].min() > 0.3
    assert np.abs(fall[40:, 40:]).max() < 1e-6
    assert occlusion_map(_Corner(), view, 0, patch=16)[:8, :8].max() < -0.3


def test_maps_lie_on_the_slice_without_the_air_around_it() -> None:
    heat = np.zeros((64, 64))
    heat[16:48] = 1  # a slice twice as wide as high fills these rows
    assert on_slice(heat, (50, 100)).min() == 1
    assert on_slice(heat, (50, 100), fitted=False).min() == 0
    assert on_slice(np.ones((64, 64)), (1000, 2)).shape == (1000, 2), "a strip narrower than a pixel of the view"
