"""Ingestion from a real PACS: Orthanc with its DICOMweb plug-in, started on loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.ingest import Reason, SliceStore, build_store
from medssl_monai.ingest.sources.dicomweb import PacsSeries, PacsSource
from tests.ingest.dicom_fixtures import KEY, dataset, phantom, tree_bytes, uid, write, write_series
from tests.ingest.matrix import judged
from tests.loopback import PASSWORD, REASON, USER, WITHOUT_ORTHANC, free_port, running_orthanc

pytestmark = [
    pytest.mark.pacs,
    pytest.mark.skipif(WITHOUT_ORTHANC, reason=REASON),
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two CT studies of different dates and parts, one of them with an MR series; and a structured report."""
    folder = tmp_path_factory.mktemp("studies")
    write_series(folder / "a", phantom(seed=1), series="a", StudyInstanceUID=uid("s1"), StudyDate="20240105")
    tags: dict[str, Any] = {"StudyInstanceUID": uid("s2"), "StudyDate": "20250301", "PatientID": "PLANTED-ID-2"}
    write_series(folder / "b", phantom(seed=2), series="b", BodyPartExamined="HEAD", **tags)
    mr = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4", "Modality": "MR", **tags}
    write_series(folder / "c", phantom(seed=3), series="c", **mr)
    report = dataset(
        phantom()[0], series="d", **{**tags, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.67", "Modality": "SR"}
    )
    write(report, folder / "d" / "report")
    return folder


@pytest.fixture(scope="module")
def address(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server with those files; it asks for a password."""
    sent = sorted(path for path in files.rglob("*") if path.is_file())
    with running_orthanc(tmp_path_factory.mktemp("orthanc"), sent) as found:
        yield found


@pytest.fixture
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDSSL_DICOMWEB_USER", USER)
    monkeypatch.setenv("MEDSSL_DICOMWEB_PASSWORD", PASSWORD)


@pytest.mark.usefixtures("credentials")
def test_the_same_store_as_from_files(address: str, files: Path, tmp_path: Path) -> None:
    """But for where the images came from; and the second run fetches nothing that is stored."""
    summary = build_store([PacsSource(address)], tmp_path / "pacs", key=KEY, progress=False)
    assert judged(summary) == {"accepted": 18, "NOT_AN_IMAGE": 1}
    build_store([files], tmp_path / "files", key=KEY, progress=False)
    pacs, plain = SliceStore(tmp_path / "pacs"), SliceStore(tmp_path / "files")
    assert pacs.series_ids == plain.series_ids
    for mine, yours in zip(pacs.select(), plain.select(), strict=True):
        assert {**mine, "source_id": ""} == {**yours, "source_id": ""}
        assert np.array_equal(
            pacs.read(mine["series_id"], mine["slice"]), plain.read(yours["series_id"], yours["slice"])
        )
    assert not list(pacs.path.glob(".draft*"))
    contents = b"".join([*tree_bytes(pacs.path).values(), *(name.encode() for name in tree_bytes(pacs.path))])
    for planted in (b"PLANTED", b"Plantedname", uid("a").encode(), uid("s1").encode(), PASSWORD.encode(), b"127.0.0.1"):
        assert planted not in contents


@pytest.mark.usefixtures("credentials")
def test_resumes_without_fetching_again(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []
    retrieve = PacsSource.retrieve

    def counted(self: PacsSource, series: PacsSeries, folder: Path) -> Any:
        if len(fetched) == 2:
            raise KeyboardInterrupt
        fetched.append(series.series_uid)
        return retrieve(self, series, folder)

    monkeypatch.setattr(PacsSource, "retrieve", counted)
    monkeypatch.setattr("medssl_monai.ingest.pacs.PACS_BATCH", 1)
    with pytest.raises(KeyboardInterrupt):
        build_store(
            [PacsSource(address, {"Modality": "CT"}), PacsSource(address)], tmp_path / "store", key=KEY, progress=False
        )
    first = list(fetched)
    fetched.clear()

    def noted(self: PacsSource, series: PacsSeries, folder: Path) -> Any:
        fetched.append(series.series_uid)
        return retrieve(self, series, folder)

    monkeypatch.setattr(PacsSource, "retrieve", noted)
    summary = build_store([PacsSource(address)], tmp_path / "store", key=KEY, progress=False)
    assert set(first) == {uid("a"), uid("b")}
    # The report is no image, so that nothing of it is stored; the rest is new.
    assert set(fetched) == {uid("c"), uid("d")}
    assert judged(summary) == {"accepted": 18, "NOT_AN_IMAGE": 1}
    build_store([PacsSource(address)], tmp_path / "whole", key=KEY, progress=False)
    assert tree_bytes(tmp_path / "store") == tree_bytes(tmp_path / "whole")


@pytest.mark.usefixtures("credentials")
@pytest.mark.parametrize(
    ("query", "series"),
    [
        ({"Modality": "MR"}, {"c"}),
        ({"StudyDate": "20240101-20241231"}, {"a"}),
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, {"b"}),
    ],
)
def test_queries(address: str, query: dict[str, str], series: set[str]) -> None:
    assert {one.series_uid for one in PacsSource(address, query).series()} == {uid(name) for name in series}


def test_wrong_password_and_no_answer(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match=r"status 401.*MEDSSL_DICOMWEB_USER"):
        build_store([PacsSource(address)], tmp_path / "store", key=KEY, progress=False)
    monkeypatch.setattr("medssl_monai.ingest.sources.dicomweb.ATTEMPTS", 1)
    with pytest.raises(InputError, match="QIDO-RS did not answer"):
        list(PacsSource(f"http://127.0.0.1:{free_port()}/dicom-web").series())


@pytest.mark.usefixtures("credentials")
def test_series_that_does_not_come(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more image is listed than the server has: asked again, then a verdict; the next run completes it."""
    monkeypatch.setattr("medssl_monai.ingest.sources.dicomweb.SECONDS_BEFORE_RETRY", 0)
    listed = PacsSource._instances

    def one_more(self: PacsSource, client: Any, study: str, series: str) -> tuple[str, ...]:
        return (*listed(self, client, study, series), *(("1.2.3",) if series == uid("a") else ()))

    monkeypatch.setattr(PacsSource, "_instances", one_more)
    summary = build_store([PacsSource(address, {"Modality": "CT"})], tmp_path / "store", key=KEY, progress=False)
    assert judged(summary) == {"accepted": 6, Reason.NOT_RETRIEVED.value: 7}
    monkeypatch.undo()
    for name, value in (("USER", USER), ("PASSWORD", PASSWORD)):
        monkeypatch.setenv(f"MEDSSL_DICOMWEB_{name}", value)
    assert (
        build_store([PacsSource(address, {"Modality": "CT"})], tmp_path / "store", key=KEY, progress=False).added == 1
    )
    build_store([PacsSource(address, {"Modality": "CT"})], tmp_path / "whole", key=KEY, progress=False)
    assert tree_bytes(tmp_path / "store") == tree_bytes(tmp_path / "whole")
    with pytest.raises(NoImagesError, match="among 0 files"):
        build_store([PacsSource(address, {"Modality": "XA"})], tmp_path / "none", key=KEY, progress=False)
    assert os.environ["MEDSSL_DICOMWEB_USER"] == USER
