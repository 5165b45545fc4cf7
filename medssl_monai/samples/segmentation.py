"""The phantom as a segmentation data set: NIfTI volumes with organ masks."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from medssl_monai.atomic import write_bytes, write_json
from medssl_monai.errors import InputError
from medssl_monai.samples.anatomy import ORGANS
from medssl_monai.samples.phantom import TRAIN_SHARE, make_patient


def write_segmentation(out: Path, *, patients: int, seed: int, size: int = 128, slices: int = 32) -> Path:
    """Write volumes and organ masks; the same arguments write the same bytes.

    Files are ``train/images/phantom-001.nii`` (HU, int16) and ``train/masks/phantom-001.nii`` (uint8, values as in
    `samples.anatomy.ORGANS`), and the same under ``test``. The first 60 % of the patients are for training.
    ``dataset.json`` lists them as the Medical Segmentation Decathlon does: ``training`` and, for the test patients,
    ``validation``, each an image and a label, with paths from the folder.

    Args:
        out: folder to write to.
        patients: number of patients, at least 2.
        seed: of the population.
        size: rows and columns of a slice.
        slices: a patient.

    Returns:
        The path of ``dataset.json``, which is written last.

    Raises:
        InputError: when `patients` < 2, or the slices are too small or too few.
    """
    if patients < 2:
        raise InputError(f"phantom: needs at least two patients, one of them for testing, got {patients}; ask for more")
    train = min(max(1, round(TRAIN_SHARE * patients)), patients - 1)
    listed: dict[str, list[dict[str, str]]] = {"training": [], "validation": []}
    for index in range(patients):
        patient = make_patient(index, seed=seed, size=size, slices=slices)
        split = "train" if index < train else "test"
        item = {"image": f"{split}/images/{patient.name}.nii", "label": f"{split}/masks/{patient.name}.nii"}
        for name, volume in (("image", patient.volume), ("label", patient.organ_mask)):
            write_bytes(out / item[name], _nifti(volume, patient.spacing_mm))
        listed["training" if split == "train" else "validation"].append(item)
    path = out / "dataset.json"
    labels = {str(value): name for value, name in enumerate(ORGANS)}
    write_json(path, {"name": "phantom", "modality": {"0": "CT"}, "labels": labels, **listed})
    return path


def _nifti(volume: NDArray[np.generic], spacing_mm: tuple[float, float, float]) -> bytes:
    """A volume (slices, rows to posterior, columns to the left) as NIfTI, which counts columns, rows, slices."""
    between_slices, between_rows, between_columns = spacing_mm
    affine = np.diag([-between_columns, -between_rows, between_slices, 1.0])  # NIfTI points to right and anterior
    nifti: Any = nibabel.Nifti1Image  # which has no type hints
    return bytes(nifti(volume.transpose(2, 1, 0), affine).to_bytes())
