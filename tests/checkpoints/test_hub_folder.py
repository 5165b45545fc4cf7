"""Folders for the Hugging Face Hub: timm and transformers open them without a module of this package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.load import load_encoder, preprocessing_of
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.networks.classifier import classifier
from medssl_monai.networks.resnet import resnet_encoder

HEADER = {"method": "spark", "window": '"lung"', "mean": "0.25", "std": "0.5", "image_size": "96"}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    torch.manual_seed(0)
    network = resnet_encoder("resnet18").eval()
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    export_encoder(network, path, metadata=HEADER)
    return path, network


def image(channels: int = 3) -> Tensor:
    return torch.randn(2, 1, 96, 64, generator=torch.Generator().manual_seed(9)).expand(-1, channels, -1, -1)


@torch.no_grad()
def assert_opens(folder: Path, expected: Tensor, channels: int = 3, **options: Any) -> Any:
    network: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, **options).eval()
    torch.testing.assert_close(network(image(channels)), expected, rtol=1e-5, atol=1e-5)
    return network


@pytest.mark.parametrize("channels", [3, 1])
def test_timm_opens_an_encoder(channels: int, encoder: tuple[Path, nn.Module], tmp_path: Path) -> None:
    path, network = encoder
    report = export_run(path, tmp_path / "hub", "timm-hub", single_channel=channels == 1)
    expected = network(image()).detach()
    opened = assert_opens(tmp_path / "hub", expected, channels)
    known = resolve_model_data_config(opened)  # type: ignore[no-untyped-call]
    assert known["input_size"] == (channels, 96, 96)
    assert (known["mean"], known["std"], known["crop_pct"]) == ([0.25] * channels, [0.5] * channels, 1.0)
    stages = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, features_only=True)
    assert [each.shape[1] for each in stages(image(channels))] == [64, 64, 128, 256, 512]
    # The folder is also an encoder for this package.
    assert load_encoder(tmp_path / "hub")[1].matched == report.matched
    assert preprocessing_of(tmp_path / "hub").window == "lung"
    assert {one.name for one in (tmp_path / "hub").iterdir()} == {
        "README.md",
        "config.json",
        "model.report.json",
        "model.safetensors",
    }
    config = json.loads((tmp_path / "hub" / "config.json").read_text())
    assert config["preprocessing"]["window_hu"] == [[-1350.0, 150.0]]


def test_timm_opens_a_classifier_and_gives_it_other_classes(tmp_path: Path) -> None:
    network = classifier("resnet18", num_classes=3).eval()
    (tmp_path / "run" / "models").mkdir(parents=True)
    torch.save(network.state_dict(), tmp_path / "run" / "models" / "model.pt")
    settings = {"classes": ["head", "thorax", "abdomen"], "window": "wide", "mean": 0.25, "std": 0.25}
    write_json(tmp_path / "run" / "run.json", {"bundle": "ct_classification", "settings": settings})
    export_run(tmp_path / "run", tmp_path / "hub", "timm-hub", head=True)
    opened = assert_opens(tmp_path / "hub", network(image()).detach())
    assert opened.pretrained_cfg["label_names"] == ["head", "thorax", "abdomen"]
    other = timm.create_model(f"local-dir:{tmp_path / 'hub'}", pretrained=True, num_classes=5)
    assert other(image()).shape == (2, 5)
    assert torch.equal(other.state_dict()["conv1.weight"], network.state_dict()["conv1.weight"])


def test_the_card_is_one_of_the_hub(encoder: tuple[Path, nn.Module], tmp_path: Path, monkeypatch: Any) -> None:
    export_run(encoder[0], tmp_path / "hub", "timm-hub", licence="CC BY 4.0: see the data")
    text = (tmp_path / "hub" / "README.md").read_text(encoding="utf-8")
    read = ModelCard(text).data.to_dict()  # type: ignore[no-untyped-call]
    expected = {"library_name": "timm", "license": "other", "license_name": "CC BY 4.0: see the data"}
    assert {name: read[name] for name in expected} == expected
    assert yaml.safe_load(text.split("---")[1])["pipeline_tag"] == "image-feature-extraction"
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(text.partition("```python\n")[2].partition("```")[0], names)
    torch.testing.assert_close(names["network"](image()), encoder[1](image()), rtol=1e-5, atol=1e-5)


def test_transformers_open_it(encoder: tuple[Path, nn.Module], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    export_run(encoder[0], tmp_path / "hub", "timm-hub")
    network = transformers.TimmWrapperModel.from_pretrained(tmp_path / "hub").eval()
    with torch.no_grad():
        found = network(image()).pooler_output
    torch.testing.assert_close(found, encoder[1](image()).detach(), rtol=1e-5, atol=1e-5)
