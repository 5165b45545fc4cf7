"""ResNet encoders with torchvision's names and layout (He et al. 2016, arXiv 1512.03385).

Shapes: B images, C channels (1 or 3), H × W pixels, F features (512 for ResNet-18/34, 2048 for ResNet-50).
"""

import logging
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from medssl_monai.checkpoints.load import load_into_resnet
from medssl_monai.checkpoints.manifests import LAYOUTS
from medssl_monai.errors import ConfigError
from medssl_monai.networks.compiled import PartlyCompiled, output_of
from medssl_monai.networks.recompute import run_block

logger = logging.getLogger(__name__)


def torchvision_layout(arch: str) -> tuple[type[BasicBlock] | type[Bottleneck], list[int]]:
    """The first two arguments of torchvision's ``ResNet``; raises ConfigError for an unknown `arch`."""
    if arch not in LAYOUTS:
        raise ConfigError(f"arch: the network must be one of {', '.join(LAYOUTS)}, found {arch!r}; choose one of these")
    return Bottleneck if LAYOUTS[arch].bottleneck else BasicBlock, list(LAYOUTS[arch].blocks)


def folded_weight(weight: Tensor) -> Tensor:
    """Kernels (out, 3, k, k) summed to (out, 1, k, k), for one grey channel, in the same memory format."""
    folded = weight.sum(1, keepdim=True)
    if weight.is_contiguous(memory_format=torch.channels_last):
        folded = folded.to(memory_format=torch.channels_last)  # one channel has no memory format
    return folded


class ResNetEncoder(ResNet, PartlyCompiled):  # type: ignore[misc]  # torchvision publishes no type hints
    """torchvision's ResNet without its classifier: images (B, 1|3, H, W) to features (B, F).

    The features are the global average pool of the last stage. State-dict keys are torchvision's, without ``fc.*``,
    so the weights load into `torchvision.models.resnet50` with only ``fc.*`` missing. Convolutions are initialised by
    He's normal initialisation (fan out). With `zero_init_residual` the last batch norm of every residual block starts
    at zero, so each block starts as the identity (as in SparK). With `recompute` residual blocks keep only their inputs
    and run again in the backward pass: less memory, more time.
    """

    # TorchScript, which MONAI's `ckpt_export` uses, skips these.
    __jit_unused_properties__ = ("stages", "stage_channels")

    def __init__(self, arch: str = "resnet50", zero_init_residual: bool = False, recompute: bool = False) -> None:
        block, layers = torchvision_layout(arch)
        super().__init__(block, layers, num_classes=1, zero_init_residual=zero_init_residual)
        self.arch = arch
        self.recompute = recompute
        self.num_features = LAYOUTS[arch].features
        self.fc: nn.Module = nn.Identity()

    @property
    def stages(self) -> tuple[nn.Sequential, ...]:
        """The four residual stages; their outputs have strides 4, 8, 16 and 32."""
        return (self.layer1, self.layer2, self.layer3, self.layer4)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the four stages' outputs, e.g. (256, 512, 1024, 2048) for ResNet-50."""
        return tuple(self.num_features // 2**depth for depth in (3, 2, 1, 0))

    def forward(self, image: Tensor) -> Tensor:
        """Image (B, 1|3, H, W) to features (B, F).

        Raises ValueError for another number of channels.
        """
        x = self.maxpool(self.relu(self.bn1(self.first_convolution(image))))
        if not torch.jit.is_scripting():  # noqa: SIM102 - TorchScript leaves out a branch, not half of a condition
            if self.recompute or self._compilation is not None:
                return self._block_by_block(x)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        features: Tensor = self.avgpool(x).flatten(1)
        return features

    def first_convolution(self, image: Tensor) -> Tensor:
        """Image (B, 3, H, W), or a grey one (B, 1, H, W) as three equal channels, to a map (B, 64, H/2, W/2).

        In training on a CPU a grey image is convolved with the sum of the three kernels: the same function in half the
        time. Otherwise it is repeated: cuDNN has kernels for that, and features equal torchvision's bit for bit.
        """
        channels = image.shape[1]
        if channels != 1 and channels != 3:
            raise ValueError(
                f"image: must have 1 or 3 channels, found {channels}; give one window, or three windows as channels"
            )
        if channels == 1 and self.training and image.device.type == "cpu":
            conv = self.conv1
            return F.conv2d(image, folded_weight(conv.weight), None, conv.stride, conv.padding)
        x: Tensor = self.conv1(image.expand(-1, 3, -1, -1))
        return x

    @torch.jit.unused
    def _block_by_block(self, x: Tensor) -> Tensor:
        function = self.compiled(output_of)
        for stage in self.stages:
            for block in stage:
                x = run_block(self.recompute, block, function, block, x)
        features: Tensor = self.avgpool(x).flatten(1)
        return features


def resnet_encoder(
    arch: str = "resnet50",
    zero_init_residual: bool = False,
    encoder_weights: str | Path | None = None,
    recompute: bool = False,
) -> ResNetEncoder:
    """An encoder: ``resnet18``, ``resnet34`` or ``resnet50``, newly initialised or with the weights of a file or run.

    `recompute` trades time for memory, see `ResNetEncoder`. Raises ConfigError for another name, CheckpointError if the
    weights do not cover the encoder.
    """
    encoder = ResNetEncoder(arch, zero_init_residual=zero_init_residual, recompute=recompute)
    if encoder_weights:
        logger.info("%s", load_into_resnet(encoder, encoder_weights))
    return encoder
