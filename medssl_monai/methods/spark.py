"""SparK: masked image modelling with a convolutional encoder (Tian et al., ICLR 2023, arXiv 2301.03580).

Shapes: B images, C channels (1 or 3), H × W pixels (multiples of 32), grid H/32 × W/32 cells.
"""

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from medssl_monai.losses.masked_reconstruction import (
    masked_reconstruction_loss,
    patch_statistics,
    patchify,
    unpatchify,
)
from medssl_monai.methods.base import Method, Progress
from medssl_monai.networks.light_decoder import Densify, LightDecoder
from medssl_monai.networks.masked import GRID_STRIDE, STAGE_STRIDES, masked_features, visible_at
from medssl_monai.networks.packed import Cells, packed_features, visible_index
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from medssl_monai.transforms.draws import visible_cells


class SparK(Method):
    """Encodes the visible patches of an image and predicts the masked ones.

    Args:
        encoder: an encoder or its name. A name gives an encoder with residual blocks that start as the identity.
        mask_ratio: share of cells that `draw_mask` hides. A batch's own mask is used as it is.
        decoder_width: channels of the decoder's first stage, a multiple of 32.
        drop_path_rate: rate of stochastic depth in the last block.
        image_channels: channels of the views, which the decoder predicts.
        packed: compute the visible cells only (`packed_features`) instead of multiplying hidden ones by zero. A
            compiled graph then begins after the mask.

    Keep masks on the host: the number of visible cells is a shape, and reading it from a device would wait for it. A
    batch from `prepare` has their numbers beside the mask, and may be on the device.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> method = SparK("resnet18", decoder_width=32, image_channels=1)
        >>> image, mask = torch.randn(2, 1, 64, 64), method.draw_mask(2, 64, 64)
        >>> sorted(method({"views": [image], "mask": mask}))
        ['loss']
        >>> method.reconstruct(image, mask)["prediction"].shape
        torch.Size([2, 1, 64, 64])
    """

    capturable = True

    def __init__(
        self,
        encoder: ResNetEncoder | str = "resnet50",
        mask_ratio: float = 0.6,
        decoder_width: int = 768,
        drop_path_rate: float = 0.0,
        image_channels: int = 3,
        packed: bool = True,
    ) -> None:
        super().__init__()
        if not 0.0 < mask_ratio < 1.0:
            raise ValueError(f"mask_ratio: must be between 0 and 1, found {mask_ratio}; SparK uses 0.6")
        if not 0.0 <= drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate: must be from 0 to below 1, found {drop_path_rate}; SparK uses 0 to 0.05")
        if image_channels not in (1, 3):
            raise ValueError(f"image_channels: must be 1 or 3, found {image_channels}; give one window, or three")
        self.encoder = resnet_encoder(encoder, zero_init_residual=True) if isinstance(encoder, str) else encoder
        self.mask_ratio = mask_ratio
        self.drop_path_rate = drop_path_rate
        self.image_channels = image_channels
        self.packed = packed
        # The smallest map first, in the decoder's order. A 1×1 kernel suffices where a position is a whole cell.
        self.densify = nn.ModuleList(
            Densify(channels, decoder_width // 2**i, kernel_size=1 if i == 0 else 3)
            for i, channels in enumerate(reversed(self.encoder.stage_channels))
        )
        self.decoder = LightDecoder(decoder_width, image_channels)

    def prepare(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch with "visible", the numbers (N,) of the mask's visible cells (`visible_index`)."""
        if not self.packed or "mask" not in batch or "visible" in batch:
            return batch
        return {**batch, "visible": visible_index(batch["mask"])}

    def forward(self, batch: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Tensor]:
        """Loss of one batch: "views" a list with first element (B, C, H, W), "mask" (B, 1, H/32, W/32) bool.

        The batch may have been through `prepare`. Raises ValueError if the two do not fit each other or this model.
        """
        if "mask" not in batch:
            raise ValueError("batch: SparK needs a mask (B, 1, H/32, W/32), found none; use SparK's views")
        image, mask = batch["views"][0], batch["mask"]
        self._check(image, mask)
        if self.packed and "visible" in batch:
            visible: Cells | Tensor = Cells(batch["visible"], mask)
        else:
            visible = self._visible(mask, image.device)
        prediction = self._predict(image, visible)
        return {"loss": masked_reconstruction_loss(prediction, image, mask.to(image.device, non_blocking=True))}

    def predict(self, image: Tensor, mask: Tensor) -> Tensor:
        """Normalised patches of the whole image (B, C, H, W), predicted from its visible cells."""
        return self._predict(image, self._visible(mask, image.device))

    def _visible(self, mask: Tensor, device: torch.device) -> Cells | Tensor:
        # The number of visible cells is a value, so a compiled graph begins after it.
        return _cells(mask, device) if self.packed else mask.to(device, non_blocking=True)

    def _predict(self, image: Tensor, visible: Cells | Tensor) -> Tensor:
        if isinstance(visible, Cells):
            tiles = packed_features(self.encoder, image, visible, self.drop_path_rate)
            levels = zip(reversed(tiles), self.densify, strict=True)
            dense = [cast(Densify, densify).from_cells(x, visible) for x, densify in levels]
        else:
            dense = self.densified(masked_features(self.encoder, image, visible, self.drop_path_rate), visible)
        return self.decoder(dense)  # type: ignore[no-any-return]

    def densified(self, maps: list[Tensor], mask: Tensor) -> list[Tensor]:
        """The decoder's inputs, the smallest first, from the encoder's maps, the largest first."""
        levels = zip(reversed(maps), reversed(STAGE_STRIDES), self.densify, strict=True)
        return [densify(x, visible_at(mask, stride, x.dtype)) for x, stride, densify in levels]

    @torch.no_grad()
    def reconstruct(self, image: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Images of the model's input and prediction, all (B, C, H, W) in the units of `image`.

        "masked" is the image, zero at hidden cells. "prediction" is the decoder's output, scaled to the true mean and
        deviation of each patch. "reconstruction" is the image with its hidden cells from the prediction. The model
        stays in its current mode (train or eval).
        """
        self._check(image, mask)
        rows, columns = mask.shape[2:]
        mean, deviation = patch_statistics(patchify(image))
        patches = patchify(self.predict(image, mask).to(image.dtype))
        prediction = unpatchify(patches * deviation + mean, rows, columns)
        visible = visible_at(mask.to(image.device), 1, image.dtype).mask
        return {
            "masked": image * visible,
            "prediction": prediction,
            "reconstruction": torch.where(visible.bool(), image, prediction),
        }

    def draw_mask(self, batch: int, height: int, width: int, generator: torch.Generator | None = None) -> Tensor:
        """Masks (batch, 1, height/32, width/32) at this model's ratio for images of height × width pixels."""
        return draw_mask(batch, height // GRID_STRIDE, width // GRID_STRIDE, self.mask_ratio, generator)

    def _check(self, image: Tensor, mask: Tensor) -> None:
        batch, channels, height, width = image.shape
        if height % GRID_STRIDE or width % GRID_STRIDE or not height or not width:
            raise ValueError(
                f"image size: SparK needs multiples of {GRID_STRIDE}, found {height} × {width}; "
                f"set image_size to a multiple of {GRID_STRIDE}"
            )
        if channels != self.image_channels:
            raise ValueError(
                f"image: must have the model's {self.image_channels} channels, found {channels}; "
                f"set image_channels to the number of windows of the views"
            )
        grid = (batch, 1, height // GRID_STRIDE, width // GRID_STRIDE)
        if tuple(mask.shape) != grid or mask.dtype != torch.bool:
            raise ValueError(
                f"mask: must be bool of shape {grid} for this image, found {mask.dtype} of shape {tuple(mask.shape)}; "
                f"draw one cell for each {GRID_STRIDE} × {GRID_STRIDE} pixels"
            )


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _cells(mask: Tensor, device: torch.device) -> Cells:
    return Cells(visible_index(mask).to(device), mask)


def draw_mask(
    batch: int, rows: int, columns: int, mask_ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Masks (batch, 1, rows, columns) bool, True = visible, with `visible_cells` uniformly drawn visible cells each.

    They are drawn on the generator's device, or on the CPU without a generator. For loops without `SparKViews`, which
    draw their own masks.
    """
    device = generator.device if generator is not None else torch.device("cpu")
    keep = visible_cells(rows * columns, mask_ratio)
    chosen = torch.rand(batch, rows * columns, generator=generator, device=device).argsort(dim=1)[:, :keep]
    mask = torch.zeros(batch, rows * columns, dtype=torch.bool, device=device).scatter_(1, chosen, True)
    return mask.view(batch, 1, rows, columns)
