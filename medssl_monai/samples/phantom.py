"""Seeded synthetic CT: crude patients from pelvis to vertex, with body regions and lesions labelled.

For tests, demonstrations and work without real data. Nothing in it comes from a person. `samples.anatomy` and
`samples.organs` draw the patient, `samples.dicom` encodes; this module is the scanner and the tree of DICOM studies.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medssl_monai.atomic import write_bytes, write_csv
from medssl_monai.errors import InputError
from medssl_monai.samples.anatomy import draw_anatomy, smooth_noise
from medssl_monai.samples.dicom import encode_slice, series_uids
from medssl_monai.samples.organs import draw_slice

HU_RANGE = (-1024, 3071)  # what unsigned 12 bits with the intercept -1024 can hold
TRAIN_SHARE = 0.6
LABEL_COLUMNS = ("source", "slice", "label", "patient", "split")


@dataclass(frozen=True)
class PhantomPatient:
    """One synthetic patient: a single axial CT series.

    Attributes:
        index: number of the patient in its seed's population, from 0.
        seed: of the population.
        volume: HU, int16 (slices, H, W), -1024 to 3071; slice 0 is the most inferior, rows run to posterior,
            columns to the patient's left. -1024 outside the scanner's field of view.
        lesion_mask: bool (slices, H, W).
        organ_mask: uint8 (slices, H, W), values as in `samples.anatomy.ORGANS`; 0 is none of them (background).
        spacing_mm: (between slices, between rows, between columns).
        labels: region of each slice: "head", "thorax" or "abdomen_pelvis".
        lesion: whether a slice shows a lesion.
    """

    index: int
    seed: int
    volume: NDArray[np.int16]
    lesion_mask: NDArray[np.bool_]
    organ_mask: NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    labels: tuple[str, ...]
    lesion: tuple[bool, ...]

    @property
    def name(self) -> str:
        """`phantom-001` for index 0."""
        return f"phantom-{self.index + 1:03d}"


def make_patient(
    index: int, *, seed: int, size: int = 128, slices: int = 32, spacing: float | None = None
) -> PhantomPatient:
    """Draw patient `index` of the population `seed`; the same arguments give the same voxels.

    Args:
        index: of the patient, from 0.
        seed: of the population.
        size: rows and columns of a slice, at least 32.
        slices: from the pelvis to the vertex, at least 3; every patient shows all three regions.
        spacing: pixel spacing in mm; drawn (a field of view of 360 to 500 mm) when None.

    Raises:
        InputError: for a size or number of slices below the least.
    """
    if size < 32 or slices < 3 or index < 0:
        raise InputError(
            f"phantom: needs index >= 0, size >= 32 and slices >= 3, got index={index}, size={size}, slices={slices}; "
            "ask for a larger phantom"
        )
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, index])))
    anatomy = draw_anatomy(rng)
    field_mm, length_mm = rng.uniform(360, 500), rng.uniform(820, 980)
    pixel_mm = round(float(field_mm / size), 4) if spacing is None else float(spacing)
    grain = size / 128
    fine = smooth_noise(rng, (slices, size, size), (0.6, 1.3 * grain))
    coarse = smooth_noise(rng, (slices, size, size), (0.8, 5.0 * grain))
    scanner = _Scanner.draw(rng)

    heights = (np.arange(slices) + 0.5) / slices
    volume = np.empty((slices, size, size), dtype=np.int16)
    lesions = np.zeros((slices, size, size), dtype=bool)
    organs = np.zeros((slices, size, size), dtype=np.uint8)
    for number, height in enumerate(heights):
        drawn = draw_slice(anatomy, float(height), fine[number], coarse[number], rng)
        hu, lesions[number], organs[number] = drawn
        volume[number] = scanner.scan(hu, rng)
    return PhantomPatient(
        index=index,
        seed=seed,
        volume=volume,
        lesion_mask=lesions,
        organ_mask=organs,
        spacing_mm=(round(float(length_mm / slices), 2), pixel_mm, pixel_mm),
        labels=tuple(anatomy.place(float(height))[0] for height in heights),
        lesion=tuple(bool(slice_mask.any()) for slice_mask in lesions),
    )


@dataclass(frozen=True)
class _Scanner:
    """What the scanner adds: blur, correlated noise, streaks, drift, and a circular field of view."""

    blur: float
    noise_hu: float
    circle: float
    gain: float
    offset_hu: float
    streaks: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "_Scanner":
        return cls(
            blur=float(rng.uniform(0.4, 0.9)),
            noise_hu=float(np.exp(rng.uniform(np.log(10), np.log(60)))),
            circle=float(rng.uniform(0.94, 1.5)),
            gain=float(rng.uniform(0.9, 1.1)),
            offset_hu=float(rng.uniform(-30, 30)),
            streaks=float(rng.uniform(0, 0.4)),
        )

    def scan(self, hu: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.int16]:
        size = hu.shape[0]
        grain = size / 128
        image = ndimage.gaussian_filter(hu, self.blur * grain)
        # Filtered back-projection leaves noise without low frequencies: a difference of Gaussians.
        white = rng.standard_normal((size, size), dtype=np.float32)
        noise = ndimage.gaussian_filter(white, 0.6 * grain) - ndimage.gaussian_filter(white, 1.8 * grain)
        image += noise * np.float32(self.noise_hu * rng.uniform(0.7, 1.5) / noise.std())
        gain = self.gain * rng.uniform(0.95, 1.05)
        image = (image + 1000) * np.float32(gain) - 1000
        image += np.float32(self.offset_hu + rng.uniform(-40, 40)) * (image > -900)
        axis = (np.arange(size) + 0.5) / size * 2 - 1
        if rng.random() < self.streaks:
            x, y = axis[None, :] - rng.uniform(-0.4, 0.4), axis[:, None] - rng.uniform(-0.4, 0.4)
            radius, theta = np.hypot(x, y), np.arctan2(y, x)
            rays = np.cos(rng.integers(3, 9) * theta + rng.uniform(0, 6.3)) ** 9
            metal = radius < rng.uniform(0.015, 0.04)
            image += (rng.uniform(60, 260) * rays / (1 + 5 * radius)).astype(np.float32)
            image[metal] = 2800
        image[np.hypot(axis[None, :], axis[:, None]) > self.circle] = HU_RANGE[0]
        return np.asarray(np.clip(np.rint(image), *HU_RANGE), dtype=np.int16)


def write_phantom(
    out: Path, *, patients: int, seed: int, size: int = 128, slices: int = 32, spacing: float | None = None
) -> Path:
    """Write a DICOM study tree and its label table; the same arguments write the same bytes.

    The tree is `phantom-001/study/ct/*.dcm` under `out`, one CT series a patient, InstanceNumber running from superior
    to inferior as many scanners count. `labels.csv` (columns source, slice, label, patient, split) names the region of
    every slice, counted from 0 = most inferior; the first 60 % of the patients are `train`, the others `test`.

    Args:
        out: folder to write to; files of an earlier phantom of the same shape are replaced.
        patients: number of patients, at least 1 (one alone is `train`).
        seed: of the population.
        size: rows and columns of a slice.
        slices: a patient.
        spacing: pixel spacing in mm, drawn by patient when None.

    Returns:
        The path of `labels.csv`, which is written last.

    Raises:
        InputError: when `patients` < 1, or `out` holds images that this phantom would not replace.
    """
    if patients < 1:
        raise InputError(f"phantom: needs at least one patient, got {patients}; ask for more")
    out = Path(out)
    series_of = {index: out / f"phantom-{index + 1:03d}" / "study" / "ct" for index in range(patients)}
    wanted = {folder / f"image-{number + 1:04d}.dcm" for folder in series_of.values() for number in range(slices)}
    strangers = sorted({path for path in out.rglob("*.dcm") if not path.name.startswith(".")} - wanted)
    if strangers:
        raise InputError(
            f"{out}: a phantom is written to a folder of its own, found {len(strangers)} other image(s) such as "
            f"{strangers[0].relative_to(out)}; remove them or choose another folder"
        )
    train = patients if patients == 1 else min(patients - 1, max(1, round(TRAIN_SHARE * patients)))
    rows: list[tuple[object, ...]] = []
    for index, folder in series_of.items():
        patient = make_patient(index, seed=seed, size=size, slices=slices, spacing=spacing)
        uids = series_uids(seed, index)
        for number in range(slices):
            instance = slices - number
            write_bytes(folder / f"image-{instance:04d}.dcm", encode_slice(patient, number, instance, uids))
        source = folder.relative_to(out).as_posix()
        split = "train" if index < train else "test"
        rows += [(source, number, label, patient.name, split) for number, label in enumerate(patient.labels)]
    path = out / "labels.csv"
    write_csv(path, LABEL_COLUMNS, rows)
    return path
