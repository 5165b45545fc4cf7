"""Views of a whole batch on any device, from the parameters that were drawn for them.

The second applier: it makes what `ViewRecipe.apply` and `SparKViews.apply` make slice by slice on a CPU, up to rounding
(tests/transforms/test_device_views.py states how far). Every filter is a product with a matrix (B, out, in): on a GPU a
dense product costs less than reading the weights' bands. Nothing here waits for the device, and nothing is drawn.

Shapes: B slices of H × W pixels, padded with air to one size, alone or each between its neighbours (n = 1 or 3); view
(B, channels, h, w) float32.
Products are in float32: leave TF32 off for them (torch's default), or views are rounded to 11 bits.
"""

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl_monai.transforms.intensity import Normalisation
from medssl_monai.transforms.photometric import LUMA
from medssl_monai.transforms.spatial import AIR_HU, Interpolation


@torch.no_grad()
def apply_plan(
    slices: Tensor, plan: Mapping[str, Tensor], size: tuple[int, int], interpolation: Interpolation, norm: Normalisation
) -> Tensor:
    """View (B, channels, h, w) of slices (B, H, W) or (B, 3, H, W) float32 in HU, under a plan on the same device."""
    slices = slices if slices.ndim == 4 else slices[:, None]
    with torch.autocast(slices.device.type, enabled=False):
        view = slices.new_empty(*slices.shape[:2], *size)  # (B, n, h, w)
        if "upright_rows" in plan:
            rows = plan["upright_rows"]
            view.index_copy_(0, rows, _upright(slices.index_select(0, rows), plan, size, interpolation))
        if "turned_rows" in plan:
            rows = plan["turned_rows"]
            view.index_copy_(0, rows, _turned(slices.index_select(0, rows), plan, size, interpolation))
        bottom, width = plan["window"][:, :, None, None].unbind(-1)  # (B, windows, 1, 1)
        unit = ((view - bottom) / width).clamp_(0, 1)  # (B, windows, h, w), or three slices under one window
        if "brightness" in plan:
            unit = _jittered(unit, plan)
        if "grey" in plan:
            luma = torch.einsum("w,bwij->bij", unit.new_tensor(LUMA), unit)
            unit = torch.where(plan["grey"][:, None, None, None], luma[:, None], unit)
        if "blur_rows" in plan:
            rows = plan["blur_rows"]
            unit.index_copy_(0, rows, _blurred(unit.index_select(0, rows), plan["blur_sigma"]))
        if "noise_rows" in plan:
            rows = plan["noise_rows"]
            field = _standard_normal(plan["noise_uniform"], size) * plan["noise_std"][:, None, None, None]
            unit.index_copy_(0, rows, (unit.index_select(0, rows) + field).clamp_(0, 1))
        mean, std = (unit.new_tensor(values)[:, None, None] for values in (norm.mean, norm.std))
        return (unit - mean) / std  # a single window is repeated


def _upright(slices: Tensor, plan: Mapping[str, Tensor], size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    top, left, height, width = plan["box"].unbind(1)
    flip_vertical, flip_horizontal = plan["flip"].unbind(1)
    down = _resampling(top, height, flip_vertical, size[0], slices.shape[2], interpolation)  # (B, h, H)
    across = _resampling(left, width, flip_horizontal, size[1], slices.shape[3], interpolation)  # (B, w, W)
    return down[:, None] @ slices @ across[:, None].mT


def _resampling(
    start: Tensor, length: Tensor, flipped: Tensor, size: int, count: int, interpolation: Interpolation
) -> Tensor:
    """Weights (B, size, count) float32 that resample the pixels of a box to view pixels; `start`, ... (B,)."""
    order = torch.arange(size, device=start.device)
    order = torch.where(flipped[:, None], size - 1 - order, order)  # (B, size)
    step = (length / size)[:, None, None]
    centres = start[:, None, None] + (order[:, :, None] + 0.5) * step  # (B, size, 1)
    pixels = torch.arange(count, device=start.device, dtype=torch.float64)
    first = start.floor()[:, None, None]
    inside = (pixels >= first) & (pixels < (start + length).ceil()[:, None, None])  # (B, 1, count)
    weights = _kernel((pixels + 0.5 - centres) / step.clamp(min=1), interpolation) * inside
    return weights / weights.sum(2, keepdim=True)


def _kernel(distance: Tensor, interpolation: Interpolation) -> Tensor:
    """Triangle, or Keys' cubic with a = -0.5, at distances in pixels; float32."""
    x = distance.float().abs_()  # float64 until here: a coordinate of 512 has 15 bits to spare, not more
    if interpolation == "bilinear":
        return (1 - x).clamp_(min=0)
    near, far = (1.5 * x - 2.5) * x * x + 1, ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _turned(slices: Tensor, plan: Mapping[str, Tensor], size: tuple[int, int], interpolation: Interpolation) -> Tensor:
    pixels = slices - AIR_HU  # air is 0: filters and borders read zeros outside
    if "reduction" in plan:
        axes = zip(pixels.shape[2:], plan["reduction"].unbind(1), plan["tap_sum"].unbind(1), strict=True)
        down, across = (_filter(*axis, interpolation)[:, None] for axis in axes)
        pixels = down @ pixels @ across  # the filters are symmetric
    x, y = (torch.arange(side, device=pixels.device, dtype=torch.float64) + 0.5 for side in (size[1], size[0]))
    matrix = plan["matrix"][:, :, :, None, None]  # (B, 2, 3, 1, 1)
    grid = matrix[:, :, 0] * x + matrix[:, :, 1] * y[:, None] + matrix[:, :, 2]  # (B, 2, h, w) in slice pixels
    extent = torch.tensor([slices.shape[3], slices.shape[2]], device=pixels.device)[:, None, None]
    grid = (2 * grid / extent - 1).float().permute(0, 2, 3, 1)
    view = F.grid_sample(pixels, grid, mode=interpolation, padding_mode="zeros", align_corners=False)
    return view + AIR_HU


def _filter(count: int, reduction: Tensor, tap_sum: Tensor, interpolation: Interpolation) -> Tensor:
    """Matrices (B, count, count) float32 of the interpolation's kernel stretched by `reduction` (B,)."""
    pixels = torch.arange(count, device=reduction.device, dtype=torch.float64)
    distance = (pixels - pixels[:, None]) / reduction[:, None, None]
    return _kernel(distance, interpolation) / tap_sum[:, None, None].float()


def _jittered(unit: Tensor, plan: Mapping[str, Tensor]) -> Tensor:
    brightness, contrast, first = (
        plan[name][:, None, None, None] for name in ("brightness", "contrast", "contrast_first")
    )

    def brighter(x: Tensor) -> Tensor:
        return (x * brightness).clamp_(0, 1)

    def contrasted(x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True, dtype=torch.float64).float()
        return (x * contrast + (1 - contrast) * mean).clamp_(0, 1)

    once = torch.where(first, contrasted(unit), brighter(unit))
    return torch.where(first, brighter(once), contrasted(once))


def _blurred(unit: Tensor, sigma: Tensor) -> Tensor:
    down, across = (_blur(side, sigma)[:, None] for side in unit.shape[2:])  # (B, 1, side, side)
    return down @ unit @ across.mT


def _blur(count: int, sigma: Tensor) -> Tensor:
    """Matrices (B, count, count) float32 of a Gaussian, `sigma` (B,), cut off beyond 4 sigma, reflected at borders."""
    if count == 1:
        return sigma.new_ones(len(sigma), 1, 1).float()
    pixels = torch.arange(count, device=sigma.device, dtype=torch.float64)
    sigma = sigma[:, None, None]
    reach = (4 * sigma).ceil()

    def taps(distance: Tensor) -> Tensor:
        return torch.exp(-0.5 * (distance / sigma).square()) * (distance.abs() <= reach)

    # Reflection about the border pixels has the period 2 (count - 1): each pixel stands for itself and its images.
    period = 2 * (count - 1)
    away = pixels - pixels[:, None]
    mirrored = pixels + pixels[:, None]
    own_image = (pixels > 0) & (pixels < count - 1)
    weights = taps(away) + taps(mirrored) * own_image + taps(mirrored - period) * own_image
    weights = weights + taps(away + period) + taps(away - period)
    return (weights / weights.sum(2, keepdim=True)).float()


def _standard_normal(uniform: Tensor, size: tuple[int, int]) -> Tensor:
    """Box and Muller, as `photometric.standard_normal`: (R, 2, pairs) in [0, 1) to (R, 1, h, w)."""
    first, second = uniform.unbind(1)
    radius, angle = (-2 * torch.log1p(-first)).sqrt(), (2 * math.pi) * second
    both = torch.cat([radius * angle.cos(), radius * angle.sin()], dim=1)
    return both[:, : size[0] * size[1]].reshape(-1, 1, *size)
