"""What makes one synthetic patient, and the canvas that a slice is drawn on (`organs` draws it).

Coordinates. A slice is drawn on the grid x (column, towards the patient's left) and y (row, towards posterior), both
from -1 to 1 over the field of view. Organs are placed in body coordinates: the same axes, turned and shifted by the
patient's pose and divided by the half-widths of the body, so that the outline is about the unit circle.
`level` runs from 0 to 1 within a region, from inferior to superior.

Amounts of air, fat, soft tissue and bone are drawn alike in the three regions (lungs against gas, cushions and
sinuses; skull against pelvis, contrast and arms), so that an intensity histogram says little about the region and
the arrangement says much.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

AIR_HU = -1000.0
REGIONS = ("abdomen_pelvis", "thorax", "head")  # from inferior to superior
ORGANS = (
    "background",
    "lungs",
    "heart",
    "liver",
    "spleen",
    "kidneys",
    "bladder",
    "brain",
)  # values of an organ mask: 0 to 7

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Lesion:
    """A ball in body coordinates at a height of the body; `radius` as a share of the body's half-width."""

    region: str
    height: float
    centre: tuple[float, float]
    radius: float
    height_radius: float
    contrast_hu: float


@dataclass(frozen=True)
class Anatomy:
    """Everything about a patient that all slices share; drawn once, by `draw_anatomy`.

    `bounds`: heights (0 to 1) where the thorax and the head begin. `half_width`, `depth_ratio`: the body's outline
    by region, as a share of the half field of view. `hu`: tissue values of this patient. `amount`: sizes, 0 to 1.
    """

    bounds: tuple[float, float]
    half_width: dict[str, float]
    depth_ratio: dict[str, float]
    fat_layer: dict[str, float]
    cushion: dict[str, float]
    arms: dict[str, float]
    angle: float
    centre: tuple[float, float]
    wobble: NDArray[np.float64]
    hu: dict[str, float]
    amount: dict[str, float]
    lesions: tuple[Lesion, ...]

    def place(self, height: float) -> tuple[str, float]:
        """Region and level within it of a height of the body (0 to 1)."""
        edges = (0.0, *self.bounds, 1.0)
        number = int(np.searchsorted(self.bounds, height, side="right"))
        return REGIONS[number], (height - edges[number]) / (edges[number + 1] - edges[number])


def draw_anatomy(rng: np.random.Generator) -> Anatomy:
    """Draw one patient: every patient-wide random number is drawn here, in this order."""

    def by_region(low: float, high: float) -> dict[str, float]:
        return {region: float(rng.uniform(low, high)) for region in REGIONS}

    def values(**ranges: tuple[float, float]) -> dict[str, float]:
        return {name: float(rng.uniform(low, high)) for name, (low, high) in ranges.items()}

    bounds = (float(rng.uniform(0.38, 0.44)), float(rng.uniform(0.66, 0.72)))
    return Anatomy(
        bounds=bounds,
        half_width=by_region(0.55, 0.92),
        depth_ratio=by_region(0.66, 0.86),
        fat_layer=by_region(0.03, 0.16),
        cushion=by_region(-0.1, 0.5),
        arms=by_region(-0.1, 0.2),
        angle=float(rng.uniform(-0.18, 0.18)),
        centre=(float(rng.uniform(-0.07, 0.07)), float(rng.uniform(-0.1, 0.04))),
        wobble=rng.normal(0.0, 0.018, size=(3, 4)),
        hu=values(
            fat=(-130, -50),
            muscle=(20, 80),
            organ=(10, 130),
            brain=(10, 130),
            blood=(20, 420),
            fluid=(-15, 45),
            lung=(-900, -480),
            foam=(-930, -480),
            bone=(350, 1100),
            marrow=(80, 420),
            oral=(-50, 600),
            gas=(-1000, -550),
        ),
        amount=values(gas=(0, 1), lung=(0.55, 1), skull=(0.06, 0.16), heart=(0.24, 0.42), effusion=(-1, 1)),
        lesions=_draw_lesions(rng, bounds),
    )


def _draw_lesions(rng: np.random.Generator, bounds: tuple[float, float]) -> tuple[Lesion, ...]:
    lesions = []
    edges = (0.0, *bounds, 1.0)
    sites = {"abdomen_pelvis": (-0.42, -0.1), "thorax": (0.5, 0.0), "head": (0.3, 0.1)}
    for number, region in enumerate(REGIONS):
        if rng.random() < 0.6:
            low, high = edges[number], edges[number + 1]
            x, y = sites[region]
            lesions.append(
                Lesion(
                    region=region,
                    height=float(low + rng.uniform(0.5, 0.85) * (high - low)),
                    centre=(float(x + rng.uniform(-0.15, 0.15)), float(y + rng.uniform(-0.2, 0.2))),
                    radius=float(rng.uniform(0.08, 0.16)),
                    height_radius=float(rng.uniform(0.03, 0.06)),
                    contrast_hu=float(rng.choice([-1.0, 1.0]) * rng.uniform(60, 140)),
                )
            )
    return tuple(lesions)


class Canvas:
    """A slice under the brush, with the grids x, y of body coordinates for the region drawn.

    `hu` is (n, n) float32; `organs` (n, n) uint8 says by its index in `ORGANS` which organ was painted last.
    """

    def __init__(self, size: int, anatomy: Anatomy, region: str, taper: float) -> None:
        axis = ((np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1).astype(np.float32)
        self.pixel = 2.0 / size
        self.view_x, self.view_y = axis[None, :], axis[:, None]
        extent = anatomy.half_width[region] * taper
        ratio = anatomy.depth_ratio[region]
        # A head is deeper than wide, a trunk wider than deep; the area is drawn from the same range.
        self.half_width, self.half_depth = (extent * ratio, extent) if region == "head" else (extent, extent * ratio)
        cos, sin = np.float32(np.cos(anatomy.angle)), np.float32(np.sin(anatomy.angle))
        dx, dy = self.view_x - np.float32(anatomy.centre[0]), self.view_y - np.float32(anatomy.centre[1])
        self.x: Array = ((cos * dx + sin * dy) / np.float32(self.half_width)).astype(np.float32)
        self.y: Array = ((cos * dy - sin * dx) / np.float32(self.half_depth)).astype(np.float32)
        theta = np.arctan2(self.y, self.x)
        row = REGIONS.index(region)
        outline = np.ones_like(theta)
        for order, weight in enumerate(anatomy.wobble[row], start=2):
            outline += np.float32(weight) * np.cos(order * theta + row, dtype=np.float32)
        self.radius: Array = (np.hypot(self.x, self.y) / outline).astype(np.float32)
        self.hu: Array = np.full((size, size), AIR_HU, dtype=np.float32)
        self.organs = np.zeros((size, size), dtype=np.uint8)

    def ellipse(self, x: float, y: float, a: float, b: float, turn: float = 0.0) -> Array:
        """Coverage (n, n) in [0, 1] of an ellipse in body coordinates, its edge one pixel soft (partial volume)."""
        dx, dy = self.x - np.float32(x), self.y - np.float32(y)
        if turn:
            cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        distance = np.sqrt((dx / np.float32(a)) ** 2 + (dy / np.float32(b)) ** 2)
        return self._soft((1 - distance) * np.float32(min(a * self.half_width, b * self.half_depth)))

    def inside(self, radius: float) -> Array:
        """Coverage of the body's outline shrunk to `radius` (1 = skin)."""
        return self._soft((np.float32(radius) - self.radius) * np.float32(min(self.half_width, self.half_depth)))

    def paint(self, coverage: Array, hu: float | Array, organ: str = "background") -> None:
        """Replace what lies under `coverage` by `hu`; where it covers more than half of a pixel, it is `organ`."""
        self.organs[coverage > 0.5] = ORGANS.index(organ)
        self.hu += coverage * (np.asarray(hu, dtype=np.float32) - self.hu)

    def _soft(self, distance: Array) -> Array:
        return np.asarray(np.clip(distance / np.float32(self.pixel) + np.float32(0.5), 0, 1), dtype=np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int, int], sigma: tuple[float, float]) -> Array:
    """Unit-variance Gaussian noise (slices, n, n), smoothed by (between slices, in plane) pixels."""
    noise = rng.standard_normal(shape, dtype=np.float32)
    noise = ndimage.gaussian_filter(noise, (sigma[0], sigma[1], sigma[1]), mode="wrap")
    return np.asarray(noise / noise.std(), dtype=np.float32)
