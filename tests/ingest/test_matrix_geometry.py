"""Rows 1 to 12 and 29 to 32 of the ingestion matrix: order, gaps, tilt, frames, planes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl_monai.ingest import IngestSummary
from tests.ingest.dicom_fixtures import axial_positions, dataset, phantom, write, write_series
from tests.ingest.enhanced_fixtures import write_enhanced
from tests.ingest.matrix import TEST_FILES, Bench, Case, cases, flags, judged, real, row, stored, volume


@row(1, accepted=6)
def shuffled_names(bench: Bench) -> IngestSummary:
    hu, names = phantom(), [f"IM{i}" for i in (3, 0, 5, 1, 4, 2)]
    write_series(bench.source, hu, names=names)
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    assert flags(store) == set()
    return summary


@row(2, accepted=6)
def instance_numbers_lie(bench: Bench) -> IngestSummary:
    hu, positions = phantom(), axial_positions(6)
    for i, number in enumerate((None, 7, 7, -3, 1, None)):
        write(dataset(stored(hu[i]), position=positions[i], name=i, number=number), bench.source / str(i))
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    return summary


@row(3, accepted=5)
def inner_slice_missing(bench: Bench) -> IngestSummary:
    hu = phantom()
    write_series(bench.source, hu)[3].unlink()
    store, summary = bench.run()
    assert np.array_equal(volume(store), np.delete(hu, 3, 0))
    assert flags(store) == {"gap"}
    return summary


@row(4, accepted=5)
def end_slice_missing(bench: Bench) -> IngestSummary:
    """Known only where ImagesInAcquisition says how many there were."""
    hu = phantom()
    write_series(bench.source, hu, ImagesInAcquisition=6)
    assert flags(bench.run()[0]) == set()
    (bench.source / "005.dcm").unlink()
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu[:5])
    assert flags(store) == {"incomplete"}
    return summary


@row(5, repaired=7)
def same_bytes_twice(bench: Bench) -> IngestSummary:
    hu = phantom()
    paths = write_series(bench.source, hu)
    (bench.source / "copy").write_bytes(paths[2].read_bytes())
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    assert summary.verdicts[0].repairs == ("dropped 1 copy of images",)
    return summary


@row(6, repaired=12, AMBIGUOUS_POSITIONS=12)
def same_positions_other_content(bench: Bench) -> IngestSummary:
    """Two phases that a tag tells apart are split; two that nothing tells apart are rejected."""
    for series, tag in (("phases", "AcquisitionNumber"), ("tangled", None)):
        for phase in (1, 2):
            hu = phantom(seed=phase)
            for i, position in enumerate(axial_positions(6)):
                tags: dict[str, Any] = {tag: phase} if tag else {}
                image = dataset(stored(hu[i]), position=position, series=series, name=(phase, i), **tags)
                write(image, bench.source / series / f"{phase}-{i}")
    store, summary = bench.run()
    found = sorted((store.read_series(series) for series in store.series_ids), key=lambda one: int(one.sum()))
    expected = sorted((phantom(seed=phase) for phase in (1, 2)), key=lambda one: int(one.sum()))
    assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))
    assert flags(store) == {"split"}
    return summary


@row(7, accepted=6, repaired=1)
def gantry_tilt(bench: Bench) -> IngestSummary:
    """The tilt tag says 0 and the positions are sheared; and a real slice of a tilted gantry."""
    write_series(bench.source, phantom(), positions=[(0, 0.8 * i, 2.5 * i) for i in range(6)], GantryDetectorTilt=0)
    store, summary = bench.run(bench.source, real("J2K_pixelrep_mismatch.dcm"))
    made, single = (store.select([["rows", op, 512]])[0] for op in ("<", "=="))
    assert "gantry_tilt" in made["flags"]
    assert np.allclose(np.reshape(made["affine"], (4, 4))[:3, 2], (0, -0.8, 2.5))
    assert single["plane"] == "axial"
    # The rows' direction is (0, 0.9272, -0.3746) in LPS, so that its y is turned in RAS.
    assert np.allclose(np.reshape(single["affine"], (4, 4))[:3, 1], np.array([0, -0.9272, -0.3746]) * 0.431)
    return summary


@row(8, accepted=6)
def variable_spacing(bench: Bench) -> IngestSummary:
    z = [0, 2.5, 5, 7.5, 12.5, 17.5]
    write_series(bench.source, phantom(), positions=[(0, 0, value) for value in z], number=None)
    store, summary = bench.run()
    assert flags(store) == {"variable_spacing"}
    assert [found["slice_spacing_mm"] for found in store.select()] == [2.5, 2.5, 2.5, 5, 5, 5]
    return summary


@row(9, accepted=6)
def rounding_jitter(bench: Bench) -> IngestSummary:
    hu, draw = phantom(), np.random.default_rng(0)
    for i, position in enumerate(axial_positions(6)):
        tilt = draw.normal(0, 1e-4)
        orientation = (np.cos(tilt), np.sin(tilt), 0, -np.sin(tilt), np.cos(tilt), 0)
        image = dataset(stored(hu[i]), position=position + draw.normal(0, 0.01, 3), orientation=orientation, name=i)
        write(image, bench.source / str(i))
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    assert flags(store) == set()
    return summary


@row(10, accepted=2, repaired=1, NOT_HOUNSFIELD=1)
def enhanced(bench: Bench) -> IngestSummary:
    """Frames in any order, rescaled each by its own group; parallel stacks are parted; perfusion maps are not HU."""
    hu = phantom(6)
    slopes, order = [1, 2, 4, 1, 2, 4], [4, 0, 5, 2, 1, 3]
    hu -= hu % 4
    frames = np.stack([(hu[i].astype(int) + 1024) // slopes[i] for i in range(6)])
    positions = axial_positions(6)
    write_enhanced(bench.source / "ct", frames[order], [positions[i] for i in order], slopes=[slopes[i] for i in order])
    store, _ = bench.run()
    assert np.array_equal(volume(store), hu)
    first = store.select()[0]
    assert (first["slice_spacing_mm"], first["window_level"], first["kernel"]) == (2.5, 40, "B30f")
    assert (first["spacing_row_mm"], first["spacing_column_mm"], first["flags"]) == (0.7, 0.9, "")
    assert np.allclose(np.reshape(first["affine"], (4, 4))[:3, 3], (120, 90, 35))
    # Two interleaved stacks are two series, and one file.
    interleaved = [[0, 0, 1.25 * i] for i in range(6)]
    write_enhanced(bench.source / "two", stored(hu), interleaved, stacks=["1", "2"] * 3, series="two")
    store, summary = bench.run(bench.source, real("emri_small.dcm"), real("eCT_Supplemental.dcm"))
    lengths = sorted(len(store.read_series(series)) for series in store.series_ids)
    assert lengths == [3, 3, 6, 10]
    assert (store.read_series(store.select([["modality", "==", "MR"]])[0]["series_id"]) >= 0).all()
    return summary


@row(11, repaired=1)
def mixed_orientations(bench: Bench) -> IngestSummary:
    hu = phantom(6, 16, 16)
    orientations = [(1, 0, 0, 0, 1, 0)] * 3 + [(0, 1, 0, 0, 0, -1)] * 3
    positions = [[0, 0, 2.5 * i] for i in range(3)] + [[2.5 * i, 0, 0] for i in range(3)]
    write_enhanced(bench.source / "mixed", stored(hu), positions, orientations=orientations)
    store, summary = bench.run()
    assert sorted(store.select([["slice", "==", 0]])[i]["plane"] for i in range(2)) == ["axial", "sagittal"]
    assert flags(store) == {"split"}
    assert sorted(verdict.files for verdict in summary.verdicts) == [0, 1]
    return summary


@row(12, accepted=11, LOCALIZER=3)
def localizers(bench: Bench) -> IngestSummary:
    """In the middle of a series, and as a real series of its own."""
    hu = phantom()
    write_series(bench.source, hu)
    scout = dataset(np.zeros((20, 16), np.uint16), name="scout", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write(scout, bench.source / "scout")
    store, summary = bench.run(bench.source, TEST_FILES / "dicomdirtests" / "98892001")
    assert sorted(len(store.read_series(series)) for series in store.series_ids) == [5, 6]
    return summary


@row(29, accepted=6, repaired=12)
def one_uid_several_series(bench: Bench) -> IngestSummary:
    """One series over two folders, and two spacings under one SeriesInstanceUID in one folder."""
    hu = phantom()
    paths = write_series(bench.source / "a", hu)
    (bench.source / "b").mkdir()
    for path in paths[3:]:
        path.rename(bench.source / "b" / path.name)
    for spacing in ((0.7, 0.9), (0.5, 0.5)):
        for i, position in enumerate(axial_positions(6)):
            image = dataset(stored(hu[i]), position=position, series="two", name=(spacing, i), spacing=spacing)
            write(image, bench.source / "a" / f"{spacing[0]}-{i}")
    store, summary = bench.run()
    assert all(np.array_equal(store.read_series(series), hu) for series in store.series_ids)
    assert sorted({found["spacing_row_mm"] for found in store.select()}) == [0.5, 0.7]
    return summary


@row(30, accepted=6)
def no_position(bench: Bench) -> IngestSummary:
    hu = phantom()
    for i in range(6):
        lost: dict[str, Any] = {"position": None, "orientation": None, "spacing": None}
        image = dataset(stored(hu[i]), name=i, number=i, ImagerPixelSpacing=[0.2, 0.3], **lost)
        write(image, bench.source / str(9 - i))
    store, summary = bench.run()
    assert np.array_equal(volume(store), hu)
    first = store.select()[0]
    assert (first["affine"], first["z_mm"], first["spacing_row_mm"]) == (None, None, 0.2)
    assert flags(store) == {"no_geometry", "spacing_from_imager"}
    return summary


@row(31, accepted=24)
def planes(bench: Bench) -> IngestSummary:
    """Sagittal, coronal, oblique, feet first: each voxel where the patient has it, by the affine."""
    slanted = (np.cos(0.9), 0, np.sin(0.9), 0, 1, 0)
    wanted = {
        "sagittal": (0, 1, 0, 0, 0, -1),
        "coronal": (1, 0, 0, 0, 0, -1),
        "oblique": slanted,
        "axial": (-1, 0, 0, 0, 1, 0),
    }
    hu, origin = phantom(), np.array([-20.0, 30.0, -50.0])
    for plane, orientation in wanted.items():
        normal = np.cross(orientation[:3], orientation[3:])
        for i in range(6):
            image = dataset(
                stored(hu[i]), position=origin + 2.5 * i * normal, orientation=orientation, series=plane, name=i
            )
            write(image, bench.source / plane / str(i))
    store, summary = bench.run()
    assert {found["plane"] for found in store.select()} == set(wanted)
    for found in store.select([["slice", "==", 0]]):
        columns, rows = np.array(wanted[found["plane"]][:3]), np.array(wanted[found["plane"]][3:])
        back, pixels = np.linalg.inv(np.reshape(found["affine"], (4, 4))), store.read_series(found["series_id"])
        for i, r, c in [(0, 0, 0), (5, 19, 15), (2, 7, 4)]:
            lps = origin + 2.5 * i * np.cross(columns, rows) + rows * 0.7 * r + columns * 0.9 * c
            x, y, z, _ = np.rint(back @ [-lps[0], -lps[1], lps[2], 1]).astype(int)
            assert pixels[z, y, x] == hu[i, r, c], found["plane"]
    return summary


@row(32, accepted=4)
def shapes(bench: Bench) -> IngestSummary:
    """Non-square matrix and pixels, 256 to 1024, single slices."""
    for height, width in ((41, 12), (256, 256), (512, 300), (1024, 1024)):
        write_series(bench.source / f"{height}x{width}", phantom(1, height, width), series=f"{height}x{width}")
    store, summary = bench.run()
    for found in store.select():
        assert np.array_equal(store.read(found["series_id"], 0), phantom(1, found["rows"], found["columns"])[0])
    assert {found["rows"] for found in store.select()} == {41, 256, 512, 1024}
    return summary


@pytest.mark.parametrize("case", cases(globals()), ids=lambda case: case.name)
def test_row(case: Case, tmp_path: Path) -> None:
    assert judged(case.check(Bench(tmp_path))) == case.expected
