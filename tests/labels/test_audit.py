"""Leak audits: what sets share is found, what they do not share is not, and what cannot be known is said."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medssl_monai.classify.audited import audit
from medssl_monai.cli import audit as audit_verb
from medssl_monai.errors import InputError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.lookup import find_series
from medssl_monai.labels.near_duplicates import close_hashes
from tests.ingest.dicom_fixtures import KEY, anatomy, uid, write_series


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 2**64 - 1), max_size=20),
    st.lists(st.integers(0, 2**64 - 1), max_size=20),
    st.lists(st.tuples(st.integers(0, 19), st.integers(0, 2**64 - 1)), max_size=10),
    st.integers(0, 15),
)
def test_close_hashes_by_brute_force(
    first: list[int], second: list[int], changes: list[tuple[int, int]], distance: int
) -> None:
    # Sparse changes of members of the first make near pairs likely.
    second = second + [first[i] ^ (mask & mask >> 3 & mask >> 7) for i, mask in changes if i < len(first)]
    expected = {
        (i, j, (a ^ b).bit_count())
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if (a ^ b).bit_count() <= distance
    }
    found = list(close_hashes(np.array(first, np.uint64), np.array(second, np.uint64), distance))
    assert len(found) == len(set(found))
    assert set(found) == expected


def test_distance_out_of_range() -> None:
    with pytest.raises(InputError, match="0 to 15 bits, found 16"):
        list(close_hashes(np.zeros(1, np.uint64), np.zeros(1, np.uint64), 16))
    with pytest.raises(InputError, match="found none"):
        audit([])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two stores that share the patient A; and a table of the second."""
    for store, patients in (("pre", "AB"), ("few", "ACD")):
        for patient in patients:
            name = f"{store}{patient}"
            hu = anatomy(10 * ord(patient) + (store == "few"), 4)
            write_series(tmp_path / store / name, hu, series=name, PatientID=patient)
        build_store([tmp_path / store], tmp_path / f"{store}.store", key=KEY, progress=False)
    few = SliceStore(tmp_path / "few.store")
    ids = [find_series(few, uid(f"few{patient}"), KEY) for patient in "ACD"]
    rows = [f"{name},x,{split}" for name, split in zip(ids, ("train", "test", "validation"), strict=True)]
    (tmp_path / "labels.csv").write_text("source,label,split\n" + "\n".join(rows))
    return tmp_path


def test_shared_patients(folder: Path) -> None:
    report = audit([folder / "pre.store", folder / "labels.csv"], store=folder / "few.store")
    assert [(one.name, one.kind, one.patients) for one in report.sets] == [
        ("pre.store", "pre-training", 2),
        ("test", "test", 1),
        ("train", "train", 1),
        ("validation", "validation", 1),
    ]
    assert [(one.first, one.second, one.what, one.harmless) for one in report.shared] == [
        ("pre.store", "train", "patients", True)
    ]
    assert not report.leaks
    whole = audit([folder / "pre.store", folder / "few.store"])
    assert whole.shared[0].names == report.shared[0].names


def test_patient_in_pre_training_and_test_is_a_leak(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",train", ",T").replace(",test", ",train").replace(",T", ",test"))
    assert audit([folder / "pre.store", table], store=folder / "few.store").leaks


def test_table_that_contradicts_itself_is_reported(folder: Path) -> None:
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join([*lines, lines[1].replace("train", "test")]))
    report = audit([folder / "labels.csv", folder / "pre.store"], store=folder / "few.store", key=KEY)
    assert report.leaks
    assert "the series is in the split" in report.refusals[0]


def test_stores_of_different_keys(folder: Path) -> None:
    build_store([folder / "pre"], folder / "other.store", key=b"another key of 16 bytes", progress=False)
    report = audit([folder / "pre.store", folder / "other.store"])
    assert any("different keys" in sentence for sentence in report.statements)
    # The pictures are the same, and say so.
    assert {(one.distance, one.correlation) for one in report.near_duplicates} >= {(0, 1.0)}


def test_command(folder: Path) -> None:
    (folder / "key").write_bytes(KEY)
    app = typer.Typer()
    app.command()(audit_verb.run)
    arguments = [str(folder / name) for name in ("pre.store", "labels.csv")]
    options = [
        "--store",
        str(folder / "few.store"),
        "--key",
        str(folder / "key"),
        "--out",
        str(folder / "o" / "a.json"),
    ]
    result = CliRunner().invoke(app, arguments + options, standalone_mode=False)
    assert (result.return_value, result.exception) == (0, None)
    assert "no leak found" in result.output
    written = json.loads((folder / "o" / "a.json").read_text())
    assert written["leaks"] is False
    assert len(written["sets"]) == 4
    result = CliRunner().invoke(app, [*arguments, *options, "--json"], standalone_mode=False)
    assert json.loads(result.output) == written


def test_what_cannot_be_checked_is_no_leak(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "broken.csv").write_text("source\nx\n")
    for name in ("nosuch.csv", "broken.csv"):
        assert audit_verb.run([folder / name]) == 2
        said = capsys.readouterr()
        assert "no leak found in what could be checked" in said.out
        assert "not checked: " in said.err
        assert name in said.err
    assert audit_verb.run([folder / "nosuch.csv", folder / "pre.store", folder / "few.store"]) == 2
    # A leak in the rest is one all the same.
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",train", ",T").replace(",test", ",train").replace(",T", ",test"))
    assert audit_verb.run([folder / "nosuch.csv", folder / "pre.store", table], store=folder / "few.store") == 1


def test_one_slice_in_two_classes_of_a_split(tmp_path: Path) -> None:
    """Patients with two identifiers, and two labels, within the training set."""
    for patient in "AB":
        write_series(tmp_path / "in" / patient, anatomy(7, 4), series=patient, PatientID=patient)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    ids = [find_series(SliceStore(tmp_path / "store"), uid(patient), KEY) for patient in "AB"]
    table = tmp_path / "labels.csv"
    for labels, leaks in (("xy", True), ("xx", False)):
        rows = [f"{name},{label},train" for name, label in zip(ids, labels, strict=True)]
        table.write_text("source,label,split\n" + "\n".join(rows))
        report = audit([table], store=tmp_path / "store", key=KEY)
        assert report.leaks == leaks
        found = [(one.first, one.second, one.first_label, one.second_label, one.kind) for one in report.near_duplicates]
        assert found == [("train", "train", "x", "y", "the same pixels")] * leaks


def test_a_table_of_several_labels_is_audited(folder: Path) -> None:
    table = folder / "labels.csv"
    table.write_text(table.read_text().replace(",x,", ",x|y,"))
    report = audit([table], store=folder / "few.store", key=KEY)
    assert (report.exit_code, report.sets[0].classes) == (0, {"x|y": 4})
