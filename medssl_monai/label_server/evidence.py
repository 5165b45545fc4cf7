"""What spoke for a prediction, as an image that a viewer lays over the study."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.label_server.studies import series_affine
from medssl_monai.store.reader import SliceStore


def evidence_volume(
    store: SliceStore,
    series_id: str,
    rows: Sequence[Mapping[str, Any]],
    maps: Sequence[npt.NDArray[np.float32]],
    threshold: float | None,
) -> npt.NDArray[Any]:
    """Maps of slices as a volume on the series' grid (columns, rows, slices).

    Args:
        store: holds the series.
        series_id: of the series; maps of other series are left out.
        rows: which slices the maps are of.
        maps: (H, W) in [0, 1] each.
        threshold: share of the most from which a pixel is marked 1 in a label map (uint8); None gives the maps
            themselves (float32).
    """
    volume = np.zeros(store.read_series(series_id).transpose(2, 1, 0).shape, np.float32)
    for row, heat in zip(rows, maps, strict=True):
        if row["series_id"] == series_id:
            volume[:, :, row["slice"]] = heat.T
    return volume if threshold is None else (volume >= threshold).astype(np.uint8)


def write_volume(store: SliceStore, series_id: str, volume: npt.NDArray[Any], file: Path) -> None:
    """Write a volume on a series' grid as ``.nii.gz`` or ``.nrrd``."""
    import nibabel

    affine = series_affine(store.select([["series_id", "==", series_id]]))
    if file.suffix != ".nrrd":
        nifti: Any = nibabel.Nifti1Image
        nibabel.save(nifti(volume, affine), file)
        return
    import SimpleITK

    image: Any = SimpleITK.GetImageFromArray(volume.transpose(2, 1, 0))
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    SimpleITK.WriteImage(image, str(file), useCompression=True)
