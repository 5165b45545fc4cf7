"""Puts encoder weights into the U-Nets of MONAI and of segmentation_models_pytorch, and proves that they work there."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn

from medssl_monai.checkpoints.first_convolution import fold_channels
from medssl_monai.checkpoints.formats import Arm
from medssl_monai.checkpoints.load import check_against, load_encoder
from medssl_monai.checkpoints.manifests import architecture_of, backbone_shapes
from medssl_monai.checkpoints.preprocessing import Preprocessing
from medssl_monai.checkpoints.report import LoadReport
from medssl_monai.errors import CheckpointError

# Largest difference of a stage's features, relative to their largest value; another order of sums makes about 1e-6.
TOLERANCE = 1e-4


def load_into_unet(network: nn.Module, path: str | Path, form: str | None = None, arm: Arm | None = None) -> LoadReport:
    """Load the encoder's weights into the encoder of a segmentation network, in place; decoder and head do not change.

    The network has its encoder in ``network.encoder``: MONAI's `FlexibleUNet` with the backbone ``resnet50``,
    ``torchvision-resnet18`` or ``torchvision-resnet34`` (`medssl_monai.networks.unet_backbones`), or a network of
    segmentation_models_pytorch such as `Unet` with the encoder ``resnet18``, ``resnet34`` or ``resnet50``. It takes
    images (B, 3, H, W), or (B, 1, H, W): then the three kernels of the first convolution are summed, which gives the
    features of three equal channels.

    Every tensor of the encoder is loaded. Before, a copy with these weights is run on a random image: each stage must
    give the features of torchvision's ResNet with the weights.

    Args:
        network: see above.
        path: as in `load_encoder`; the same for `form` and `arm`.
        form: see `path`.
        arm: see `path`.

    Returns:
        The report. `missing` are the tensors of decoder and head.

    Raises:
        CheckpointError: the weights cannot be read, are of another architecture, or the encoder has another layout,
            other input channels, or computes something else. The network then does not change.

    Example:
        >>> network = FlexibleUNet(in_channels=1, out_channels=8, backbone="resnet50")  # doctest: +SKIP
        >>> load_into_unet(network, "runs/spark").arch  # doctest: +SKIP
        'resnet50'
    """
    state, report = load_encoder(path, form, arm)
    encoder = _resnet_of(network, report)
    fitted = _for_input(state, encoder, report)
    shapes = {name: tuple(value.shape) for name, value in encoder.state_dict().items()}
    check_against(shapes, fitted, f"{report.source}: the encoder of this network")
    trial = copy.deepcopy(encoder).to("cpu", torch.float32).eval()
    trial.load_state_dict(dict(fitted))
    _check_features(trial, state, report)
    encoder.load_state_dict(dict(fitted))
    beside = tuple(name for name in network.state_dict() if not name.startswith("encoder."))
    folded = ("conv1.weight (64, 3, 7, 7) to (64, 1, 7, 7)",) if fitted is not state else ()
    return replace(report, missing=beside, reshaped=(*report.reshaped, *folded))


def _resnet_of(network: nn.Module, report: LoadReport) -> nn.Module:
    """The network's encoder, where its blocks are those of the weights' ResNet."""
    encoder = getattr(network, "encoder", None)
    names = encoder.state_dict() if isinstance(encoder, nn.Module) else {}
    arch = architecture_of(names)
    if not isinstance(encoder, nn.Module) or arch is None:
        raise CheckpointError(
            f"{type(network).__name__}: the network must have a ResNet-18, 34 or 50 as its `encoder`, found "
            f"{type(encoder).__name__ if encoder is not None else 'none'}; build MONAI's FlexibleUNet or "
            f"segmentation_models_pytorch's Unet with the encoder {report.arch}"
        )
    if arch != report.arch:
        raise CheckpointError(
            f"{report.source}: weights are of a {report.arch}, the network's encoder is a {arch}; build the network "
            f"with a {report.arch} or give other weights"
        )
    if any(".downsample." in name for name in backbone_shapes(arch).keys() - names.keys()):
        raise CheckpointError(
            f"{type(network).__name__}: the encoder must have convolutions in its shortcuts, found an {arch} without; "
            f"import medssl_monai.networks.unet_backbones and build FlexibleUNet with backbone='torchvision-{arch}'"
        )
    return encoder


def _for_input(state: Mapping[str, Tensor], encoder: nn.Module, report: LoadReport) -> Mapping[str, Tensor]:
    """The tensors for the encoder's number of input channels: as they are for three, folded for one."""
    shape = tuple(encoder.state_dict()["conv1.weight"].shape)
    if shape == (64, 3, 7, 7):
        return state
    if shape != (64, 1, 7, 7):
        raise CheckpointError(
            f"{report.source}: the encoder's first convolution must be (64, 3, 7, 7) or, for one channel, "
            f"(64, 1, 7, 7), found {shape}; build a 2D network with in_channels=3 or 1"
        )
    if not Preprocessing.from_metadata(report.metadata, report.source).same_in_all_channels:
        raise CheckpointError(
            f"{report.source}: the weights were trained on three different channels, and the network takes one; build "
            f"it with in_channels=3 and give it the same slices, windows, means and deviations"
        )
    return {**state, "conv1.weight": fold_channels(state["conv1.weight"])}


@torch.inference_mode()
def _check_features(encoder: nn.Module, state: Mapping[str, Tensor], report: LoadReport) -> None:
    """Compare the encoder's feature maps on a random image with those of torchvision's ResNet, stage by stage."""
    channels = encoder.state_dict()["conv1.weight"].shape[1]
    image = torch.randn(2, channels, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.device("meta"):  # draws no random numbers
        resnet = getattr(torchvision.models, report.arch)().eval()
    resnet.load_state_dict(dict(state), strict=False, assign=True)
    x = resnet.relu(resnet.bn1(resnet.conv1(image.expand(-1, 3, -1, -1))))
    wanted = {"the first convolution": x}
    x = resnet.maxpool(x)
    for stage in ("layer1", "layer2", "layer3", "layer4"):
        wanted[stage] = x = getattr(resnet, stage)(x)
    found = list(encoder(image))
    found = found[1:] if found[0].shape == image.shape else found  # segmentation_models_pytorch gives the image too
    if not 1 <= len(found) <= len(wanted):
        raise CheckpointError(
            f"{report.source}: the encoder must give the maps of up to {len(wanted)} stages, found {len(found)}; build "
            f"the network with the plain encoder {report.arch}"
        )
    for (stage, reference), features in zip(wanted.items(), found, strict=False):
        if features.shape != reference.shape or (features - reference).abs().max() > TOLERANCE * reference.abs().max():
            raise CheckpointError(
                f"{report.source}: the encoder must compute what torchvision's {report.arch} does, found other "
                f"features after {stage}; build it without other strides, dilations or normalisation"
            )
