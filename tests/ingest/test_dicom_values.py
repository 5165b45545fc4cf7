"""Values, encodings and geometry of DICOM series: rows of the ingestion matrix on files made for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medssl_monai.ingest import Outcome, Reason
from medssl_monai.store.records import Voi
from tests.ingest.conftest import Ingest, only, rejections, volume
from tests.ingest.dicom_fixtures import axial_positions, dataset, phantom, write, write_series


def test_values_order_and_index(tmp_path: Path, run: Ingest) -> None:
    hu = phantom()
    write_series(tmp_path / "in", hu, WindowCenter=[40, -600], WindowWidth=[400, 1500])
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).outcome is Outcome.ACCEPTED
    rows = store.select()
    assert [row["slice"] for row in rows] == list(range(6))
    assert [row["z_mm"] for row in rows] == [35 + 2.5 * i for i in range(6)]
    first = rows[0]
    assert (first["plane"], first["modality"], first["body_part"], first["kernel"]) == ("axial", "CT", "CHEST", "B30f")
    assert (first["spacing_row_mm"], first["spacing_column_mm"], first["slice_spacing_mm"]) == (0.7, 0.9, 2.5)
    assert (first["window_level"], first["window_width"]) == (40, 400)
    assert (first["hu_min"], first["hu_max"]) == (hu[0].min(), hu[0].max())
    assert first["body_fraction"] == pytest.approx((hu[0] > -300).mean())
    assert first["flags"] == ""
    expected: Any = [[-0.9, 0, 0, 120], [0, -0.7, 0, 90], [0, 0, 2.5, 35], [0, 0, 0, 1]]
    assert np.allclose(np.reshape(first["affine"], (4, 4)), expected)


def test_missing_rescale_that_the_caller_declares(tmp_path: Path, run: Ingest) -> None:
    """Row 18."""
    hu = phantom()
    for i, position in enumerate(axial_positions(6)):
        write(dataset(hu[i], position=position, name=i, slope=None, intercept=None), tmp_path / "in" / str(i))
    store, summary = run(assume_hu=True)
    assert np.array_equal(volume(store), hu)
    assert only(summary).outcome is Outcome.REPAIRED
    assert "as the caller declared" in only(summary).repairs[0]


def test_slope_and_intercept_differ_by_slice(tmp_path: Path, run: Ingest) -> None:
    """Row 18."""
    hu = (phantom() // 4) * 4
    for i, position in enumerate(axial_positions(6)):
        slope = (1, 2, 4, 0.5, 0.25, 2)[i]
        intercept = -1024 - 100 * i
        stored = ((hu[i] - intercept) / slope).astype(np.int16)
        write(dataset(stored, position=position, name=i, slope=slope, intercept=intercept), tmp_path / "in" / str(i))
    store, _ = run()
    assert np.array_equal(volume(store), hu)


def test_stored_encodings(tmp_path: Path, run: Ingest) -> None:
    """Row 15: signed 12 bits, and junk above BitsStored."""
    hu = np.clip(phantom(), -1000, 1023)
    twelve: dict[str, Any] = {"BitsStored": 12, "HighBit": 11}
    for i, position in enumerate(axial_positions(6)):
        junk = (hu[i].astype(np.int32) & 0x0FFF | 0x5000).astype(np.uint16).view(np.int16)
        write(dataset(junk, position=position, name=i, intercept=0, series="signed", **twelve), tmp_path / "a" / str(i))
        junk = ((hu[i].astype(np.int32) + 1024) | 0xA000).astype(np.uint16)
        write(dataset(junk, position=position, name=i, series="unsigned", **twelve), tmp_path / "b" / str(i))
    for folder in "ab":
        store, _ = run(tmp_path / folder, out=folder + "-store")
        assert np.array_equal(volume(store), hu), folder


@pytest.mark.parametrize(
    ("signed", "high", "junk"), [(False, 15, 0), (False, 15, 0x000F), (True, 15, 0x0005), (False, 13, 0xC003)]
)
def test_bits_stored_at_the_top_of_a_cell(tmp_path: Path, run: Ingest, signed: bool, high: int, junk: int) -> None:
    """Row 15: shifted down by HighBit + 1 - BitsStored; what stands below and above is no value (PS3.5 8.1.1)."""
    hu = np.clip(phantom(), -1000, 2000)
    intercept = 0 if signed else -1024
    values = (hu.astype(np.int32) - intercept) & 0x0FFF
    cells = (values << (high - 11) | junk).astype(np.uint16)
    for i, position in enumerate(axial_positions(6)):
        stored = cells[i].view(np.int16) if signed else cells[i]
        tags: dict[str, Any] = {"BitsStored": 12, "HighBit": high, "intercept": intercept}
        write(dataset(stored, position=position, name=i, **tags), tmp_path / "in" / str(i))
    assert np.array_equal(volume(run()[0]), hu)


def test_high_bit_that_the_values_contradict(tmp_path: Path, run: Ingest) -> None:
    """A HighBit of 15 over values of 12 bits at the bottom of their cells, as some writers put it."""
    hu = phantom()
    write_series(tmp_path / "in", hu, BitsStored=12, HighBit=15)
    assert np.array_equal(volume(run()[0]), hu)


@pytest.mark.parametrize(("padding", "signed"), [(-3024, True), (63536, False), (-2000, False)])
def test_padding_that_bits_stored_cannot_hold(tmp_path: Path, run: Ingest, padding: int, signed: bool) -> None:
    """Row 17: found before what lies above BitsStored is taken for junk."""
    hu = phantom()
    expected = hu.copy()
    expected[:, :2, :2] = -1024
    for i, position in enumerate(axial_positions(6)):
        stored = hu[i].copy() if signed else (hu[i].astype(int) + 1024).astype(np.uint16)
        stored[:2, :2] = padding if signed else padding % 65536
        image = dataset(stored, position=position, name=i, intercept=0 if signed else -1024, BitsStored=12, HighBit=11)
        image.add_new("PixelPaddingValue", "SS" if padding < 0 else "US", padding)
        write(image, tmp_path / "in" / str(i))
    store, summary = run()
    assert np.array_equal(volume(store), expected)
    assert only(summary).flags == ("padded",)


@pytest.mark.parametrize("declared", [True, False])
def test_padding(tmp_path: Path, run: Ingest, declared: bool) -> None:
    """Row 17: -2000 in the stored values, which is -3024 after rescaling."""
    hu = phantom()
    expected = hu.copy()
    expected[:, :2, :2] = -1024
    for i, position in enumerate(axial_positions(6)):
        stored = (hu[i].astype(int) + 1024).astype(np.int16)
        stored[:2, :2] = -2000
        tags: dict[str, Any] = {"PixelPaddingValue": -2000} if declared else {}
        write(dataset(stored, position=position, name=i, **tags), tmp_path / "in" / str(i))
    store, summary = run()
    assert np.array_equal(volume(store), expected)
    assert only(summary).outcome is (Outcome.ACCEPTED if declared else Outcome.REPAIRED)
    assert "padded" in only(summary).flags


@pytest.mark.parametrize(
    ("level", "width", "expected"),
    [([40, 300], [80, 900], (40, 80)), (50, 350, (50, 350)), (50, 0, (None, None)), (None, 5, (None, None))],
)
def test_windows(tmp_path: Path, run: Ingest, level: Any, width: Any, expected: tuple[Any, Any]) -> None:
    """Row 20: metadata, never burned in."""
    hu = phantom()
    write_series(tmp_path / "in", hu, WindowCenter=level, WindowWidth=width)
    store, _ = run()
    assert (store.select()[0]["window_level"], store.select()[0]["window_width"]) == expected
    assert np.array_equal(volume(store), hu)


def test_all_that_the_tags_propose_for_showing(tmp_path: Path, run: Ingest) -> None:
    """Row 20: every window, the function they are meant for, the descriptors of VOI LUTs; where slices differ, each."""
    table = Dataset()
    table.LUTDescriptor, table.LUTData = [3, 0, 16], b"\0\0\1\0\2\0"
    table.LUTExplanation = "PLANTED"
    exact: dict[str, Any] = {"WindowCenter": 50, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"}
    variants: list[tuple[dict[str, Any], Voi]] = [
        ({"WindowCenter": [40, 300], "WindowWidth": [80, 900]}, Voi(((40.0, 80.0), (300.0, 900.0)))),
        ({"WindowCenter": [40, 300], "WindowWidth": [80, 900]}, Voi(((40.0, 80.0), (300.0, 900.0)))),
        (exact, Voi(((50.0, 0.5),), "LINEAR_EXACT")),
        ({**exact, "VOILUTFunction": "PLANTED"}, Voi()),
        (
            {"WindowCenter": [40, 50], "WindowWidth": [0, 350], "VOILUTFunction": "SIGMOID"},
            Voi(((50, 350),), "SIGMOID"),
        ),
        ({"VOILUTSequence": Sequence([table])}, Voi(tables=((3, 0, 16),))),
    ]
    stored = (phantom().astype(int) + 1024).astype(np.uint16)
    for i, (position, (tags, _)) in enumerate(zip(axial_positions(6), variants, strict=True)):
        write(dataset(stored[i], position=position, name=i, **tags), tmp_path / "in" / str(i))
    store, _ = run()
    series_id = store.series_ids[0]
    assert [store.voi(series_id, i) for i in range(6)] == [voi for _, voi in variants]
    assert len(store.note(series_id).voi) == 5
    assert [row["window_width"] for row in store.select()] == [80, 80, 0.5, None, 350, None]
    assert np.array_equal(volume(store), phantom())
    assert not any(b"PLANTED" in path.read_bytes() for path in store.path.rglob("*") if path.is_file())


def test_no_position(tmp_path: Path, run: Ingest) -> None:
    """Row 30: ordered by InstanceNumber, as stored; no volume."""
    hu = phantom()
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    for i in range(6):
        lost: dict[str, Any] = {"position": None, "orientation": (0,) * 6, "spacing": None}
        image = dataset(stored[i], name=i, number=i, ImagerPixelSpacing=[0.2, 0.3], **lost)
        write(image, tmp_path / "in" / str(9 - i))
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    row = store.select()[0]
    assert (row["plane"], row["z_mm"], row["affine"]) == ("unknown", None, None)
    assert (row["spacing_row_mm"], row["spacing_column_mm"]) == (0.2, 0.3)
    assert only(summary).flags == ("no_geometry", "spacing_from_imager")


ORIENTATIONS = {
    "feet first, prone": ((-1, 0, 0, 0, 1, 0), "axial"),
    "upside down": ((1, 0, 0, 0, -1, 0), "axial"),
    "turned": ((0, 1, 0, 1, 0, 0), "axial"),
    "sagittal": ((0, 1, 0, 0, 0, -1), "sagittal"),
    "coronal": ((1, 0, 0, 0, 0, -1), "coronal"),
    "coronal from behind": ((-1, 0, 0, 0, 0, 1), "coronal"),
}


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_orientations(tmp_path: Path, run: Ingest, name: str) -> None:
    """Row 31: every voxel is found where the patient has it, by the affine."""
    orientation, plane = ORIENTATIONS[name]
    columns, rows = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(columns, rows)
    hu = phantom()
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    origin = np.array([-20.0, 30.0, -50.0])
    for i in range(6):
        image = dataset(stored[i], position=origin + 2.5 * i * normal, orientation=orientation, name=i)
        write(image, tmp_path / "in" / str(i))
    store, _ = run()
    row = store.select()[0]
    assert row["plane"] == plane
    affine, found = np.reshape(row["affine"], (4, 4)), volume(store)
    back = np.linalg.inv(affine)
    for i, r, c in [(0, 0, 0), (5, 19, 15), (2, 7, 4), (3, 0, 15)]:
        lps = origin + 2.5 * i * normal + rows * 0.7 * r + columns * 0.9 * c
        x, y, z, _ = np.rint(back @ [-lps[0], -lps[1], lps[2], 1]).astype(int)
        assert found[z, y, x] == hu[i, r, c]
    # The canonical axes: columns to Left or Posterior, rows to Posterior or Inferior, slices to S, P or R.
    signs = np.sign(np.round(np.diag([-1, -1, 1]) @ affine[:3, :3], 6))
    expected: dict[str, Any] = {"axial": np.diag([1, 1, 1]), "coronal": [[1, 0, 0], [0, 0, 1], [0, -1, 0]]}
    assert np.array_equal(signs, expected.get(plane, [[0, 0, -1], [1, 0, 0], [0, -1, 0]]))


def test_gantry_tilt(tmp_path: Path, run: Ingest) -> None:
    """Sheared positions: slices as they are, the shear in the affine, a flag."""
    hu = phantom()
    write_series(tmp_path / "in", hu, positions=[(0, 0.8 * i, 2.5 * i) for i in range(6)])
    store, summary = run()
    assert only(summary).flags == ("gantry_tilt",)
    assert np.allclose(np.reshape(store.select()[0]["affine"], (4, 4))[:3, 2], (0, -0.8, 2.5))


def test_positions_that_jump_within_the_plane(tmp_path: Path, run: Ingest) -> None:
    """Row 7: no affine holds for the series, so that it has none; its slices are kept, each with its z."""
    hu, positions = phantom(9), axial_positions(9)
    for i in (3, 4, 5):
        positions[i][0] += 50
    write_series(tmp_path / "in", hu, positions=positions)
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ("position_jumps",)
    row = store.select()[4]
    assert (row["affine"], row["plane"], row["z_mm"]) == (None, "axial", 45.0)
    assert (row["spacing_row_mm"], row["slice_spacing_mm"]) == (0.7, 2.5)


def test_single_slice_of_odd_shape(tmp_path: Path, run: Ingest) -> None:
    """Row 32."""
    hu = phantom(1, 41, 12)
    write_series(tmp_path / "in", hu)
    store, _ = run()
    assert np.array_equal(volume(store), hu)
    assert store.select()[0]["slice_spacing_mm"] == 2.5


def test_metal(tmp_path: Path, run: Ingest) -> None:
    """Row 34: extended scale above 20,000 HU, and beyond int16."""
    stored = np.array([[0, 3000], [3500, 1000]], np.uint16)
    write(dataset(stored, slope=10.0, intercept=-1000.0), tmp_path / "in" / "metal")
    store, summary = run()
    assert volume(store).tolist() == [[[-1000, 29000], [32767, 9000]]]
    assert "clipped" in only(summary).flags
    assert only(summary).outcome is Outcome.REPAIRED


def test_other_modalities_are_as_stored(tmp_path: Path, run: Ingest) -> None:
    """MR: no rescaling, whatever the tags say, and no padding."""
    stored = np.arange(320, dtype=np.int16).reshape(20, 16) - 2100
    image = dataset(stored, SOPClassUID="1.2.840.10008.5.1.4.1.1.4", Modality="MR", slope=2.0, intercept=5.0)
    write(image, tmp_path / "in" / "mr")
    store, _ = run()
    assert np.array_equal(volume(store)[0], stored)
    assert store.select()[0]["modality"] == "MR"


def test_real_files(run: Ingest) -> None:
    """What pydicom carries: rows 13, 17, 22, 25 on real files."""
    names = [
        *("CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_truncated.dcm"),
        *("693_J2KI.dcm", "rtstruct.dcm", "test-SR.dcm", "JPEG-lossy.dcm", "badVR.dcm", "DICOMDIR"),
    ]
    paths = [Path(str(get_testdata_file(name, download=False))) for name in names]
    store, summary = run(*paths)
    assert summary.files == len(names)
    by_modality = {row["modality"]: row for row in store.select([["rows", "<", 200]])}
    ct, mr = by_modality["CT"], by_modality["MR"]
    assert (ct["hu_min"], ct["hu_max"]) == (128 - 1024, 2191 - 1024)
    assert (mr["hu_min"], mr["hu_max"]) == (127, 2145)
    # One image in four encodings: lossless ones are copies of one another, the damaged one says so.
    assert any(v.files == 3 and v.slices == 1 for v in summary.verdicts)
    assert rejections(summary)[Reason.UNDECODABLE] == 1
    assert rejections(summary)[Reason.DICOMDIR] == 1
    lossy = store.select([["rows", "==", 512]])[0]
    assert "lossy" in lossy["flags"]
    assert lossy["hu_min"] == -1024
