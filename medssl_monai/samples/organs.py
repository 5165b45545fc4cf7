"""Crude organs of a synthetic patient, drawn slice by slice in the coordinates of `anatomy`."""

import numpy as np
from numpy.typing import NDArray

from medssl_monai.samples.anatomy import AIR_HU, Anatomy, Array, Canvas


def draw_slice(
    anatomy: Anatomy, height: float, fine: Array, coarse: Array, rng: np.random.Generator
) -> tuple[Array, NDArray[np.bool_], NDArray[np.uint8]]:
    """One slice without scanner effects.

    Args:
        anatomy: the patient.
        height: of the slice, 0 (pelvic floor) to 1 (vertex).
        fine: (n, n) smooth unit noise of small grain: vessels, trabeculae, stool.
        coarse: (n, n) smooth unit noise of large grain: bowel loops, organ texture.
        rng: for what changes from slice to slice.

    Returns:
        HU (n, n) float32, the lesion mask (n, n) bool, and the organ mask (n, n) uint8, values as in `ORGANS`. Vessels
        and airways in a lung and lesions belong to their organ; ventricles, sulci and pleural fluid to none.
    """
    region, level = anatomy.place(height)
    taper = float(np.sqrt(1 - 0.75 * max(0.0, (level - 0.6) / 0.4) ** 2)) if region == "head" else 1.0
    canvas = Canvas(fine.shape[0], anatomy, region, taper)
    _draw_surroundings(canvas, anatomy, region, rng)
    canvas.paint(canvas.inside(1.0), anatomy.hu["muscle"])
    canvas.paint(canvas.inside(0.985), anatomy.hu["fat"])
    body = canvas.inside(1 - anatomy.fat_layer[region])
    canvas.paint(body, anatomy.hu["muscle"] + 6 * coarse)
    draw = {"abdomen_pelvis": _draw_abdomen, "thorax": _draw_thorax, "head": _draw_head}[region]
    draw(canvas, anatomy, level, fine, coarse, rng)
    organs = canvas.organs.copy()
    lesion = np.zeros(fine.shape, dtype=bool)
    for item in anatomy.lesions:
        rise = (height - item.height) / item.height_radius
        if item.region == region and abs(rise) < 1:
            radius = item.radius * float(np.sqrt(1 - rise**2))
            ball = canvas.ellipse(*item.centre, radius, radius)
            base = anatomy.hu["muscle"] if region == "thorax" else anatomy.hu["organ"] + item.contrast_hu
            canvas.paint(ball, base + 10 * fine)
            lesion |= ball > 0.5
    return canvas.hu, lesion, organs


def _draw_surroundings(canvas: Canvas, anatomy: Anatomy, region: str, rng: np.random.Generator) -> None:
    """Table, vacuum cushion and arms: outside the body, in the field of view of every region."""
    cushion = anatomy.cushion[region] + rng.uniform(-0.06, 0.06)
    if cushion > 0:
        shell = canvas.ellipse(0, 0.25, 1.08 + 0.5 * cushion, 1 + 0.6 * cushion) * (canvas.y > -0.35)
        canvas.paint(shell.astype(np.float32), anatomy.hu["foam"])
    table = np.abs(canvas.view_y - (0.9 - 0.12 * canvas.view_x**2)) / np.float32(0.02)
    canvas.paint(np.clip(1.3 - table, 0, 1).astype(np.float32), -120.0)
    arms = anatomy.arms[region]
    if arms > 0:
        for side in (-1, 1):
            y = 0.1 + rng.uniform(-0.05, 0.05)
            radius = 0.1 + arms
            place = side * (1.06 + radius)
            canvas.paint(canvas.ellipse(place, y, radius, radius), anatomy.hu["fat"])
            canvas.paint(canvas.ellipse(place, y, radius * 0.85, radius * 0.85), anatomy.hu["muscle"])
            canvas.paint(canvas.ellipse(place, y, radius * 0.35, radius * 0.35), anatomy.hu["bone"])
            canvas.paint(canvas.ellipse(place, y, radius * 0.2, radius * 0.2), anatomy.hu["marrow"])


def _draw_spine(canvas: Canvas, anatomy: Anatomy, y: float, size: float, fine: Array) -> None:
    """Vertebral body, canal behind it, and the spinous and transverse processes."""
    bone, marrow = anatomy.hu["bone"], anatomy.hu["marrow"]
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * size * 1.2, y + size, size * 0.8, size * 0.25, side * 0.4), bone)
    canvas.paint(canvas.ellipse(0, y + 1.9 * size, size * 0.25, size * 0.9), bone)
    canvas.paint(canvas.ellipse(0, y + 1.05 * size, size * 0.75, size * 0.6), bone)
    canvas.paint(canvas.ellipse(0, y, size, size * 0.8), bone)
    canvas.paint(canvas.ellipse(0, y, size * 0.82, size * 0.62), marrow + 40 * fine)
    canvas.paint(canvas.ellipse(0, y + 1.05 * size, size * 0.45, size * 0.4), anatomy.hu["fluid"])


def _draw_ribs(canvas: Canvas, anatomy: Anatomy, level: float, count: int) -> None:
    """Cut ribs on a ring: they slide along it from slice to slice, since ribs slope."""
    ring = 1 - anatomy.fat_layer["thorax"] - 0.06
    phase = level * 9.0
    for number in range(count):
        for side in (-1, 1):
            theta = -1.25 + 2.5 * ((number + phase) % count) / count
            x, y = side * ring * np.cos(theta), ring * np.sin(theta)
            turn = side * (theta + np.pi / 2)
            canvas.paint(canvas.ellipse(x, y, 0.1, 0.045, turn), anatomy.hu["bone"])
            canvas.paint(canvas.ellipse(x, y, 0.06, 0.02, turn), anatomy.hu["marrow"])


def _draw_thorax(
    canvas: Canvas, anatomy: Anatomy, level: float, fine: Array, coarse: Array, rng: np.random.Generator
) -> None:
    """Lungs with vessels and airways, heart or great vessels, trachea, ribs, sternum, scapulae and spine."""
    del rng
    hu, amount = anatomy.hu, anatomy.amount
    grown = float(np.sqrt(max(0.15, 1 - (2 * level - 0.7) ** 2 / 1.9))) * (0.75 + 0.25 * amount["lung"])
    canvas.paint(canvas.ellipse(0, 0.05, 0.78, 0.72), hu["fat"])
    lungs = np.zeros_like(canvas.hu)
    for side in (-1, 1):
        lung = canvas.ellipse(side * 0.43, 0.03, 0.36 * grown, 0.68 * grown, side * 0.12)
        gradient = 90 * canvas.y  # blood settles in the dependent, posterior lung
        canvas.paint(lung, hu["lung"] + gradient + 25 * coarse, "lungs")
        if side * amount["effusion"] > 0.4:
            fluid = lung * np.clip((canvas.y - 0.75 + abs(amount["effusion"])) * 12, 0, 1)
            canvas.paint(fluid.astype(np.float32), hu["fluid"])
            lung = lung - fluid
        lungs = np.maximum(lungs, lung)
    hilum = np.exp(-((np.abs(canvas.x) - 0.22) ** 2 + canvas.y**2) / np.float32(0.12))
    vessels = np.clip((fine - (2.0 - 0.9 * hilum)) * 3, 0, 1) * lungs
    canvas.paint(vessels.astype(np.float32), hu["muscle"], "lungs")
    if level < 0.55:
        heart = amount["heart"] * (1 - 0.5 * level)
        canvas.paint(canvas.ellipse(0.13, -0.22, heart * 1.15, heart, 0.5), hu["muscle"], "heart")
        canvas.paint(canvas.ellipse(0.2, -0.22, heart * 0.55, heart * 0.5, 0.5), hu["blood"], "heart")
        canvas.paint(canvas.ellipse(-0.06, -0.26, heart * 0.4, heart * 0.5), hu["blood"], "heart")
    else:
        canvas.paint(canvas.ellipse(0, -0.15, 0.2, 0.34), hu["fat"] + 60)
        canvas.paint(canvas.ellipse(-0.06, -0.3, 0.1, 0.12), hu["blood"])
        canvas.paint(canvas.ellipse(-0.16, -0.2, 0.06, 0.08), hu["blood"])
    canvas.paint(canvas.ellipse(0.14, 0.32, 0.09, 0.11), hu["blood"])
    if level > 0.5:
        canvas.paint(canvas.ellipse(0.0, 0.05, 0.06, 0.08), AIR_HU)
    else:
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(side * 0.17, 0.08, 0.04, 0.06), AIR_HU)
    canvas.paint(canvas.ellipse(0.03, 0.25, 0.04, 0.05), hu["muscle"])
    _draw_ribs(canvas, anatomy, level, 6)
    canvas.paint(canvas.ellipse(0, -0.84, 0.14, 0.05), hu["bone"])
    if level > 0.45:
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(side * 0.72, 0.58, 0.26, 0.04, side * -0.7), hu["bone"])
    _draw_spine(canvas, anatomy, 0.52, 0.15, fine)


def _draw_abdomen(
    canvas: Canvas, anatomy: Anatomy, level: float, fine: Array, coarse: Array, rng: np.random.Generator
) -> None:
    """Liver, spleen, stomach, kidneys and bowel; below, the pelvic bones, bladder and femoral heads."""
    hu, amount = anatomy.hu, anatomy.amount
    canvas.paint(canvas.ellipse(0, -0.08, 0.8, 0.68), hu["fat"])
    if level < 0.75:
        _draw_bowel(canvas, anatomy, level, fine, coarse, rng)
    if level > 0.5:
        size = min(1.0, (level - 0.5) * 4)
        canvas.paint(canvas.ellipse(-0.4, -0.1, 0.42 * size, 0.58 * size, 0.25), hu["organ"] + 8 * coarse, "liver")
        canvas.paint(canvas.ellipse(-0.08, -0.35, 0.34 * size, 0.22 * size, -0.2), hu["organ"] + 8 * coarse, "liver")
    if level > 0.62:
        canvas.paint(canvas.ellipse(0.62, 0.2, 0.15, 0.33, -0.35), hu["organ"] + 20, "spleen")
        stomach = canvas.ellipse(0.36, -0.3, 0.28, 0.3, 0.3)
        canvas.paint(stomach, hu["oral"])
        surface = -0.5 + 0.5 * amount["gas"]
        canvas.paint((stomach * (canvas.y < surface)).astype(np.float32), hu["gas"])
    if level > 0.9:  # the bases of the lungs beside the domes of the diaphragm
        for side in (-1, 1):
            crescent = canvas.ellipse(side * 0.4, 0.35, 0.4, 0.38) - canvas.ellipse(side * 0.36, 0.2, 0.38, 0.36)
            canvas.paint(np.clip(crescent, 0, 1), hu["lung"], "lungs")
    if 0.38 < level < 0.72:
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(side * 0.44, 0.3, 0.15, 0.19, side * 0.4), hu["organ"] + 30, "kidneys")
            canvas.paint(canvas.ellipse(side * 0.36, 0.3, 0.06, 0.08), hu["fluid"], "kidneys")
    canvas.paint(canvas.ellipse(0.07, 0.2, 0.08, 0.1), hu["blood"])
    canvas.paint(canvas.ellipse(-0.11, 0.2, 0.09, 0.08), 0.5 * (hu["blood"] + hu["muscle"]))
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.27, 0.42, 0.12, 0.14), hu["muscle"])
    if level < 0.36:
        _draw_pelvis(canvas, anatomy, level, fine)
    if level > 0.12:
        _draw_spine(canvas, anatomy, 0.45, 0.16, fine)


def _draw_bowel(
    canvas: Canvas, anatomy: Anatomy, level: float, fine: Array, coarse: Array, rng: np.random.Generator
) -> None:
    """Loops by the sign of coarse noise; colon at both flanks; gas rises to the front."""
    hu, gas = anatomy.hu, anatomy.amount["gas"]
    room = canvas.ellipse(0, -0.15, 0.68, 0.52)
    canvas.paint((room * np.clip(coarse * 4 + 1.5, 0, 1)).astype(np.float32), hu["muscle"])
    canvas.paint((room * np.clip(coarse * 4 - 1.5, 0, 1)).astype(np.float32), hu["oral"])
    rising = coarse - canvas.y - 2.2 + 1.6 * gas
    canvas.paint((room * np.clip(rising * 4, 0, 1)).astype(np.float32), hu["gas"])
    for side in (-1, 1):
        radius = 0.13 + 0.12 * gas + rng.uniform(-0.02, 0.02)
        colon = canvas.ellipse(side * 0.58, -0.02, radius, radius * 1.2)
        canvas.paint(colon, hu["muscle"])
        canvas.paint(canvas.ellipse(side * 0.58, -0.02, radius * 0.85, radius), hu["gas"] + 130 * np.clip(fine, 0, 3))
    if 0.3 < level < 0.6 and gas > 0.4:  # a gas-filled transverse colon in front
        canvas.paint(canvas.ellipse(0, -0.5, 0.6, 0.08 + 0.1 * gas), hu["gas"])


def _draw_pelvis(canvas: Canvas, anatomy: Anatomy, level: float, fine: Array) -> None:
    hu = anatomy.hu
    for side in (-1, 1):
        if level > 0.13:
            canvas.paint(canvas.ellipse(side * 0.6, 0.22, 0.11, 0.42, side * 0.5), hu["bone"])
            canvas.paint(canvas.ellipse(side * 0.6, 0.22, 0.06, 0.36, side * 0.5), hu["marrow"] + 40 * fine)
        else:
            canvas.paint(canvas.ellipse(side * 0.58, 0.05, 0.2, 0.24), hu["bone"])
            canvas.paint(canvas.ellipse(side * 0.58, 0.05, 0.15, 0.19), hu["marrow"] + 60 + 40 * fine)
    canvas.paint(canvas.ellipse(0, 0.58, 0.26, 0.12), hu["bone"])
    canvas.paint(canvas.ellipse(0, 0.58, 0.22, 0.08), hu["marrow"] + 40 * fine)
    if level < 0.22:
        canvas.paint(canvas.ellipse(0, -0.2, 0.3, 0.24), hu["fluid"], "bladder")


def _draw_head(
    canvas: Canvas, anatomy: Anatomy, level: float, fine: Array, coarse: Array, rng: np.random.Generator
) -> None:
    """Skull and brain; in the lower third the face: jaw, teeth, airway, sinuses, orbits and the upper spine."""
    del rng
    hu, amount = anatomy.hu, anatomy.amount
    rim = 1 - anatomy.fat_layer["head"]
    if level < 0.38:
        _draw_face(canvas, anatomy, level, fine)
        return
    skull = amount["skull"]
    canvas.paint(canvas.inside(rim), hu["bone"])
    canvas.paint(canvas.inside(rim - 0.3 * skull) - canvas.inside(rim - 0.7 * skull), hu["marrow"])
    cavity = canvas.inside(rim - skull)
    canvas.paint(cavity, hu["fluid"])
    inner = rim - skull - 0.03
    folds = np.clip(fine * 2 + 1.7, 0, 1).astype(np.float32)  # sulci near the surface
    cortex = canvas.inside(inner) - canvas.inside(inner - 0.16)
    canvas.paint(canvas.inside(inner), hu["brain"] + 5 * coarse, "brain")
    canvas.paint(np.clip(cortex * (1 - folds), 0, 1).astype(np.float32), hu["fluid"])
    if level < 0.75:
        spread = 0.6 + 0.5 * (level - 0.38) / 0.37
        for side in (-1, 1):
            canvas.paint(canvas.ellipse(side * 0.12 * spread, -0.18, 0.05, 0.2, side * 0.35), hu["fluid"])
            canvas.paint(canvas.ellipse(side * 0.17 * spread, 0.22, 0.05, 0.18, side * -0.35), hu["fluid"])
    canvas.paint(canvas.ellipse(0, 0, 0.012, inner), hu["brain"] + 40, "brain")
    if level < 0.55:  # frontal sinus and mastoid cells
        canvas.paint(canvas.ellipse(0, -rim + 0.11, 0.22, 0.07), AIR_HU)
        for side in (-1, 1):
            cells = canvas.ellipse(side * 0.72, 0.32, 0.14, 0.22)
            canvas.paint(cells, hu["bone"])
            canvas.paint((cells * (fine > 0)).astype(np.float32), hu["gas"])


def _draw_face(canvas: Canvas, anatomy: Anatomy, level: float, fine: Array) -> None:
    hu, gas = anatomy.hu, anatomy.amount["gas"]
    jaw = canvas.ellipse(0, -0.38, 0.62, 0.48) - canvas.ellipse(0, -0.32, 0.52, 0.42)
    canvas.paint((np.clip(jaw, 0, 1) * (canvas.y < -0.15)).astype(np.float32), hu["bone"])
    if level < 0.18:
        canvas.paint(canvas.ellipse(0, -0.4, 0.4, 0.28), hu["muscle"] + 10 * fine)
        canvas.paint(canvas.ellipse(0, -0.05, 0.13, 0.09), AIR_HU)
    else:
        for side in (-1, 1):
            width = 0.15 + 0.08 * gas
            canvas.paint(canvas.ellipse(side * 0.34, -0.42, width + 0.03, width * 1.3 + 0.03), hu["bone"])
            canvas.paint(canvas.ellipse(side * 0.34, -0.42, width, width * 1.3), AIR_HU)
            if level > 0.3:
                canvas.paint(canvas.ellipse(side * 0.36, -0.55, 0.2, 0.22), hu["fat"])
                canvas.paint(canvas.ellipse(side * 0.36, -0.62, 0.13, 0.12), hu["fluid"])
        canvas.paint(canvas.ellipse(0, -0.4, 0.07 + 0.05 * gas, 0.32), AIR_HU)
    for side in (-1, 1):
        canvas.paint(canvas.ellipse(side * 0.3, 0.1, 0.06, 0.08), hu["blood"])
    _draw_spine(canvas, anatomy, 0.25, 0.2, fine)
