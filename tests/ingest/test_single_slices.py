"""Series of one slice each: the summary says where they would be one stack, and only there."""

from __future__ import annotations

from pathlib import Path

import pytest

from medssl_monai.ingest.where import whereabouts
from tests.ingest.conftest import Ingest
from tests.ingest.dicom_fixtures import axial_positions, phantom, uid, write_series


def write_one_each(folder: Path, positions: list[list[float]], **tags: object) -> None:
    for number, position in enumerate(positions):
        write_series(
            folder,
            phantom(1, seed=number),
            positions=[position],
            names=[f"{number}.dcm"],
            series=f"series {number}",
            StudyInstanceUID=uid("study", number),
            number=number,
            SOPInstanceUID=uid("image", number),
            **tags,
        )


@pytest.mark.parametrize("tags", [{}, {"PatientID": None}])
def test_one_stack_with_a_series_uid_a_slice(run: Ingest, tmp_path: Path, tags: dict[str, object]) -> None:
    write_one_each(tmp_path / "in" / "stack", axial_positions(5), **tags)
    write_series(tmp_path / "in" / "whole", phantom(5, seed=9), series="whole")
    for _ in range(2):  # and again, when all is stored
        store, summary = run(names=True)
        assert len(store.series_ids) == 6
        (sentence,) = summary.statements
        assert sentence.startswith("one_slice_each: 5 series")
        assert sentence in str(summary)
        folder = sentence.split("folder ")[1].split()[0]
        assert {one.path for one in whereabouts(store, folder, summary.names)} == {str(tmp_path / "in" / "stack")}


@pytest.mark.parametrize("places", [[0.0, 2.0], [0.0, 0.0, 2.0], [0.0, 2.0, 30.0, 31.0, 90.0]])
def test_other_single_slices_say_nothing(run: Ingest, tmp_path: Path, places: list[float]) -> None:
    write_one_each(tmp_path / "in", [[-120.0, -90.0, z] for z in places])
    assert run()[1].statements == ()


def test_series_that_are_numbered_apart_say_nothing(run: Ingest, tmp_path: Path) -> None:
    for number, position in enumerate(axial_positions(4)):
        write_one_each(tmp_path / "in" / str(number), [position])
    write_series(tmp_path / "in" / "b", phantom(4), series="b")
    assert run()[1].statements == ()
