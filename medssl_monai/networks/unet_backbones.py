"""Registers backbones for MONAI's `FlexibleUNet`: ``torchvision-resnet18`` and ``torchvision-resnet34``.

MONAI's own ``resnet18`` and ``resnet34`` have shortcuts without weights (type A of He et al. 2016, arXiv 1512.03385,
section 4.1), so weights in torchvision's layout do not fit them. These are MONAI's networks with convolutions in the
shortcuts (type B), as torchvision has them. MONAI's ``resnet50`` has them already.

    >>> import medssl_monai.networks.unet_backbones
    >>> network = FlexibleUNet(in_channels=1, out_channels=8, backbone="torchvision-resnet18")  # doctest: +SKIP
"""

from typing import Any

from monai.networks.nets.flexible_unet import FLEXUNET_BACKBONE
from monai.networks.nets.resnet import ResNet, ResNetBlock, ResNetEncoder

from medssl_monai.checkpoints.manifests import LAYOUTS


class TorchvisionResNet(ResNetEncoder):
    """MONAI's ResNet encoder in torchvision's layout: images (B, C, H, W) to the maps of five stages.

    The maps have strides 2, 4, 8, 16 and 32 and 64, 64, 128, 256 and 512 channels. With three spatial dimensions it is
    the same network in 3D, which takes no weights. `pretrained` must be false: `load_into_unet` loads weights.
    """

    backbone_names = ["torchvision-resnet18", "torchvision-resnet34"]  # noqa: RUF012 - as MONAI's base class has it

    def __init__(self, model_name: str, pretrained: bool = False, spatial_dims: int = 2, in_channels: int = 3) -> None:
        if pretrained:
            raise ValueError(f"pretrained: must be false for {model_name}; load weights with load_into_unet")
        ResNet.__init__(
            self,
            block=ResNetBlock,
            layers=list(LAYOUTS[model_name.removeprefix("torchvision-")].blocks),
            block_inplanes=[64, 128, 256, 512],
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            feed_forward=False,
            bias_downsample=False,
        )

    @classmethod
    def get_encoder_names(cls) -> list[str]:
        """What `FlexibleUNet` takes as `backbone`."""
        return list(cls.backbone_names)

    @classmethod
    def get_encoder_parameters(cls) -> list[dict[str, Any]]:
        """The arguments of each backbone; `FlexibleUNet` sets the last three."""
        return [
            {"model_name": name, "pretrained": False, "spatial_dims": 2, "in_channels": 3}
            for name in cls.backbone_names
        ]

    @classmethod
    def num_channels_per_output(cls) -> list[tuple[int, ...]]:
        """Channels of the five maps."""
        return [(64, 64, 128, 256, 512)] * len(cls.backbone_names)

    @classmethod
    def num_outputs(cls) -> list[int]:
        """The number of maps."""
        return [5] * len(cls.backbone_names)


FLEXUNET_BACKBONE.register_class(TorchvisionResNet)
