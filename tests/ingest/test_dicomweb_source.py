"""What holds of a DICOMweb source without any server: secrets do not travel in the open, certificates are verified."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from medssl_monai.errors import InputError
from medssl_monai.ingest.pacs import CONNECTIONS, fetch_ahead
from medssl_monai.ingest.sources.dicomweb import (
    PacsSeries,
    PacsSource,
    is_dicomweb,
    parse_query,
)
from medssl_monai.ingest.sources.paths import SourceFile
from medssl_monai.store.verdicts import Reason, RejectedError

pytest.importorskip("dicomweb_client", reason="needs the extra dicomweb")


def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_dicomweb("https://pacs.example/dicom-web")
    assert not is_dicomweb("folder")
    assert not is_dicomweb(Path("https://pacs.example"))
    with pytest.raises(InputError, match="MEDSSL_DICOMWEB_USER") as caught:
        PacsSource("https://me:secret@pacs.example/dicom-web")
    assert "secret" not in str(caught.value)
    monkeypatch.setenv("MEDSSL_DICOMWEB_TOKEN", "secret")
    with pytest.raises(InputError, match="unencrypted"):
        PacsSource("http://pacs.example/dicom-web")
    PacsSource("http://127.0.0.1:1/dicom-web")


def test_queries() -> None:
    assert parse_query(["StudyDate=20240101-", "BodyPartExamined=CHEST"], "CT") == {
        "Modality": "CT",
        "StudyDate": "20240101-",
        "BodyPartExamined": "CHEST",
    }
    for wrong in ("StudyDate", "NoKeyword=1", "StudyDate="):
        with pytest.raises(InputError, match="must be KEYWORD=VALUE"):
            parse_query([wrong])


def test_certificates_are_verified_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "https://pacs.example/dicom-web"
    assert PacsSource(source)._client()._session.verify is True
    assert PacsSource(source, verify_tls=False)._client()._session.verify is False
    monkeypatch.setenv("MEDSSL_DICOMWEB_CA", "/etc/hospital.pem")
    assert PacsSource(source)._client()._session.verify == "/etc/hospital.pem"


class Hesitant(BaseHTTPRequestHandler):
    """Says twice that it is busy, then that it has nothing."""

    asked: list[str] = []  # noqa: RUF012  one server a test

    def do_GET(self) -> None:
        self.asked.append(self.headers.get("Authorization", ""))
        busy = len(self.asked) < 3
        self.send_response(503 if busy else 200)
        self.send_header("Content-Type", "application/dicom+json")
        body = b"" if busy else b"[]"
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hesitant() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Hesitant)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/dicom-web"
    server.shutdown()
    thread.join()
    server.server_close()


def test_busy_servers_are_asked_again(hesitant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.ingest.sources.dicomweb.SECONDS_BEFORE_RETRY", 0.01)
    monkeypatch.setenv("MEDSSL_DICOMWEB_TOKEN", "secret")
    assert list(PacsSource(hesitant).series()) == []
    assert Hesitant.asked == ["Bearer secret"] * 3


class Slow(PacsSource):
    """Takes a while for each series, and cannot give some."""

    def retrieve(self, series: PacsSeries, folder: Path) -> list[SourceFile]:
        with LOCK:
            RUNNING.append(series.series_uid)
            MOST.append(len(RUNNING))
        time.sleep(0.1)
        with LOCK:
            RUNNING.remove(series.series_uid)
        if series.series_uid in ("3", "5"):
            raise RejectedError(Reason.NOT_RETRIEVED, "no")
        return [SourceFile(folder / "0", folder / "0")]


LOCK, RUNNING, MOST = threading.Lock(), list[str](), list[int]()


def test_some_series_are_fetched_at_once_in_order(tmp_path: Path) -> None:
    asked = []

    def wanted() -> Iterator[tuple[PacsSeries, Path]]:
        for number in range(12):
            asked.append(number)
            yield PacsSeries("study", str(number), "CT", ("a",)), tmp_path / str(number)

    found = []
    for series, folder, files in fetch_ahead(Slow("https://pacs.example"), wanted()):
        found.append(series.series_uid)
        assert len(asked) <= len(found) + CONNECTIONS - 1
        if series.series_uid in ("3", "5"):
            assert isinstance(files, RejectedError)
        else:
            assert files == [SourceFile(folder / "0", folder / "0")]
    assert found == [str(number) for number in range(12)]
    assert max(MOST) == CONNECTIONS


def test_fetching_ends_with_its_user(tmp_path: Path) -> None:
    """Nothing is fetched any more when whoever wanted the series stops."""
    wanted = [(PacsSeries("study", str(number), "CT", ("a",)), tmp_path / str(number)) for number in range(50)]
    with pytest.raises(KeyboardInterrupt), closing(fetch_ahead(Slow("https://pacs.example"), wanted)) as ahead:
        next(ahead)
        raise KeyboardInterrupt
    assert RUNNING == []
