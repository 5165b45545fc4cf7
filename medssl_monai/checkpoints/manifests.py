"""The layout of each ResNet that this package knows, and its tensors in torchvision's names."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

Shape = tuple[int, ...]

# First components of the names of an encoder's tensors; everything else (fc, heads, queues) is not the encoder.
BACKBONE = frozenset({"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"})


@dataclass(frozen=True)
class Layout:
    """Blocks per stage of a ResNet, and whether they are bottlenecks (1×1, 3×3, 1×1) or basic (3×3, 3×3)."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def features(self) -> int:
        """Channels of the last stage: the dimensions F of a feature vector."""
        return 2048 if self.bottleneck else 512


LAYOUTS: dict[str, Layout] = {
    "resnet18": Layout((2, 2, 2, 2), bottleneck=False),
    "resnet34": Layout((3, 4, 6, 3), bottleneck=False),
    "resnet50": Layout((3, 4, 6, 3), bottleneck=True),
}


def architecture_of(names: Collection[str]) -> str | None:
    """The ResNet that has exactly the blocks in `names`, e.g. ``resnet50``; None if there is none.

    A block counts as present as soon as one of its tensors is.
    """
    blocks = {tuple(name.split(".")[:2]) for name in names if name.startswith("layer")}
    bottleneck = any(name.endswith(".conv3.weight") for name in names)
    for arch, layout in LAYOUTS.items():
        wanted = {(f"layer{stage}", str(i)) for stage, count in enumerate(layout.blocks, start=1) for i in range(count)}
        if blocks == wanted and bottleneck == layout.bottleneck:
            return arch
    return None


def backbone_shapes(arch: str) -> Mapping[str, Shape]:
    """Every tensor of a torchvision ResNet without ``fc``, name to shape (318 for ``resnet50``)."""
    layout = LAYOUTS[arch]
    shapes: dict[str, Shape] = {"conv1.weight": (64, 3, 7, 7), **_norm("bn1", 64)}
    channels = 64
    for stage, count in enumerate(layout.blocks):
        width = 64 * 2**stage
        out = width * (4 if layout.bottleneck else 1)
        for block in range(count):
            name = f"layer{stage + 1}.{block}"
            kernels = (1, 3, 1) if layout.bottleneck else (3, 3)
            widths = (channels, width, width, out) if layout.bottleneck else (channels, width, out)
            for i, kernel in enumerate(kernels):
                shapes[f"{name}.conv{i + 1}.weight"] = (widths[i + 1], widths[i], kernel, kernel)
                shapes |= _norm(f"{name}.bn{i + 1}", widths[i + 1])
            if block == 0 and (stage > 0 or layout.bottleneck):
                shapes[f"{name}.downsample.0.weight"] = (out, channels, 1, 1)
                shapes |= _norm(f"{name}.downsample.1", out)
            channels = out
    return shapes


def _norm(name: str, channels: int) -> dict[str, Shape]:
    per_channel = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in per_channel} | {f"{name}.num_batches_tracked": ()}
