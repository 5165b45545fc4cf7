"""`medssl bundle`: what is packed, what is refused, and that the zip is all that another machine needs."""

import hashlib
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import monai.bundle
import numpy as np
import pytest
import torch
import torchvision
import yaml
from monai.bundle import ConfigParser
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.networks.classifier import classifier
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.resources import bundle_dir
from medssl_monai.runs.folder import record_run
from medssl_monai.runs.pack import pack_bundle, shipped_bundles

CLASSES = ["abdomen", "head", "thorax"]
SETTINGS = {"arch": "resnet18", "image_size": 64, "window": "wide", "window_hu": [[-1000.0, 1000.0]], "seed": 3}
SCHEMA = Path(__file__).parents[1] / "golden" / "meta_schema_20240725.json"


@pytest.fixture(scope="module")
def classified(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fine-tuning run, as far as packing is concerned."""
    run = tmp_path_factory.mktemp("DOE^JANE") / "run"
    settings = {**SETTINGS, "mean": 0.25, "std": 0.25, "classes": CLASSES, "store_dir": "/archive/DOE^JANE"}
    record_run(run, bundle_dir("ct_classification"), settings, data_fingerprint="f" * 64)
    torch.manual_seed(0)
    torch.save(classifier("resnet18", 3).state_dict(), run / "models" / "model.pt")
    return run


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pre-training run, likewise."""
    run = tmp_path_factory.mktemp("runs") / "moco"
    record_run(run, bundle_dir("ct_ssl_moco"), {**SETTINGS, "mean": 0.25, "std": 0.25})
    torch.manual_seed(0)
    export_encoder(resnet_encoder("resnet18"), run / "models" / "encoder.safetensors", metadata={"method": "moco"})
    return run


@pytest.fixture(scope="module")
def unpacked(classified: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's zip, unpacked."""
    out = tmp_path_factory.mktemp("elsewhere") / "ct_classification.zip"
    digest = pack_bundle("ct_classification", classified, out)
    assert digest == hashlib.sha256(out.read_bytes()).hexdigest()
    assert out.with_name("ct_classification.zip.sha256").read_text() == f"{digest}  ct_classification.zip\n"
    with zipfile.ZipFile(out) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"ct_classification"}
        archive.extractall(out.parent)
    return out.parent / "ct_classification"


def test_every_shipped_bundle_is_listed() -> None:
    assert [one.name for one in shipped_bundles()] == [
        "ct_classification",
        *(f"ct_ssl_{method}" for method in ("byol", "moco", "spark", "swav")),
    ]
    assert all(one.version and one.description and one.path.is_dir() for one in shipped_bundles())


def test_the_same_run_gives_the_same_bytes(classified: Path, unpacked: Path, tmp_path: Path) -> None:
    digest = pack_bundle("ct_classification", classified, tmp_path / "again.zip")
    assert (unpacked.parent / "ct_classification.zip.sha256").read_text().startswith(digest)


def test_nothing_packed_tells_where_it_came_from(unpacked: Path) -> None:
    for file in unpacked.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            for word in (b"DOE^JANE", b"/archive", str(unpacked.parent).encode(), str(Path.home()).encode() + b"/"):
                assert word not in content, (file.name, word)
    for line in (unpacked / "SHA256SUMS").read_text().splitlines():
        digest, _, name = line.partition("  ")
        assert hashlib.sha256((unpacked / name).read_bytes()).hexdigest() == digest
    assert "float32, prepared as below" in (unpacked / "docs" / "model_card.md").read_text()
    meta = json.loads((unpacked / "configs" / "metadata.json").read_text())
    assert meta["network_data_format"]["outputs"]["pred"]["channel_def"] == {"0": "abdomen", "1": "head", "2": "thorax"}


# MONAI warns of every configuration that it loads so: it is code.
@pytest.mark.filterwarnings("ignore:parsing config_file:UserWarning")
def test_monai_verifies_and_loads_both_kinds(unpacked: Path, pretrained: Path, classified: Path) -> None:
    out = unpacked.parent / "ct_ssl_moco.zip"
    pack_bundle("ct_ssl_moco", pretrained, out)
    with zipfile.ZipFile(out) as archive:
        archive.extractall(out.parent)
    for name, features in (("ct_classification", 3), ("ct_ssl_moco", 512)):
        configs = unpacked.parent / name / "configs"
        for file in ("inference.yaml", "inference.json"):
            monai.bundle.verify_net_in_out(
                "network_def", str(configs / "metadata.json"), str(configs / file), device="cpu"
            )
        network: Any = monai.bundle.load(
            name, bundle_dir=str(unpacked.parent), workflow_type="inference", device="cpu", source="github"
        )
        assert network(torch.zeros(2, 3, 64, 64)).shape == (2, features)
        known = torch.load(unpacked.parent / name / "models" / "model.pt", weights_only=True)
        assert torch.equal(network.state_dict()["conv1.weight"], known["conv1.weight"])
    parser = monai.bundle.load_bundle_config(str(unpacked.parent / "ct_classification.zip"), "inference.yaml")
    assert parser["classes"] == CLASSES


@pytest.mark.filterwarnings("ignore:No hash value provided:UserWarning")  # MONAI publishes none for its schema
def test_metadata_fit_monais_schema(unpacked: Path) -> None:
    folders = [unpacked, *(one.path for one in shipped_bundles())]
    for folder in folders:
        monai.bundle.verify_metadata(meta_file=str(folder / "configs" / "metadata.json"), filepath=str(SCHEMA))


def test_what_is_no_finished_run_of_the_bundle_is_refused(classified: Path, pretrained: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zip"
    bare = tmp_path / "bare"
    record_run(bare, bundle_dir("ct_classification"), {**SETTINGS, "classes": CLASSES})
    with pytest.raises(CheckpointError, match=r"without weights is not packed, and models/model\.pt is missing"):
        pack_bundle("ct_classification", bare, out)
    torch.save(resnet_encoder("resnet18").state_dict(), bare / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="classification layer fc, found an encoder alone"):
        pack_bundle("ct_classification", bare, out)
    torch.save(classifier("resnet18", 5).state_dict(), bare / "models" / "model.pt")
    with pytest.raises(CheckpointError, match="of another shape"):
        pack_bundle("ct_classification", bare, out)
    broken = classifier("resnet18", 3)
    torch.nn.init.constant_(broken.fc.bias, torch.nan)
    torch.save(broken.state_dict(), bare / "models" / "model.pt")
    with pytest.raises(CheckpointError, match=r"NaN or infinity in fc\.bias"):
        pack_bundle("ct_classification", bare, out)
    with pytest.raises(CheckpointError, match="must be a run of ct_classification, found one of ct_ssl_moco"):
        pack_bundle("ct_classification", pretrained, out)
    with pytest.raises(CheckpointError, match="must be a run of ct_ssl_moco, found one of ct_classification"):
        pack_bundle("ct_ssl_moco", classified, out)
    with pytest.raises(CheckpointError, match="found a file of weights"):
        pack_bundle("ct_classification", pretrained / "models" / "encoder.safetensors", out)
    with pytest.raises(CheckpointError, match=r"run\.json is missing"):
        pack_bundle("ct_classification", tmp_path, out)
    with pytest.raises(ConfigError, match=r"\.zip"):
        pack_bundle("ct_classification", classified, tmp_path / "out.tar")
    with pytest.raises(ConfigError, match="does not exist; choose one of"):
        pack_bundle("ct_magic", classified, out)
    assert not out.exists()


def as_monai_label(bundle: Path, image: str) -> Any:
    """What the inference task of MONAI Label's stock app does with a bundle, step by step."""
    parser = ConfigParser()
    parser.read_config(str(bundle / "configs" / "inference.yaml"))
    network = parser.get_parsed_content("network_def").eval()
    network.load_state_dict(torch.load(bundle / "models" / "model.pt", weights_only=True))
    before, after = parser.get_parsed_content("preprocessing"), parser.get_parsed_content("postprocessing")
    assert isinstance(before, Compose) and isinstance(after, Compose)
    data: Any = {"image": image}
    for transform in before.transforms:
        data = transform(data)
    with torch.no_grad():
        data["pred"] = parser.get_parsed_content("inferer")(data["image"][None], network)[0]
    for transform in after.transforms:
        data = transform(data)
    return data


@pytest.mark.parametrize("single_file", [False, True])
def test_scores_are_what_monai_labels_stock_app_needs(unpacked: Path, phantom_labels: Path, single_file: bool) -> None:
    series = phantom_labels.parent / "phantom-001"
    files = sorted(p for p in series.rglob("*") if p.is_file())
    data = as_monai_label(unpacked, str(files[0] if single_file else files[0].parent))
    scores = data["pred"]
    assert isinstance(scores, MetaTensor)
    assert scores.shape == (3,)
    assert float(scores.sum()) == pytest.approx(1, abs=1e-5)
    assert scores.array == pytest.approx(np.asarray(data["slices"]).mean(axis=0), abs=1e-6)
    assert len(data["slices"]) == (1 if single_file else 6)
    # With these two, the app's resampling to the image's grid does nothing.
    assert type(data["image"]) is torch.Tensor
    assert "image_meta_dict" not in data


def test_monai_labels_overrides_train_the_bundle_in_place(
    unpacked: Path, phantom_labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series = [
        next(p for p in (phantom_labels.parent / f"phantom-00{i}").rglob("*") if p.is_file()).parent for i in (1, 2)
    ]
    (tmp_path / "a.json").write_text('{"label": "thorax"}')
    (tmp_path / "b.txt").write_text("head\n")
    train = [
        {"image": str(series[0]), "label": str(tmp_path / "a.json")},
        {"image": str(series[1]), "label": str(tmp_path / "b.txt")},
        {"image": str(next(p for p in series[1].iterdir())), "label": 0},
    ]
    parser = ConfigParser()
    parser.read_config(str(unpacked / "configs" / "train.yaml"))
    handlers = parser.get("train#handlers")
    loader = {"_target_": "CheckpointLoader", "load_path": str(unpacked / "models" / "model.pt")}
    handlers.insert(0, {**loader, "load_dict": {"model": "$@network"}, "strict": False})
    before = torch.load(unpacked / "models" / "model.pt", weights_only=True)
    monkeypatch.chdir(tmp_path)
    workflow = monai.bundle.ConfigWorkflow(
        config_file=str(unpacked / "configs" / "train.yaml"),
        workflow_type="train",
        logging_file=False,
        **{
            "bundle_root": str(unpacked),
            "device": "cpu",
            "train#trainer#max_epochs": 1,
            "train#dataset#data": train,
            "train#handlers": handlers,
            "validate#dataset#data": train[:1],
        },
    )
    workflow.initialize()
    workflow.run()
    workflow.finalize()
    assert len(workflow.parser.get_parsed_content("train::dataset")) == 13
    after = torch.load(unpacked / "models" / "model.pt", weights_only=True)
    assert not torch.equal(before["fc.weight"], after["fc.weight"])
    served = torchvision.models.resnet18(num_classes=3)
    served.load_state_dict(after)


def test_every_setting_of_a_pack_is_relative(unpacked: Path) -> None:
    for file in (unpacked / "configs").glob("*.yaml"):
        content = yaml.safe_load(file.read_text())
        assert content.get("bundle_root", ".") == "."
        assert content.get("dataset_dir") in {None, "."}


@pytest.mark.slow
def test_the_packed_classifier_needs_nothing_of_ours(unpacked: Path, phantom_labels: Path, tmp_path: Path) -> None:
    blocked = (
        "import sys; sys.modules['medssl_monai'] = None\n"
        "import runpy; runpy.run_module('monai.bundle', run_name='__main__')"
    )
    command = [sys.executable, "-c", blocked, "run", "--config_file", str(unpacked / "configs" / "inference.yaml")]
    where = ["--bundle_root", str(unpacked), "--dataset_dir", str(phantom_labels.parent / "phantom-001")]
    out = ["--output_dir", str(tmp_path / "out"), "--device", "cpu"]
    done = subprocess.run([*command, *where, *out], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 6
