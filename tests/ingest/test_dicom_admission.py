"""Which DICOM files are not taken, and why: rows of the ingestion matrix on files made for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.dataelem import DataElement

from medssl_monai.errors import NoImagesError
from medssl_monai.ingest import Outcome, Reason
from tests.ingest.conftest import Ingest, rejections, volume
from tests.ingest.dicom_fixtures import axial_positions, dataset, phantom, write, write_series
from tests.ingest.enhanced_fixtures import write_enhanced


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


XRAY = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1.1", "PhotometricInterpretation": "MONOCHROME1"}


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [
        ("InstanceNumber", "99999999999999999999", None),
        ("InstanceNumber", "-99999999999999999999", None),
        ("ImagesInAcquisition", "1e300", None),
        ("BitsStored", "65535", None),
        ("BitsStored", "-1", None),
        ("BitsStored", "2147483648", None),
        ("Rows", "2147483648", Reason.UNREADABLE),
        ("Rows", "-1", Reason.UNREADABLE),
        ("Columns", "9007199254740992", Reason.UNREADABLE),
    ],
)
@pytest.mark.parametrize("tags", [{}, XRAY], ids=["ct", "x-ray"])
def test_numbers_that_no_tag_holds(
    tmp_path: Path, run: Ingest, tag: str, value: str, reason: Reason | None, tags: dict[str, Any]
) -> None:
    """One bad file never ends a run: neither of its own series nor of another is anything lost."""
    hu = phantom()
    write_series(tmp_path / "in" / "good", hu, series="good")
    for path in write_series(tmp_path / "in" / "odd", hu, series="odd", **tags)[:2]:
        image = pydicom.dcmread(path)
        image[tag] = DataElement(tag, "LO", value)
        write(image, path)
    store, summary = run()
    assert sorted(len(store.read_series(series_id)) for series_id in store.series_ids) == [4 if reason else 6, 6]
    assert set(rejections(summary)) == ({reason} if reason else set())


@pytest.mark.parametrize("described", [True, False])
def test_frames_that_are_not_there(tmp_path: Path, run: Ingest, described: bool) -> None:
    """An enhanced object of some kB that claims millions of frames is refused at once."""
    hu = phantom()
    write_series(tmp_path / "in" / "good", hu)
    path = write_enhanced(tmp_path / "in" / "odd", (hu.astype(int) + 1024).astype(np.uint16), axial_positions(6))
    image = pydicom.dcmread(path)
    image.NumberOfFrames = 30_000_000
    if not described:
        del image.PerFrameFunctionalGroupsSequence
    write(image, path)
    store, summary = run()
    assert np.array_equal(volume(store), hu)
    assert rejections(summary) == {Reason.UNREADABLE: 1}


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


def test_missing_decoder_is_named(tmp_path: Path, run: Ingest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Row 22."""

    def refuse(*_: Any) -> None:
        raise RuntimeError("no plug-in; PLANTED-ID-4711")

    path = Path(str(get_testdata_file("MR_small_jp2klossless.dcm", download=False)))
    monkeypatch.setattr(pydicom.dataset.Dataset, "pixel_array", property(refuse))
    monkeypatch.setattr("medssl_monai.ingest.dicom.pixels.plain", lambda _: None)
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
