"""The served network: all weights or none, the bundle's own numbers, heat maps on the slice's pixels."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigWorkflow

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.classify.heat_maps import on_slice
from medssl_monai.errors import CheckpointError, InputError, NoImagesError
from medssl_monai.ingest import SliceStore
from medssl_monai.label_server.networks import ServedNetwork, check_model, read_model_view
from medssl_monai.label_server.predictions_cache import PredictionsCache
from medssl_monai.label_server.preparation import prepare_server
from medssl_monai.label_server.records import Records
from medssl_monai.label_server.refusals import UnknownImageError
from medssl_monai.label_server.studies import StudiesFolder, open_studies, passing_store
from medssl_monai.label_server.training import train_classifier
from medssl_monai.label_server.volumes import evidence_volume, write_volume
from medssl_monai.label_server.workspace import ServerSettings, Workspace
from medssl_monai.networks.resnet import resnet_encoder
from tests.label_server.conftest import SMALL


@pytest.fixture(scope="module")
def served(small_run: Path, phantom_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    work = tmp_path_factory.mktemp("label") / "work"
    settings = ServerSettings(studies=str(phantom_labels.parent))
    workspace, told = prepare_server(settings, model=small_run, work=work)
    assert any("abdomen_pelvis" in sentence for sentence in told)
    return workspace


def test_probabilities_are_the_bundles_own(served: Workspace, small_run: Path, tmp_path: Path) -> None:
    """`inference.yaml`, MONAI and torchvision alone, on the file that a client downloads."""
    studies = open_studies(served)
    image = studies.ids()[0]
    look = ServedNetwork(served.current_model, "cpu").look(studies.store, studies.rows(image))
    (tmp_path / "images").mkdir()
    shutil.copy(studies.image_file(image), tmp_path / "images" / "study.nii.gz")
    workflow = ConfigWorkflow(
        config_file=str(small_run / "configs" / "inference.yaml"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(small_run),
        dataset_dir=str(tmp_path / "images"),
        output_dir=str(tmp_path / "out"),
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    rows = list(csv.reader((tmp_path / "out" / "predictions.csv").read_text().splitlines()))
    theirs = np.array([[float(p) for p in row[1:]] for row in rows])
    assert look.probabilities is not None
    assert look.probabilities == pytest.approx(theirs, abs=2e-5)
    assert look.study == pytest.approx(theirs.mean(axis=0), abs=2e-5)


def test_slices_between_their_neighbours(served: Workspace, small_run: Path, tmp_path: Path) -> None:
    """A run with a spacing of channels, and an encoder, of one slice and of a study."""
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    file = run / "configs" / "inference.yaml"
    file.write_text(file.read_text().replace("channel_spacing_mm: 0", "channel_spacing_mm: 150"))
    studies = open_studies(served)
    rows = studies.rows(studies.ids()[0])
    network = ServedNetwork(run, "cpu")
    assert network.view.channel_spacing_mm == 150
    look, alone = (one.look(studies.store, rows) for one in (network, ServedNetwork(small_run, "cpu")))
    assert not np.allclose(look.features, alone.features)
    one = network.look(studies.store, rows[2:3])
    assert one.features == pytest.approx(look.features[2:3], abs=1e-4)
    assert [one.shape for one in network.evidence(studies.store, rows, 0)] == [(64, 64)] * len(rows)
    metadata = {"window": '"wide"', "mean": "0.25", "std": "0.25", "channel_spacing_mm": "150"}
    export_encoder(resnet_encoder("resnet18"), tmp_path / "encoder.safetensors", metadata=metadata)
    assert ServedNetwork(tmp_path / "encoder.safetensors", "cpu", encoder=True).view.channel_spacing_mm == 150


def test_an_encoder_is_never_served_as_a_classifier(served: Workspace, small_run: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_run, broken)
    encoder = resnet_encoder("resnet18").state_dict()
    torch.save(encoder, broken / "models" / "model.pt")
    with pytest.raises(CheckpointError, match=r"fc\.weight"):
        check_model(broken)
    torch.save({"state_dict": {f"module.encoder_q.{k}": v for k, v in encoder.items()}}, broken / "models" / "model.pt")
    with pytest.raises(CheckpointError):
        check_model(broken)
    network = ServedNetwork(broken, "cpu")
    studies = open_studies(served)
    with pytest.raises(CheckpointError):
        network.look(studies.store, studies.rows(studies.ids()[0]))
    alone = tmp_path / "encoder"
    (alone / "models").mkdir(parents=True)
    torch.save(encoder, alone / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="an encoder alone cannot classify"):
        prepare_server(ServerSettings(studies=str(tmp_path)), model=alone, work=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_a_network_that_broke_is_not_answered_by_the_one_before(
    served: Workspace, small_run: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    network, studies = ServedNetwork(run, "cpu"), open_studies(served)
    rows = studies.rows(studies.ids()[0])
    network.look(studies.store, rows)
    (run / "models" / "model.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError):
        network.look(studies.store, rows)


def test_settings_that_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        prepare_server(ServerSettings(studies=str(tmp_path / "none")), work=tmp_path / "w")
    with pytest.raises(InputError, match="must not hold the studies"):
        prepare_server(ServerSettings(studies=str(tmp_path)), work=tmp_path)
    with pytest.raises(InputError, match="cpu or cuda"):
        prepare_server(ServerSettings(studies=str(tmp_path), device="$x"), work=tmp_path / "w")
    with pytest.raises(CheckpointError, match=r"8-bit pictures, .* the images of the server are Hounsfield"):
        settings = ServerSettings(studies=str(tmp_path), encoder="ct-lidc-spark-resnet50")
        prepare_server(settings, work=tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_heat_maps_return_to_the_slice() -> None:
    """A wide slice in a square view: the rows above and below are padding."""
    heat = np.zeros((64, 64), np.float32)
    heat[32:48, 0:32] = 1  # lower left quarter of the 32 rows that show the slice
    back = on_slice(heat, (100, 200))
    assert back.shape == (100, 200)
    assert back[60:95, 5:90].min() > 0.9
    assert back[:40].max() < 0.1
    assert back[:, 110:].max() < 0.1


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_evidence_lies_on_the_study(served: Workspace, tmp_path: Path, suffix: str) -> None:
    import SimpleITK

    studies = open_studies(served)
    image = studies.ids()[0]
    rows = studies.rows(image)
    maps = [np.zeros((row["rows"], row["columns"]), np.float32) for row in rows]
    maps[3][10, 40] = 0.8
    volume = evidence_volume(studies.store, image, rows, maps, 0.5)
    write_volume(studies.store, image, volume, tmp_path / f"evidence{suffix}")
    files = (tmp_path / f"evidence{suffix}", studies.image_file(image))
    images: list[Any] = [SimpleITK.ReadImage(str(file)) for file in files]
    marked, plain = images
    assert marked.GetSize() == plain.GetSize()
    assert marked.GetOrigin() == pytest.approx(plain.GetOrigin(), abs=1e-3)
    assert marked.GetDirection() == pytest.approx(plain.GetDirection(), abs=1e-4)
    array = SimpleITK.GetArrayFromImage(marked)
    assert np.argwhere(array).tolist() == [[3, 10, 40]]


def test_unknown_images_and_uploads(served: Workspace, phantom_labels: Path) -> None:
    studies = open_studies(served)
    assert isinstance(studies, StudiesFolder)
    for name in ("nope", "../../etc/passwd", ""):
        with pytest.raises(UnknownImageError):
            studies.rows(name)
    with (
        pytest.raises(NoImagesError) as caught,
        passing_store(phantom_labels, studies.settings, studies.key, served.tmp),
    ):
        pass
    assert str(phantom_labels) not in str(caught.value)
    assert not list(served.tmp.iterdir())
    file = next(phantom_labels.parent.rglob("*.dcm"))
    with passing_store(file, studies.settings, studies.key, served.tmp) as store:
        assert len(store) == 1
    assert not list(served.tmp.iterdir())


def test_answers_are_kept_until_the_network_changes(served: Workspace, small_run: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(small_run, run)
    studies, network = open_studies(served), ServedNetwork(run, "cpu")
    cache = PredictionsCache(served, studies, network)
    image = studies.ids()[1]
    assert cache.known(image) is None
    first = cache.look(image)
    again = cache.known(image)
    assert again is not None
    assert again.slices == first.slices
    assert again.study == pytest.approx(first.study)
    (file,) = served.predictions.rglob("*.npz")
    file.write_bytes(file.read_bytes()[:-30])
    assert cache.known(image) is None, "a damaged file"
    cache.look(image)
    assert cache.known(image) is not None
    state = torch.load(run / "models" / "model.pt", weights_only=True)
    state["fc.bias"] += 1
    torch.save(state, run / "models" / "model.pt")
    assert cache.known(image) is None
    cache.look(image)
    assert len(list(served.predictions.iterdir())) == 1


def test_fine_tuning_on_labels_is_served(small_run: Path, phantom_labels: Path, tmp_path: Path) -> None:
    """Without the server: labels, a training that starts from what is served, a new network behind the link."""
    settings = ServerSettings(studies=str(phantom_labels.parent))
    workspace, _ = prepare_server(settings, model=small_run, work=tmp_path / "work")
    studies, records = open_studies(workspace), Records(workspace)
    label = tmp_path / "label.json"
    for number, image in enumerate(studies.ids()):
        label.write_text(json.dumps({"label": ("upper", "lower")[number % 2]}))
        records.save_label(image, label, "final", {})
    request = {"max_epochs": 1, "batch_size": 6, "frozen_epochs": 0, "val_split": 0.4}
    result = train_classifier(workspace, studies, records, request)
    assert result["classes"] == ["lower", "upper"]
    run = workspace.current_model.resolve()
    view = read_model_view(run)
    assert (view.arch, view.image_size, view.classes) == (SMALL["arch"], SMALL["image_size"], ("lower", "upper"))
    # The next start with the same --model serves what was trained; --use-given goes back.
    _, told = prepare_server(settings, model=small_run, work=tmp_path / "work")
    assert "trained here" in told[-1]
    assert workspace.current_model.resolve() == run
    prepare_server(settings, model=small_run, work=tmp_path / "work", use_given=True)
    assert workspace.current_model.resolve() == small_run.resolve()


def test_a_store_is_served_as_it_is(phantom_store: SliceStore, tmp_path: Path) -> None:
    workspace, told = prepare_server(ServerSettings(studies=str(phantom_store.path)), work=tmp_path / "w")
    studies = open_studies(workspace)
    assert studies.ids() == phantom_store.series_ids
    assert "no classifier yet" in told[-1]
    with pytest.raises(InputError, match="finished store"):
        studies.add(tmp_path / "x.nii.gz")
