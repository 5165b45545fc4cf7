"""Which DICOM files become which series, and in which order: rows of the ingestion matrix on files made for them."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import Outcome, Reason, build_store
from tests.ingest.conftest import Ingest, only, rejections, volume
from tests.ingest.dicom_fixtures import KEY, axial_positions, dataset, phantom, tree_bytes, uid, write, write_series


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 10**6))
def test_names_and_numbers_do_not_matter(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    """Rows 1 and 2: shuffled names without extension; InstanceNumber missing, doubled, negative."""
    tmp_path = tmp_path_factory.mktemp("shuffle")
    hu, draw = phantom(seed=seed), random.Random(seed)
    write_series(tmp_path / "in", hu)
    build_store([tmp_path / "in"], tmp_path / "plain", key=KEY, progress=False)
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
    build_store([tmp_path / "in"], tmp_path / "shuffled", key=KEY, progress=False)
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


def write_twice(folder: Path, tag: str, values: tuple[Any, Any], name: str) -> list[NDArray[np.int16]]:
    """Two volumes at the same positions, told apart by a tag alone; `name` has places for volume and slice."""
    volumes = [phantom(seed=1), phantom(seed=2)]
    for number, (value, hu) in enumerate(zip(values, volumes, strict=True)):
        stored = (hu.astype(int) + 1024).astype(np.uint16)
        for i, position in enumerate(axial_positions(6)):
            image = dataset(stored[i], position=position, name=(value, i), **{tag: value})
            write(image, folder / name.format(number, i))
    return volumes


@pytest.mark.parametrize(
    ("tag", "values"), [("AcquisitionNumber", (1, 2)), ("ConvolutionKernel", ("B30f", "B70s")), ("EchoNumbers", (1, 2))]
)
def test_two_acquisitions_are_split(tmp_path: Path, run: Ingest, tag: str, values: tuple[Any, Any]) -> None:
    """Row 6: the same positions twice, told apart by a tag."""
    volumes = write_twice(tmp_path / "in", tag, values, "{}-{}")
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


def write_between(folder: Path, first: dict[str, Any], second: dict[str, Any], offset: float) -> list[NDArray[Any]]:
    """Two volumes of 2.5 mm, the second so many mm further, so that no two positions are the same."""
    volumes = [phantom(seed=1), phantom(seed=2)]
    for number, (hu, tags) in enumerate(zip(volumes, (first, second), strict=True)):
        stored = (hu.astype(int) + 1024).astype(np.uint16)
        for i in range(6):
            position = [-120.0, -90.0, 2.5 * i + number * offset]
            write(dataset(stored[i], position=position, name=(number, i), **tags), folder / f"{number}-{i}")
    return volumes


@pytest.mark.parametrize(
    ("first", "second", "offset"),
    [
        ({}, {"ConvolutionKernel": "B70f"}, 1.25),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "AXIAL", "AVERAGE"]}, 1.25),
        ({"KVP": 80}, {"KVP": 140}, 0.3),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, 0.3),
        ({"AcquisitionNumber": 1}, {"AcquisitionNumber": 2}, 1.25),
    ],
)
def test_stacks_between_one_another_are_split(
    tmp_path: Path, run: Ingest, first: dict[str, Any], second: dict[str, Any], offset: float
) -> None:
    """Row 6: never interleaved, also where no two images share a position."""
    volumes = write_between(tmp_path / "in", first, second, offset)
    store, summary = run()
    found = [store.read_series(series_id) for series_id in store.series_ids]
    assert sorted(map(np.ndarray.tobytes, found)) == sorted(map(np.ndarray.tobytes, volumes))
    assert all(verdict.flags == ("split",) for verdict in summary.verdicts)


def test_thin_and_thick_stacks_are_split(tmp_path: Path, run: Ingest) -> None:
    """Row 6: of other spacing, one of them with a slice missing."""
    thin, thick = phantom(9, seed=1), phantom(4, seed=2)
    z = [float(i) for i in range(10) if i != 4]
    write_series(tmp_path / "in" / "a", thin, positions=[(0, 0, value) for value in z], SliceThickness=1)
    write_series(
        tmp_path / "in" / "b",
        thick,
        positions=[(0, 0, 2.5 * i + 0.3) for i in range(4)],
        SOPInstanceUID=None,
        ConvolutionKernel="B70f",
    )
    store, summary = run()
    assert sorted(len(store.read_series(series_id)) for series_id in store.series_ids) == [4, 9]
    assert sorted(verdict.flags for verdict in summary.verdicts) == [("gap", "split"), ("split",)]


ONE_STACK: dict[str, list[dict[str, Any]]] = {
    "a number for each slice": [{"AcquisitionNumber": i} for i in range(12)],
    "two passes, every other slice": [
        {"AcquisitionNumber": i % 2, "AcquisitionTime": f"10000{i % 2}"} for i in range(12)
    ],
    "step and shoot": [{"AcquisitionNumber": i // 4, "TriggerTime": i // 4} for i in range(12)],
    "half of another kernel": [{"ConvolutionKernel": f"B{30 if i < 6 else 70}f"} for i in range(12)],
    "some slices marked": [{"ImageType": ["ORIGINAL", "PRIMARY", "AB"[i in (4, 5, 9)]]} for i in range(12)],
    "two apart marked": [{"ImageType": ["ORIGINAL", "PRIMARY", "AB"[i in (3, 6)]]} for i in range(12)],
    "values without order": [{"KVP": 119 + value} for value in (0, 1, 1, 2, 2, 0, 1, 2, 0, 0, 0, 2)],
    "an image a value": [{"KVP": 80 + i} for i in range(12)],
}


@pytest.mark.parametrize("name", ONE_STACK)
def test_one_stack_is_not_split(tmp_path: Path, run: Ingest, name: str) -> None:
    """Tags that change along a series without telling two apart."""
    hu = phantom(12)
    stored = (hu.astype(int) + 1024).astype(np.uint16)
    for i, (position, tags) in enumerate(zip(axial_positions(12), ONE_STACK[name], strict=True)):
        write(dataset(stored[i], position=position, name=i, **tags), tmp_path / "in" / str(i))
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert only(summary).flags == ()


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
    write_twice(tmp_path / "in", tag, values, "{}/{}")
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
