"""Encoders in U-Nets: every tensor taken, the features equal at every stage, and refused where they would not be."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import FlexibleUNet, UNet
from torch import Tensor, nn

import medssl_monai.networks.unet_backbones  # noqa: F401 - registers backbones
from medssl_monai.checkpoints.export import encoder_state, export_encoder
from medssl_monai.checkpoints.unet import load_into_unet
from medssl_monai.errors import CheckpointError
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder

Build = Callable[..., nn.Module]


def monai_unet(arch: str, in_channels: int) -> nn.Module:
    backbone = arch if arch == "resnet50" else f"torchvision-{arch}"
    return FlexibleUNet(in_channels=in_channels, out_channels=3, backbone=backbone)


def smp_unet(arch: str, in_channels: int, **settings: Any) -> nn.Module:
    smp = pytest.importorskip("segmentation_models_pytorch", reason="needs the extra segmentation")
    network: nn.Module = smp.Unet(arch, encoder_weights=None, in_channels=in_channels, classes=3, **settings)
    return network


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[ResNetEncoder, Path]]:
    """An encoder of an architecture, away from its start, and its file."""
    made: dict[str, tuple[ResNetEncoder, Path]] = {}

    def make(arch: str) -> tuple[ResNetEncoder, Path]:
        if arch not in made:
            torch.manual_seed(0)
            encoder = resnet_encoder(arch)
            with torch.no_grad():
                encoder(torch.randn(4, 1, 64, 64))
                for parameter in encoder.parameters():
                    parameter += 0.05 * torch.randn_like(parameter) * parameter.std(correction=0)
            path = tmp_path_factory.mktemp(arch) / "encoder.safetensors"
            export_encoder(encoder, path, metadata={"window": '"wide"', "mean": "0.25", "std": "0.25"})
            made[arch] = encoder.eval(), path
        return made[arch]

    return make


def maps(encoder: ResNetEncoder, image: Tensor) -> list[Tensor]:
    """Our encoder's own maps of the five stages."""
    found = [encoder.relu(encoder.bn1(encoder.first_convolution(image)))]
    x = encoder.maxpool(found[0])
    for stage in encoder.stages:
        found.append(x := stage(x))
    assert torch.equal(found[-1].mean((2, 3)), encoder(image)) or torch.allclose(found[-1].mean((2, 3)), encoder(image))
    return found


@pytest.mark.parametrize("in_channels", [1, 3])
@pytest.mark.parametrize("arch", ["resnet18", "resnet34", "resnet50"])
@pytest.mark.parametrize("build", [monai_unet, smp_unet])
def test_every_tensor_is_taken_and_every_stage_s_features_are_equal(
    build: Build, arch: str, in_channels: int, weights: Callable[[str], tuple[ResNetEncoder, Path]]
) -> None:
    ours, path = weights(arch)
    network = build(arch, in_channels)
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    report = load_into_unet(network, path)
    assert torch.equal(torch.get_rng_state(), random), "the check draws no random numbers"
    encoder = network.get_submodule("encoder")
    loaded, expected = encoder.state_dict(), encoder_state(ours)
    assert loaded.keys() == expected.keys() == set(report.matched)
    folded = {"conv1.weight"} if in_channels == 1 else set()
    for name, value in expected.items():
        want = value.sum(1, keepdim=True, dtype=torch.float64).float() if name in folded else value
        assert torch.equal(loaded[name], want), name
    assert bool(report.reshaped) == bool(folded)
    beside = {name for name in before if not name.startswith("encoder.")}
    assert beside == set(report.missing) and all(name.startswith(("decoder.", "segmentation_head.")) for name in beside)
    assert all(torch.equal(before[name], network.state_dict()[name]) for name in beside)
    image = torch.randn(2, 1, 96, 64)
    with torch.inference_mode():
        found = list(encoder.eval()(image.expand(-1, in_channels, -1, -1)))[-5:]
        for number, (features, want) in enumerate(zip(found, maps(ours, image), strict=True)):
            assert features.shape == want.shape
            if in_channels == 3:
                assert torch.equal(features, want), number
            else:
                torch.testing.assert_close(features, want, rtol=1e-4, atol=float(want.abs().max()) * 1e-5)
        assert network.eval()(image.expand(-1, in_channels, -1, -1)).shape == (2, 3, 96, 64)


@pytest.mark.parametrize("depth", [3, 5])
def test_other_networks_of_segmentation_models_pytorch(
    depth: int, weights: Callable[[str], tuple[ResNetEncoder, Path]]
) -> None:
    channels = (64, 32, 16, 16, 16)[:depth]
    load_into_unet(smp_unet("resnet18", 1, encoder_depth=depth, decoder_channels=channels), weights("resnet18")[1])
    smp = pytest.importorskip("segmentation_models_pytorch")
    load_into_unet(smp.FPN("resnet18", encoder_weights=None), weights("resnet18")[1])
    dilated = smp.DeepLabV3("resnet18", encoder_weights=None)
    with pytest.raises(CheckpointError, match="found other features after layer3; build it without other strides"):
        load_into_unet(dilated, weights("resnet18")[1])


def another_epsilon() -> nn.Module:
    network = monai_unet("resnet18", 3)
    norm = network.get_submodule("encoder.layer2.0.bn1")
    assert isinstance(norm, nn.BatchNorm2d)
    norm.eps = 0.1
    return network


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: monai_unet("resnet34", 1), "weights are of a resnet18, the network's encoder is a resnet34"),
        (lambda: monai_unet("resnet18", 2), r"must be \(64, 3, 7, 7\) or, .* found \(64, 2, 7, 7\); build a 2D"),
        (lambda: UNet(2, 1, 3, (4, 8), (2,)), "UNet: the network must have a ResNet-18, 34 or 50 as its `encoder`"),
        (lambda: FlexibleUNet(1, 3, "efficientnet-b0"), "found EfficientNetEncoder; build MONAI's FlexibleUNet or"),
        (lambda: FlexibleUNet(1, 3, "resnet10"), "must have a ResNet-18, 34 or 50"),
        (lambda: FlexibleUNet(1, 3, "resnet18"), "convolutions in its shortcuts.*backbone='torchvision-resnet18'"),
        (lambda: FlexibleUNet(1, 3, "torchvision-resnet18", spatial_dims=3), r"found \(64, 1, 7, 7, 7\); build a 2D"),
        (another_epsilon, "found other features after layer2"),
    ],
)
def test_a_network_that_does_not_fit_is_refused_in_one_sentence_and_stays(
    build: Callable[[], nn.Module], message: str, weights: Callable[[str], tuple[ResNetEncoder, Path]]
) -> None:
    network = build()
    before = copy.deepcopy(network.state_dict())
    with pytest.raises(CheckpointError, match=message) as caught:
        load_into_unet(network, weights("resnet18")[1])
    assert "\n" not in str(caught.value) and ". " not in str(caught.value)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_three_different_windows_do_not_fold(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    export_encoder(resnet_encoder("resnet18"), path, metadata={"window": '["lung", "bone", "brain"]'})
    load_into_unet(monai_unet("resnet18", 3), path)
    with pytest.raises(CheckpointError, match=r"trained on three different channels.*in_channels=3"):
        load_into_unet(monai_unet("resnet18", 1), path)


def test_a_bundle_s_configuration_loads(weights: Callable[[str], tuple[ResNetEncoder, Path]]) -> None:
    unet = {"in_channels": 1, "out_channels": 3, "backbone": "torchvision-resnet18"}
    config = {
        "network": {"_target_": "FlexibleUNet", **unet},
        "load": {
            "_target_": "medssl_monai.load_into_unet",
            "network": "@network",
            "path": str(weights("resnet18")[1]),
        },
    }
    assert ConfigParser(config).get_parsed_content("load").arch == "resnet18"
