"""Rows of the ingestion matrix on files made for them: what comes out, and the verdict."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.data import get_testdata_file

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import IngestSummary, Outcome, Reason, SliceStore, Verdict, ingest
from tests.ingest.dicom_fixtures import KEY, axial_positions, dataset, phantom, tree_bytes, uid, write, write_series

Ingest = Callable[..., tuple[SliceStore, IngestSummary]]


@pytest.fixture
def run(tmp_path: Path) -> Ingest:
    def run(*sources: Path, out: str = "store", **options: Any) -> tuple[SliceStore, IngestSummary]:
        summary = ingest(sources or [tmp_path / "in"], tmp_path / out, key=KEY, progress=False, **options)
        assert sum(verdict.files for verdict in summary.verdicts) == summary.files
        return SliceStore(tmp_path / out), summary

    return run


def only(summary: IngestSummary) -> Verdict:
    assert len(summary.verdicts) == 1, summary.verdicts
    return summary.verdicts[0]


def volume(store: SliceStore) -> np.ndarray:
    assert len(store.series_ids) == 1
    return store.read_series(store.series_ids[0])


def rejections(summary: IngestSummary) -> dict[Reason | None, int]:
    return {v.reason: v.files for v in summary.verdicts if v.outcome is Outcome.REJECTED}


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


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_names_and_numbers_do_not_matter(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Rows 1 and 2: shuffled names without extension; InstanceNumber missing, doubled, negative."""
    tmp_path = tmp_path_factory.mktemp("shuffle")
    hu, draw = phantom(seed=seed), random.Random(seed)
    write_series(tmp_path / "in", hu)
    ingest([tmp_path / "in"], tmp_path / "plain", key=KEY, progress=False)
    names = [f"IM{i}" for i in range(len(hu))]
    draw.shuffle(names)
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    positions = axial_positions(len(hu))
    for path in (tmp_path / "in").iterdir():
        path.unlink()
    for i in range(len(hu)):
        number = draw.choice([None, 1, -3, 7])
        image = dataset(stored[i], position=positions[i], name=i, number=number)
        write(image, tmp_path / "in" / names[i])
    ingest([tmp_path / "in"], tmp_path / "shuffled", key=KEY, progress=False)
    assert tree_bytes(tmp_path / "plain") == tree_bytes(tmp_path / "shuffled")


def test_inner_slice_missing(tmp_path: Path, run: Ingest) -> None:
    """Row 3."""
    hu = phantom()
    write_series(tmp_path / "in", hu)[3].unlink()
    store, summary = run()
    assert only(summary).flags == ("gap",)
    assert np.array_equal(volume(store), np.delete(hu, 3, 0))
    assert [row["slice_spacing_mm"] for row in store.select()] == [2.5, 2.5, 5, 2.5, 2.5]


def test_same_image_twice(tmp_path: Path, run: Ingest) -> None:
    """Row 5."""
    hu = phantom()
    paths = write_series(tmp_path / "in", hu)
    (tmp_path / "in" / "copy").write_bytes(paths[2].read_bytes())
    store, summary = run()
    verdict = only(summary)
    assert np.array_equal(volume(store), hu)
    assert (verdict.outcome, verdict.files, verdict.slices) == (Outcome.REPAIRED, 7, 6)
    assert verdict.repairs == ("dropped 1 copy of images",)


def test_images_sent_again_under_new_uids(tmp_path: Path, run: Ingest) -> None:
    hu = phantom()
    write_series(tmp_path / "in", hu)
    for path in write_series(tmp_path / "in" / "again", hu):
        image = pydicom.dcmread(path)
        image.SOPInstanceUID = uid("again", path.name)
        write(image, path)
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).files == 12


@pytest.mark.parametrize(
    ("tag", "values"), [("AcquisitionNumber", (1, 2)), ("ConvolutionKernel", ("B30f", "B70s")), ("EchoNumbers", (1, 2))]
)
def test_two_acquisitions_are_split(tmp_path: Path, run: Ingest, tag: str, values: tuple[Any, Any]) -> None:
    """Row 6: the same positions twice, told apart by a tag."""
    volumes = phantom(seed=1), phantom(seed=2)
    for value, hu in zip(values, volumes, strict=True):
        stored = (hu.astype(int) + 1024).astype(np.uint16)
        for i, position in enumerate(axial_positions(6)):
            image = dataset(stored[i], position=position, name=(value, i), **{tag: value})
            write(image, tmp_path / "in" / f"{value}-{i}")
    store, summary = run()
    assert len(store.series_ids) == 2
    found = [store.read_series(series_id) for series_id in store.series_ids]
    assert any(np.array_equal(found[0], hu) for hu in volumes)
    assert any(np.array_equal(found[1], hu) for hu in volumes)
    assert not np.array_equal(found[0], found[1])
    assert all("split" in verdict.flags and verdict.outcome is Outcome.REPAIRED for verdict in summary.verdicts)


def test_entangled_acquisitions_are_rejected(tmp_path: Path, run: Ingest) -> None:
    """Row 6: nothing tells them apart; another series of the run is not harmed."""
    write_series(tmp_path / "in" / "good", phantom(), series="good")
    for seed in (1, 2):
        stored = (phantom(seed=seed).astype(int) + 1024).astype(np.uint16)
        for i, position in enumerate(axial_positions(6)):
            write(dataset(stored[i], position=position, name=(seed, i)), tmp_path / "in" / f"{seed}-{i}")
    store, summary = run()
    assert len(store.series_ids) == 1
    assert rejections(summary) == {Reason.AMBIGUOUS_POSITIONS: 12}


def test_variable_spacing_is_not_missing(tmp_path: Path, run: Ingest) -> None:
    """Row 8."""
    z = [0, 2.5, 5, 7.5, 12.5, 17.5]
    write_series(tmp_path / "in", phantom(), positions=[(0, 0, value) for value in z], number=None)
    store, summary = run()
    assert only(summary).flags == ("variable_spacing",)
    assert [row["slice_spacing_mm"] for row in store.select()] == [2.5, 2.5, 2.5, 5, 5, 5]


def test_rounding_jitter(tmp_path: Path, run: Ingest) -> None:
    """Row 9."""
    hu, draw = phantom(), np.random.default_rng(0)
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    for i, position in enumerate(axial_positions(6)):
        tilt = draw.normal(0, 1e-4)
        orientation = (np.cos(tilt), np.sin(tilt), 0, -np.sin(tilt), np.cos(tilt), 0)
        image = dataset(stored[i], position=position + draw.normal(0, 0.01, 3), orientation=orientation, name=i)
        write(image, tmp_path / "in" / str(i))
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ()


@pytest.mark.parametrize("alone", [True, False])
def test_localizer(tmp_path: Path, run: Ingest, alone: bool) -> None:
    """Row 12: also in the middle of a series."""
    hu = phantom()
    scout = dataset(np.zeros((20, 16), np.uint16), name="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(scout, tmp_path / "in" / "scout")
    if alone:
        with pytest.raises(NoImagesError, match=r"no images .* 1 files \(1 LOCALIZER"):
            run()
        assert not (tmp_path / "store").exists()
    else:
        write_series(tmp_path / "in", hu)
        store, summary = run()
        assert np.array_equal(volume(store), hu)
        assert rejections(summary) == {Reason.LOCALIZER: 1}
        assert "-" not in store.series_ids[0]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67"}, Reason.NOT_AN_IMAGE),
        ({"SOPClassUID": "1.2.3.4711"}, Reason.NOT_AN_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY", "OTHER", "CSA MIP"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "CBV"]}, Reason.NOT_HOUNSFIELD),
        ({"RescaleType": "MGML"}, Reason.NOT_HOUNSFIELD),
        ({"slope": None}, Reason.NO_RESCALE),
        ({"intercept": None}, Reason.NO_RESCALE),
        ({"slope": 0.0}, Reason.NO_RESCALE),
        ({"RescaleSlope": ""}, Reason.NO_RESCALE),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, Reason.COLOUR),
        ({"NumberOfFrames": 2}, Reason.MULTIFRAME),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR"}, Reason.OTHER_MODALITY),
        ({"Rows": None}, Reason.UNREADABLE),
        ({"SOPClassUID": None}, None),
    ],
)
def test_what_is_not_taken(tmp_path: Path, run: Ingest, tags: dict[str, Any], reason: Reason | None) -> None:
    """Rows 13, 14, 18: each in its own file beside a good series."""
    write_series(tmp_path / "in" / "good", phantom(), series="good")
    write(dataset(np.zeros((20, 16), np.uint16), series="odd", **tags), tmp_path / "in" / "odd")
    _, summary = run(modality="CT")
    # SOPClassUID also stands in the file meta information, so that its loss in the data set does no harm.
    assert rejections(summary) == ({reason: 1} if reason else {})
    assert "4711" not in str(summary.verdicts)


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


def test_broken_files_are_isolated(tmp_path: Path, run: Ingest) -> None:
    """Row 24: an image cut short in the series, no bytes, text named .dcm, a folder named .dcm."""
    hu = phantom()
    paths = write_series(tmp_path / "in", hu)
    paths[4].write_bytes(paths[4].read_bytes()[:-100])
    paths[1].write_bytes(paths[1].read_bytes() + b"\0" * 30)
    (tmp_path / "in" / "empty.dcm").write_bytes(b"")
    (tmp_path / "in" / "text.dcm").write_text("not an image at all, " * 20)
    (tmp_path / "in" / "short").write_bytes(paths[0].read_bytes()[:300])
    (tmp_path / "in" / "folder.dcm").mkdir()
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "nowhere").symlink_to(tmp_path / "gone")
    store, summary = run()
    assert np.array_equal(volume(store), np.delete(hu, 4, 0))
    assert summary.files == 9
    reasons = sorted(v.reason.value for v in summary.verdicts if v.reason)
    assert reasons == ["NOT_AN_IMAGE_FILE", "NOT_AN_IMAGE_FILE", "UNDECODABLE", "UNREADABLE"]
    series = next(v for v in summary.verdicts if v.kind == "series")
    assert series.outcome is Outcome.REPAIRED
    assert "gap" in series.flags
    again = run()[1]
    assert (again.added, again.skipped, again.verdicts) == (0, 1, summary.verdicts)


def test_nothing_can_be_decoded(tmp_path: Path, run: Ingest) -> None:
    for path in write_series(tmp_path / "in", phantom(3)):
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(NoImagesError, match="UNDECODABLE"):
        run()
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("tag", "values"),
    [
        ("FrameOfReferenceUID", (uid("a"), uid("b"))),
        ("spacing", ((0.7, 0.9), (0.8, 0.9))),
        ("PatientID", ("a", "b")),
    ],
)
def test_one_uid_two_geometries(tmp_path: Path, run: Ingest, tag: str, values: tuple[Any, Any]) -> None:
    """Row 29; the parts keep their ids when they are ingested with more of the series."""
    volumes = phantom(seed=1), phantom(seed=2)
    for value, hu in zip(values, volumes, strict=True):
        stored = (hu.astype(int) + 1024).astype(np.uint16)
        for i, position in enumerate(axial_positions(6)):
            image = dataset(stored[i], position=position, name=(value, i), **{tag: value})
            write(image, tmp_path / "in" / str(values.index(value)) / str(i))
    store, summary = run()
    assert len(store.series_ids) == 2
    assert {len(store.read_series(series_id)) for series_id in store.series_ids} == {6}
    assert len({verdict.series_id for verdict in summary.verdicts}) == 2
    # First one half, which is then a whole series, and then both.
    run(tmp_path / "in" / "0", out="grown")
    run(out="grown")
    assert tree_bytes(tmp_path / "grown") == tree_bytes(tmp_path / "store")
    # The half alone adds nothing to what is stored.
    assert run(tmp_path / "in" / "1", out="grown")[1].added == 0


def test_one_series_over_two_folders(tmp_path: Path, run: Ingest) -> None:
    """Row 29; and a half that contradicts what is stored is refused, not mixed in."""
    hu = phantom()
    paths = write_series(tmp_path / "in" / "a", hu)
    (tmp_path / "in" / "b").mkdir()
    for path in paths[3:]:
        path.rename(tmp_path / "in" / "b" / path.name)
    store, _ = run()
    assert np.array_equal(volume(store), hu)
    run(tmp_path / "in" / "a", out="halves")
    with pytest.raises(NoImagesError, match="STORED_OTHERWISE"):
        run(tmp_path / "in" / "b", out="halves")
    halves, _ = run(out="halves")
    assert np.array_equal(volume(halves), hu)
    assert halves.fingerprint == store.fingerprint


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


def test_unknown_patients(tmp_path: Path, run: Ingest) -> None:
    """Row 38: grouped by series, each with a pseudonym of its own."""
    for series in ("one", "two"):
        write_series(tmp_path / series, phantom(), series=series, PatientID="", StudyInstanceUID="")
    store, summary = run(tmp_path / "one", tmp_path / "two")
    assert len({row["patient"] for row in store.select()}) == 2
    assert all("patient_unknown" in verdict.flags for verdict in summary.verdicts)


def test_patients_are_known_across_series(tmp_path: Path, run: Ingest) -> None:
    for series in ("one", "two"):
        write_series(tmp_path / "in" / series, phantom(), series=series)
    store, _ = run()
    assert len({row["patient"] for row in store.select()}) == 1


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


def test_missing_decoder_is_named(tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 22."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("no plug-in; PLANTED-ID-4711")

    path = Path(str(get_testdata_file("MR_small_jp2klossless.dcm", download=False)))
    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(refuse))
    monkeypatch.setattr("medssl_monai.ingest.dicom_pixels._plain", lambda _: None)
    monkeypatch.setattr("medssl_monai.ingest.series_headers.SeriesHeaders.count", lambda *_: 0)  # in this process
    with pytest.raises(NoImagesError, match=r"pip install pylibjpeg-openjpeg") as caught:
        run(path)
    assert "4711" not in str(caught.value)


def test_damaged_without_preamble(tmp_path: Path, run: Ingest) -> None:
    """A data set without preamble and file meta information is read."""
    hu = phantom(1)
    path = write_series(tmp_path / "made", hu)[0]
    content = path.read_bytes()
    meta_length = int.from_bytes(content[140:144], "little")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bare").write_bytes(content[144 + meta_length :])
    store, _ = run()
    assert np.array_equal(volume(store), hu)
