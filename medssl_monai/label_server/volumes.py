"""Volumes on the grid of a series, as files that viewers open: the series itself, and what spoke for a prediction.

Arrays are (columns, rows, slices). Files carry the geometry and no other header.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from medssl_monai.store.reader import SliceStore


def series_volume(store: SliceStore, series_id: str) -> npt.NDArray[np.int16]:
    """The slices of a series: int16 HU, or the modality's own units."""
    return np.ascontiguousarray(store.read_series(series_id).transpose(2, 1, 0))


def evidence_volume(
    store: SliceStore,
    series_id: str,
    rows: Sequence[Mapping[str, Any]],
    maps: Sequence[npt.NDArray[np.float32]],
    threshold: float | None,
) -> npt.NDArray[Any]:
    """Maps of single slices, put together.

    Args:
        store: holds the series.
        series_id: of the series; maps of other series are left out.
        rows: the slice of each map.
        maps: (H, W) in [0, 1] each.
        threshold: share of the maximum from which a pixel is marked 1 in a label map (uint8); None gives the maps
            themselves (float32).
    """
    volume = np.zeros(series_volume(store, series_id).shape, np.float32)
    for row, heat in zip(rows, maps, strict=True):
        if row["series_id"] == series_id:
            volume[:, :, row["slice"]] = heat.T
    return volume if threshold is None else (volume >= threshold).astype(np.uint8)


def write_volume(store: SliceStore, series_id: str, volume: npt.NDArray[Any], file: Path) -> None:
    """Write a volume on the grid of a series as ``.nii.gz`` or ``.nrrd``.

    The grid is the identity for a series without positions in its tags.
    """
    known = store.select([["series_id", "==", series_id]])[0]["affine"]
    affine = np.eye(4) if known is None else np.asarray(known, dtype=np.float64).reshape(4, 4)  # RAS
    if file.suffix != ".nrrd":
        import nibabel

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
