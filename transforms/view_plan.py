"""The drawn parameters of a batch of views as tensors, for the applier on the device (`batched.py`).

Shapes: B slices, R of them that a step concerns, H × W pixels of the padded slices, h × w pixels of a view.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from medssl_monai.transforms.intensity import Limits
from medssl_monai.transforms.photometric import uniform_field
from medssl_monai.transforms.recipe import ViewParameters
from medssl_monai.transforms.spatial import Interpolation, rotated_box, tap_sum

ViewPlan: TypeAlias = dict[str, Tensor]
"""What one view of each slice of a batch takes; a key is missing where no slice needs that step.

`window` (B, windows, 2) float32, value and width in HU that map to 0 and by 1; `upright_rows`, `turned_rows`,
`blur_rows`, `noise_rows` (R,) int64, which slices; `box` (R, 4) float64, top, left, height, width; `flip` (R, 2) bool,
vertical, horizontal; `matrix` (R, 2, 3) float64, from view to slice, (x, y) in continuous pixels; `reduction` and
`tap_sum` (R, 2) float64, of the filters along y and x before a turn; `brightness`, `contrast` (B,) float32 and
`contrast_first` (B,) bool; `grey` (B,) bool; `blur_sigma` (R,) float64; `noise_std` (R,) float32 and `noise_uniform`
(R, 2, ceil(h w / 2)) float32.
"""


def plan_views(
    parameters: Sequence[ViewParameters],
    shapes: Sequence[tuple[int, int]],
    limits: Sequence[Limits],
    size: tuple[int, int],
    interpolation: Interpolation,
) -> ViewPlan:
    """The plan of one view of each slice.

    Args:
        parameters: what was drawn, one a slice.
        shapes: (H, W) of each slice, before padding.
        limits: each slice's windows, (low, high) in HU.
        size: (h, w) of the view.
        interpolation: the recipe's.

    Raises:
        ValueError: an upright box that reaches beyond its slice, or a blur that reaches across the view twice; no
            recipe draws them at sizes worth training on.
    """
    windows = [[p.window_jitter.bottom_and_width(*w) for w in ws] for p, ws in zip(parameters, limits, strict=True)]
    plan: ViewPlan = {"window": torch.tensor(windows)}
    turned = [i for i, p in enumerate(parameters) if p.crop.rotation_degrees % 360 != 0]
    upright = [i for i in range(len(parameters)) if i not in set(turned)]
    if upright:
        plan |= _upright([parameters[i] for i in upright], [shapes[i] for i in upright])
        plan["upright_rows"] = torch.tensor(upright)
    if turned:
        plan |= _turned([parameters[i] for i in turned], [shapes[i] for i in turned], size, interpolation)
        plan["turned_rows"] = torch.tensor(turned)
    jitters = [p.photometric_jitter for p in parameters]
    if any(j.brightness != 1 or j.contrast != 1 for j in jitters):
        plan["brightness"] = torch.tensor([j.brightness for j in jitters])
        plan["contrast"] = torch.tensor([j.contrast for j in jitters])
        plan["contrast_first"] = torch.tensor([j.contrast_first for j in jitters])
    if any(p.grey for p in parameters) and plan["window"].shape[1] > 1:
        plan["grey"] = torch.tensor([p.grey for p in parameters])
    blurred = [i for i, p in enumerate(parameters) if p.blur_sigma > 0]
    if blurred:
        if math.ceil(4 * max(parameters[i].blur_sigma for i in blurred)) >= 2 * (min(size) - 1):
            raise ValueError(f"blur_sigma reaches across a view of {size} pixels twice; lower it or enlarge the view")
        plan["blur_rows"] = torch.tensor(blurred)
        plan["blur_sigma"] = torch.tensor([parameters[i].blur_sigma for i in blurred], dtype=torch.float64)
    noisy = [i for i, p in enumerate(parameters) if p.noise.variance > 0]
    if noisy:
        plan["noise_rows"] = torch.tensor(noisy)
        plan["noise_std"] = torch.tensor([math.sqrt(parameters[i].noise.variance) for i in noisy])
        # The counter-based generator is NumPy's: its raw numbers travel, so that both appliers add the same noise.
        fields = [uniform_field(size[0] * size[1], parameters[i].noise.seed) for i in noisy]
        plan["noise_uniform"] = torch.from_numpy(np.stack(fields))
    return plan


def _upright(parameters: Sequence[ViewParameters], shapes: Sequence[tuple[int, int]]) -> ViewPlan:
    crops = [p.crop for p in parameters]
    for crop, (height, width) in zip(crops, shapes, strict=True):
        if min(crop.top, crop.left) < 0 or crop.top + crop.height > height or crop.left + crop.width > width:
            raise ValueError(f"box {crop} reaches beyond its slice of {height} x {width} pixels; draw it inside")
    return {
        "box": torch.tensor([(c.top, c.left, c.height, c.width) for c in crops], dtype=torch.float64),
        "flip": torch.tensor([(c.flip_vertical, c.flip_horizontal) for c in crops]),
    }


def _turned(
    parameters: Sequence[ViewParameters],
    shapes: Sequence[tuple[int, int]],
    size: tuple[int, int],
    interpolation: Interpolation,
) -> ViewPlan:
    matrices = np.stack([rotated_box(s, p.crop, size)[:2] for p, s in zip(parameters, shapes, strict=True)])
    plan = {"matrix": torch.from_numpy(matrices)}
    reductions = np.maximum(np.hypot(matrices[:, ::-1, 0], matrices[:, ::-1, 1]), 1.0)  # along y, x of the slice
    if reductions.max() > 1:
        plan["reduction"] = torch.from_numpy(reductions)
        sums = [[tap_sum(reduction, interpolation) for reduction in pair] for pair in reductions.tolist()]
        plan["tap_sum"] = torch.tensor(sums, dtype=torch.float64)
    return plan
