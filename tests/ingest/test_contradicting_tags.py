"""Tags that tell studies, series and acquisitions apart, and tags that cannot be read: nothing is mixed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import SliceStore
from tests.ingest.conftest import Ingest, only, volume
from tests.ingest.dicom_fixtures import axial_positions, phantom, uid, write_series
from tests.ingest.enhanced_fixtures import write_enhanced

CONSTANT_IN_A_SERIES = {
    "StudyInstanceUID": (uid("study", 1), uid("study", 2)),
    "StudyDate": ("20200101", "20210101"),
    "SeriesNumber": (2, 3),
    "FrameOfReferenceUID": (uid("frame", 1), uid("frame", 2)),
}
CONSTANT_IN_A_STACK: dict[str, tuple[Any, Any]] = {
    "SeriesDescription": ("native", "venous"),
    "ProtocolName": ("a", "b"),
    "SeriesTime": ("101010", "111111"),
    "AcquisitionDate": ("20200101", "20210101"),
    "KVP": (80, 140),
    "FilterType": ("WEDGE", "BODY"),
    "ReconstructionDiameter": (320, 500),
    "SliceThickness": (2, 5),
    "ContrastBolusAgent": ("none", "iodine"),
    "PatientPosition": ("HFS", "HFP"),
    "NominalPercentageOfCardiacPhase": (30.0, 70.0),
}


def two_series(folder: Path, shift_mm: float, **tags: tuple[Any, Any]) -> list[np.ndarray]:
    """Two volumes that share folder and series, the second higher by some mm, with tags that differ."""
    volumes = [phantom(seed=1), phantom(seed=2)]
    for number, hu in enumerate(volumes):
        positions = [[x, y, z + number * shift_mm] for x, y, z in axial_positions(len(hu))]
        values = {"FrameOfReferenceUID": None, **{tag: both[number] for tag, both in tags.items()}}
        times = {"AcquisitionTime": [f"10{number}0{i:02d}" for i in range(len(hu))]}
        names = [f"{number}-{i}" for i in range(len(hu))]
        write_series(folder, hu, positions=positions, names=names, series=f"of {number}", **values)
        for i, name in enumerate(names):
            _rewrite(folder / name, SeriesInstanceUID=None, AcquisitionTime=times["AcquisitionTime"][i])
    return volumes


def _rewrite(path: Path, **tags: Any) -> None:
    import pydicom

    image = pydicom.dcmread(path)
    for tag, value in tags.items():
        if value is None:
            del image[tag]
        else:
            setattr(image, tag, value)
    image.save_as(path)


def stored_volumes(store: SliceStore) -> list[np.ndarray]:
    return [store.read_series(series_id) for series_id in store.series_ids]


def same(found: list[np.ndarray], expected: list[np.ndarray]) -> bool:
    def key(volume: np.ndarray) -> bytes:
        return bytes(volume.tobytes())

    return sorted(map(key, found)) == sorted(map(key, expected))


@pytest.mark.parametrize("shift_mm", [1.0, 100.0], ids=["interleaved", "following"])
@pytest.mark.parametrize("tag", CONSTANT_IN_A_SERIES)
def test_two_series_without_their_uid(tmp_path: Path, run: Ingest, tag: str, shift_mm: float) -> None:
    volumes = two_series(tmp_path / "in", shift_mm, **{tag: CONSTANT_IN_A_SERIES[tag]})
    store, summary = run()
    assert same(stored_volumes(store), volumes)
    assert all("split" in verdict.flags for verdict in summary.verdicts)


@pytest.mark.parametrize("shift_mm", [1.0, 0.0], ids=["interleaved", "at the same places"])
@pytest.mark.parametrize("tag", CONSTANT_IN_A_STACK)
def test_two_acquisitions_without_series_uid(tmp_path: Path, run: Ingest, tag: str, shift_mm: float) -> None:
    volumes = two_series(tmp_path / "in", shift_mm, **{tag: CONSTANT_IN_A_STACK[tag]})
    store, _ = run()
    assert same(stored_volumes(store), volumes)


@pytest.mark.parametrize("tag", ["StudyInstanceUID", "FrameOfReferenceUID"])
def test_identifiers_that_differ_from_slice_to_slice(tmp_path: Path, run: Ingest, tag: str) -> None:
    """As a bad anonymiser leaves them: they tell nothing apart, which is said."""
    hu = phantom()
    for i, path in enumerate(write_series(tmp_path / "in", hu)):
        _rewrite(path, **{tag: uid("random", i)})
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ("inconsistent_tags",)


def test_no_positions_but_slice_locations(tmp_path: Path, run: Ingest) -> None:
    hu = phantom()
    for i, path in enumerate(write_series(tmp_path / "in", hu, positions=axial_positions(6))):
        _rewrite(
            path, ImagePositionPatient=None, SliceLocation=str(12.5 * i - 30), InstanceNumber=(3, 1, 2, 6, 5, 4)[i]
        )
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ("by_slice_location", "no_geometry")


def with_bytes(folder: Path, change: Callable[[bytes], bytes]) -> None:
    for path in folder.iterdir():
        path.write_bytes(change(path.read_bytes()))


def test_decimal_commas(tmp_path: Path, run: Ingest) -> None:
    hu = phantom()
    positions = [["-120.5", "-90.0", f"{35.5 + 2 * i}"] for i in range(6)]
    tags: dict[str, Any] = {"intercept": "-1024.0", "slope": "1.0", "spacing": ("0.7", "0.9"), "SliceThickness": "2.5"}
    write_series(tmp_path / "in", hu, **tags)
    for path, position in zip(sorted((tmp_path / "in").iterdir()), positions, strict=True):
        _rewrite(path, ImagePositionPatient=position)
    exact, _ = run(out="points")

    def change(content: bytes) -> bytes:
        for text in (b"-1024.0", b"0.7\\0.9", b"-120.5\\-90.0", b"2.5 "):
            assert text in content
            content = content.replace(text, text.replace(b".", b","))
        return content

    with_bytes(tmp_path / "in", change)
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    rows, expected = store.select()[0], exact.select()[0]
    names = ("spacing_row_mm", "spacing_column_mm", "z_mm", "slice_spacing_mm", "affine")
    assert [rows[name] for name in names] == [expected[name] for name in names]
    assert only(summary).flags == ()


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "PixelSpacing", "SliceThickness", "ImageOrientationPatient"])
def test_geometry_that_cannot_be_read(tmp_path: Path, run: Ingest, tag: str) -> None:
    content = {
        "ImagePositionPatient": b"-120.25\\-90.0\\77.0",
        "PixelSpacing": b"0.75\\0.95",
        "SliceThickness": b"2.75",
    }
    write_series(tmp_path / "in", phantom(1), positions=[(-120.25, -90, 77)], spacing=(0.75, 0.95), SliceThickness=2.75)
    good = content.get(tag, b"1.0\\0.0\\0.0\\0.0\\1.0\\0.0")
    with_bytes(tmp_path / "in", lambda one: one.replace(good, b"x" + good[1:], 1))
    _, summary = run()
    assert "unreadable_tags" in only(summary).flags


@pytest.mark.parametrize("assume_hu", [False, True])
def test_a_rescale_that_cannot_be_read(tmp_path: Path, run: Ingest, assume_hu: bool) -> None:
    """Not even as the caller declares: the tag says something, and nobody knows what."""
    write_series(tmp_path / "in", phantom(), intercept="-1024.0")
    with_bytes(tmp_path / "in", lambda one: one.replace(b"-1024.0", b"-1x24.0"))
    with pytest.raises(NoImagesError, match="NO_RESCALE: RescaleSlope or RescaleIntercept is there and is no number"):
        run(assume_hu=assume_hu)


@pytest.mark.parametrize("word", ["Hounsfield Unit", "HOUNSFIELD", "Houndsfield Units", "H.U.", "hu", "unspecified"])
def test_hounsfield_in_other_words(tmp_path: Path, run: Ingest, word: str) -> None:
    write_series(tmp_path / "in", phantom(), RescaleType=word)
    store, _ = run()
    assert np.array_equal(volume(store), phantom())


@pytest.mark.parametrize("word", ["OD", "MGML", "HU_MOD", "Z_EFF", "PCT", "mHU"])
def test_units_that_are_not_hounsfield(tmp_path: Path, run: Ingest, word: str) -> None:
    write_series(tmp_path / "in", phantom(), RescaleType=word)
    with pytest.raises(NoImagesError, match="RescaleType says that its values are not HU"):
        run()


def test_a_lut_sequence_without_items(tmp_path: Path, run: Ingest) -> None:
    write_series(tmp_path / "in", phantom(), ModalityLUTSequence=[])
    store, summary = run()
    assert np.array_equal(volume(store), phantom())
    assert only(summary).flags == ()


def test_empty_tags_of_a_frame_stand_in_the_shared_group(tmp_path: Path, run: Ingest) -> None:
    hu = phantom(3)
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    path = write_enhanced(tmp_path / "in" / "e", stored, axial_positions(3))
    import pydicom

    image = pydicom.dcmread(path)
    for item in image.PerFrameFunctionalGroupsSequence:
        item.PixelMeasuresSequence = [pydicom.Dataset()]
        item.PixelMeasuresSequence[0].PixelSpacing = None
    image.save_as(path)
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert store.select()[0]["spacing_row_mm"] == 0.7
    assert only(summary).flags == ()
