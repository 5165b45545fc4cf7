"""Encoders that leave a run and come back: exact where they fit, refused with a reason where they do not."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.checkpoints.export import encoder_state, export_encoder
from medssl_monai.checkpoints.fingerprint import fingerprint
from medssl_monai.checkpoints.load import load_encoder, load_into_resnet
from medssl_monai.checkpoints.manifests import LAYOUTS, architecture_of, backbone_shapes
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.methods.spark import SparK
from medssl_monai.networks.classifier import classifier, load_classifier
from medssl_monai.networks.resnet import resnet_encoder
from tests import golden

METADATA = {"method": "spark", "window": '"lung"', "mean": "0.5", "std": "0.25", "channels": "1"}


@pytest.fixture(scope="module")
def method() -> SparK:
    torch.manual_seed(3)
    model = SparK("resnet18", decoder_width=32, image_channels=1)
    image = torch.randn(4, 1, 64, 64)
    with torch.no_grad():  # running statistics away from their start
        model({"views": [image], "mask": model.draw_mask(4, 64, 64)})
    return model


@pytest.fixture(scope="module")
def exported(method: SparK, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "encoder.safetensors"
    export_encoder(method, path, metadata=METADATA)
    return path


def torchvision_backbone(arch: str) -> nn.Module:
    network: nn.Module = getattr(torchvision.models, arch)(weights=None)
    network.fc = nn.Identity()
    return network


@pytest.mark.parametrize("arch", sorted(LAYOUTS))
def test_layout_tables_agree_with_torchvision(arch: str) -> None:
    with torch.device("meta"):
        theirs = {name: tuple(value.shape) for name, value in torchvision_backbone(arch).state_dict().items()}
        ours = {name: tuple(value.shape) for name, value in resnet_encoder(arch).state_dict().items()}
    assert dict(backbone_shapes(arch)) == theirs == ours
    assert list(ours) == list(theirs)
    assert architecture_of(theirs) == arch


def test_resnet50_has_the_published_export_s_tensors() -> None:
    stored = golden.load_json("ckpt_spark_finetune")["state_dict"]
    assert {name: tuple(shape) for name, (shape, _) in stored.items()} == dict(backbone_shapes("resnet50"))


def test_exported_features_equal_the_encoder_s_own(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = resnet_encoder("resnet50")
    with torch.no_grad():
        encoder(torch.randn(2, 1, 64, 64))
    export_encoder(encoder.to(memory_format=torch.channels_last), tmp_path / "encoder.safetensors", metadata={})
    network = torchvision_backbone("resnet50").eval()
    report = load_into_resnet(network, tmp_path / "encoder.safetensors")
    assert len(report.matched) == 318 and not report.missing and not report.unexpected
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        expected = encoder.to(memory_format=torch.contiguous_format).eval()(image)
        assert torch.equal(network(image.repeat(1, 3, 1, 1)), expected)


def test_report_tells_count_fingerprint_and_metadata(method: SparK, exported: Path) -> None:
    report = json.loads(exported.with_name("encoder.report.json").read_text())
    state, loaded = load_encoder(exported)
    assert report["count"] == len(state) == len(loaded.matched) == 120
    assert report["fingerprint"] == loaded.fingerprint == fingerprint(method.encoder.state_dict())
    told = {"arch": "resnet18", "fingerprint": loaded.fingerprint, "window_hu": "[[-1350.0, 150.0]]"}
    assert loaded.metadata == report["metadata"] == METADATA | told
    assert report["parameters"] == sum(p.numel() for p in method.encoder.parameters())
    assert json.loads(json.dumps(loaded.to_json()))["arch"] == "resnet18"
    assert not list(exported.parent.glob(".*")), "no temporary file is left"


def test_others_may_read_an_exported_encoder_as_any_new_file(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "new").touch()
    assert exported.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_fingerprint_sees_values_names_types_and_shapes_only() -> None:
    torch.manual_seed(0)
    value = torch.randn(2, 3, 4, 4)
    state = {"a": value, "b": torch.tensor(1)}
    same = {"b": torch.tensor(1), "a": value.contiguous(memory_format=torch.channels_last)}
    assert fingerprint(state) == fingerprint(same)
    changed = value.clone()
    changed.view(-1)[7] += 1e-6
    for other in (changed, value.double(), value.view(3, 2, 4, 4)):
        assert fingerprint({"a": other, "b": torch.tensor(1)}) != fingerprint(state)
    assert fingerprint({"c": value, "b": torch.tensor(1)}) != fingerprint(state)


def test_every_kind_of_file_gives_the_same_encoder(method: SparK, exported: Path, tmp_path: Path) -> None:
    want, _ = load_encoder(exported)
    with_head = {**want, "fc.weight": torch.zeros(7, 512), "fc.bias": torch.zeros(7)}
    torch.save(with_head, tmp_path / "flat.pth")
    torch.save({"method": method.state_dict(), "optimizer": {"state": {}}}, tmp_path / "last.pt")
    run = tmp_path / "run"
    (run / "models").mkdir(parents=True)
    torch.save(with_head, run / "models" / "model.pt")
    for path, unexpected in ((tmp_path / "flat.pth", 2), (tmp_path / "last.pt", None), (run, 2)):
        state, report = load_encoder(path)
        assert state.keys() == want.keys()
        assert all(torch.equal(state[name], want[name]) for name in want)
        assert unexpected is None or report.unexpected == {"classifier": ("fc.weight", "fc.bias")}
    assert report.format == "torchvision"
    training = load_encoder(tmp_path / "last.pt")[1]
    assert training.format == "medssl" and set(training.unexpected) == {"decoder"} and training.beside == ("optimizer",)
    shutil.copy(exported, run / "models" / "encoder.safetensors")
    assert load_encoder(run)[1].source == "encoder.safetensors"


def test_classifier_starts_from_the_encoder(exported: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        network = classifier("resnet18", num_classes=5, encoder_weights=str(exported))
    assert "resnet18 from encoder.safetensors" in caplog.text and "2 (fc.weight, fc.bias) missing" in caplog.text
    assert network.fc.out_features == 5 and type(network) is torchvision.models.ResNet
    state, _ = load_encoder(exported)
    assert all(torch.equal(network.state_dict()[name], state[name]) for name in state)
    assert classifier("resnet18", 2, "").fc.out_features == 2
    with pytest.raises(ConfigError, match="choose one of these"):
        classifier("resnet101")


def test_a_classifier_comes_back_whole_or_not_at_all(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained, other, wider = (classifier("resnet18", classes) for classes in (2, 2, 3))
    (tmp_path / "models").mkdir()
    path = saved(tmp_path / "models" / "model.pt", trained.state_dict())
    for source in (path, tmp_path):
        load_classifier(other, source)
        assert fingerprint(other.state_dict()) == fingerprint(trained.state_dict())
    with pytest.raises(CheckpointError, match=r"2 \(fc.weight \(2, 512\) for \(3, 512\), .* number of classes"):
        load_classifier(wider, path)
    with pytest.raises(CheckpointError, match="no such file"):
        load_classifier(other, tmp_path / "absent.pt")


def test_an_encoder_may_start_from_another(exported: Path) -> None:
    state, _ = load_encoder(exported)
    encoder = resnet_encoder("resnet18", encoder_weights=exported)
    assert fingerprint(encoder.state_dict()) == fingerprint(state)
    with pytest.raises(CheckpointError, match="the network is a resnet34"):
        resnet_encoder("resnet34", encoder_weights=exported)


def test_weights_of_another_resnet_are_named(exported: Path) -> None:
    network = torchvision_backbone("resnet50")
    before = encoder_state(network)
    with pytest.raises(CheckpointError, match="weights are of a resnet18, the network is a resnet50; set arch"):
        load_into_resnet(network, exported)
    assert fingerprint(encoder_state(network)) == fingerprint(before)
    with pytest.raises(CheckpointError, match="resnet34"):
        load_into_resnet(torchvision_backbone("resnet34"), exported)


def saved(path: Path, state: dict[str, Tensor]) -> Path:
    torch.save(state, path)
    return path


def test_incomplete_and_foreign_weights_are_refused(exported: Path, tmp_path: Path) -> None:
    state, _ = load_encoder(exported)
    holed = {name: value for name, value in state.items() if not name.startswith("layer4.1.bn2")}
    with pytest.raises(CheckpointError, match=r"120 tensors, found 115 that fit: 5 \(layer4.1.bn2.weight"):
        load_encoder(saved(tmp_path / "holed.pt", holed))
    with pytest.raises(CheckpointError, match="another layout"):
        load_encoder(saved(tmp_path / "short.pt", {k: v for k, v in state.items() if not k.startswith("layer4")}))
    with pytest.raises(CheckpointError, match=r"1 \(layer1.0.conv1.weight \(64, 64, 1, 1\) for \(64, 64, 3, 3\)\)"):
        load_encoder(saved(tmp_path / "shape.pt", {**state, "layer1.0.conv1.weight": torch.zeros(64, 64, 1, 1)}))
    with pytest.raises(CheckpointError, match="NaN or infinity in 1"):
        load_encoder(saved(tmp_path / "nan.pt", {**state, "bn1.bias": torch.full((64,), torch.nan)}))
    # A prefix is stripped whole and at the start, or not at all.
    with pytest.raises(CheckpointError, match="no encoder in any known format"):
        load_encoder(saved(tmp_path / "other.pt", {f"an_encoder.{name}": value for name, value in state.items()}))
    one_channel = torchvision_backbone("resnet18")
    one_channel.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    with pytest.raises(CheckpointError, match=r"1 \(conv1.weight"):
        load_into_resnet(one_channel, exported)


def test_broken_files_are_refused(exported: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(exported.read_bytes()[:-1000])
    flipped = tmp_path / "flipped.safetensors"
    content = bytearray(exported.read_bytes())
    content[-2000] ^= 1
    flipped.write_bytes(bytes(content))
    whole = saved(tmp_path / "whole.pt", load_encoder(exported)[0])
    half = tmp_path / "half.pt"
    half.write_bytes(whole.read_bytes()[:5000])
    text = tmp_path / "text.pth"
    text.write_text("not weights")
    for path in (cut, half, text):
        with pytest.raises(CheckpointError, match=f"{path.name}: must be a safetensors file"):
            load_encoder(path)
    with pytest.raises(CheckpointError, match="fingerprint in the file's header"):
        load_encoder(flipped)
    with pytest.raises(CheckpointError, match="no such file or run"):
        load_encoder(tmp_path / "absent.pt")
    with pytest.raises(CheckpointError, match="a run must hold"):
        load_encoder(tmp_path)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="found list"):
        load_encoder(tmp_path / "list.pt")


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("executed"),))


def test_code_in_a_pickle_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"conv1.weight": Evil()}, "evil.pt")
    with pytest.raises(CheckpointError, match="unsafe"):
        load_encoder("evil.pt")
    assert not Path("executed").exists()


def test_export_refuses_what_it_cannot_name(method: SparK, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="another layout"):
        export_encoder(nn.Linear(2, 2), tmp_path / "encoder.safetensors", metadata={})
    with pytest.raises(ValueError, match="change the suffix"):
        export_encoder(method, tmp_path / "encoder.pt", metadata={})
    with pytest.raises(ValueError, match=r"use str\(value\)"):
        export_encoder(method, tmp_path / "encoder.safetensors", metadata={"channels": 1})  # type: ignore[dict-item]
    assert not list(tmp_path.iterdir())
