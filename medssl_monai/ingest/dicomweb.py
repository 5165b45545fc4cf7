"""Images from a PACS by DICOMweb: series are found by QIDO-RS (PS3.18 10.6) and fetched by WADO-RS (PS3.18 10.4).

Credentials come from the environment: `MEDSSL_DICOMWEB_USER` and `MEDSSL_DICOMWEB_PASSWORD`, or
`MEDSSL_DICOMWEB_TOKEN`. Servers' certificates are verified, against `MEDSSL_DICOMWEB_CA` where that names a file.
Requests that fail for a while are repeated; what a store has already is not fetched again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom.datadict import tag_for_keyword

from medssl_monai.errors import InputError
from medssl_monai.ingest.dicom_tags import quiet, reading
from medssl_monai.ingest.path_lists import SourceFile
from medssl_monai.ingest.pseudonyms import pseudonym, source_id
from medssl_monai.ingest.verdicts import Outcome, Reason, RejectedError, Verdict

__all__ = ["PacsSeries", "PacsSource", "fetch_ahead", "is_dicomweb", "not_retrieved", "parse_query"]

CONNECTIONS = 4
"""Series fetched at once."""

PAGE = 200
ATTEMPTS = 4
SECONDS_BEFORE_RETRY = 1.0
TIMEOUT_SECONDS = (10, 300)
STATUS_TO_RETRY = (429, 500, 502, 503, 504)


def is_dicomweb(source: str | Path) -> bool:
    """Whether a source is a DICOMweb address rather than a path."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def parse_query(pairs: Sequence[str], modality: str | None = None) -> dict[str, str]:
    """``["StudyDate=20240101-"]`` to ``{"StudyDate": "20240101-"}``; the modality is one of them.

    Raises:
        InputError: an item without ``=``, or whose name is no keyword of DICOM's dictionary.
    """
    query = {} if modality is None else {"Modality": modality}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not value or tag_for_keyword(name) is None:
            raise InputError(
                f"query {pair!r}: must be KEYWORD=VALUE with a keyword of DICOM, for instance "
                "StudyDate=20240101-20241231 or BodyPartExamined=CHEST; correct it"
            )
        query[name] = value
    return query


@dataclass(frozen=True)
class PacsSeries:
    """A series as the server lists it; UIDs are real ones, and stay in memory."""

    study_uid: str
    series_uid: str
    modality: str
    instance_uids: tuple[str, ...]


@dataclass(frozen=True)
class PacsSource:
    """A DICOMweb service, and which of its series are wanted.

    Attributes:
        url: of the service, such as https://pacs.example/dicom-web.
        query: QIDO-RS attributes and values, such as {"StudyDate": "20240101-20241231", "BodyPartExamined": "CHEST"}.
        verify_tls: whether certificates are verified.

    Raises:
        InputError: the address holds a password, or credentials would travel unencrypted.
    """

    url: str
    query: Mapping[str, str] = field(default_factory=dict)
    verify_tls: bool = True

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.username or parts.password:
            raise InputError(
                f"source {parts.hostname}: an address with a password shows it to every user of this machine; "
                "put it into MEDSSL_DICOMWEB_USER and MEDSSL_DICOMWEB_PASSWORD"
            )
        secret = os.environ.get("MEDSSL_DICOMWEB_PASSWORD") or os.environ.get("MEDSSL_DICOMWEB_TOKEN")
        if secret and parts.scheme.lower() == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
            raise InputError(f"source {self.url}: credentials would travel unencrypted; use https")

    def series(self) -> Iterator[PacsSeries]:
        """The series that match, in the server's order, with their images.

        Raises:
            InputError: the server does not answer, refuses, or does not understand the query.
        """
        client = self._client()
        for study, series, modality in self.listed():
            yield PacsSeries(study, series, modality, self._instances(client, study, series))

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """StudyInstanceUID, SeriesInstanceUID and modality of the series that match; images are not asked for.

        Raises:
            InputError: as `series`.
        """
        client = self._client()
        offset = 0
        while True:
            found = self._ask(
                client.search_for_series,
                search_filters=dict(self.query),
                limit=PAGE,
                offset=offset,
                fields=["Modality"],
            )
            for one in found:
                study, series = _value(one, "0020000D"), _value(one, "0020000E")
                if study and series:
                    yield study, series, _value(one, "00080060")
            if len(found) < PAGE:
                return
            offset += len(found)

    def path(self, series: PacsSeries, instance_uid: str = "") -> Path:
        """Where a series or an image stands: a path that no file system has, for source ids."""
        return Path("/", self.url.rstrip("/"), "studies", series.study_uid, "series", series.series_uid, instance_uid)

    def retrieve(self, series: PacsSeries, folder: Path) -> list[SourceFile]:
        """Fetches a whole series into a folder, which is made.

        Raises:
            RejectedError: the server did not give all images, also when asked again.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(SECONDS_BEFORE_RETRY * 2 ** (attempt - 1))
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o700, parents=True)
            try:
                files = self._fetch(series, folder)
            except OSError as error:  # requests' errors are OSErrors
                why = type(error).__name__
                if isinstance(error, PermissionError):
                    raise
                continue
            if len(files) == len(series.instance_uids):
                return files
            why = f"{len(files)} of {len(series.instance_uids)} came"
        shutil.rmtree(folder, ignore_errors=True)
        raise RejectedError(
            Reason.NOT_RETRIEVED,
            f"the server did not give its images in {ATTEMPTS} attempts ({why}); run the same command again",
        )

    def _fetch(self, series: PacsSeries, folder: Path) -> list[SourceFile]:
        wanted = set(series.instance_uids)
        files: dict[str, SourceFile] = {}
        # "*": in the transfer syntax in which they are stored; the server need not decode anything.
        datasets = self._client().iter_series(
            series.study_uid, series.series_uid, media_types=(("application/dicom", "*"),)
        )
        for number, dataset in enumerate(datasets):
            name = str(dataset.get("SOPInstanceUID", ""))
            if name not in wanted:
                continue
            content = folder / f"{number}.dcm"
            with reading():
                dataset.save_as(content)
            files[name] = SourceFile(self.path(series, name), content)
        return sorted(files.values())

    def _instances(self, client: Any, study: str, series: str) -> tuple[str, ...]:
        found: list[str] = []
        while True:
            page = self._ask(
                client.search_for_instances,
                study_instance_uid=study,
                series_instance_uid=series,
                limit=PAGE,
                offset=len(found),
            )
            found += [uid for one in page if (uid := _value(one, "00080018"))]
            if len(page) < PAGE:
                return tuple(dict.fromkeys(found))

    def _ask(self, call: Any, **arguments: Any) -> list[Any]:
        """A QIDO-RS request; what goes wrong is told without a patient's identifier."""
        try:
            return list(call(**arguments))
        except OSError as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status in (401, 403):
                remedy = "set MEDSSL_DICOMWEB_USER and MEDSSL_DICOMWEB_PASSWORD, or MEDSSL_DICOMWEB_TOKEN"
            elif "SSL" in type(error).__name__:
                remedy = "name the hospital's certificate authority with MEDSSL_DICOMWEB_CA"
            else:
                remedy = "correct the address or the query, or ask again later"
            answer = f"status {status}" if status else type(error).__name__
            raise InputError(f"source {self.url}: QIDO-RS did not answer ({answer}); {remedy}") from None

    def _client(self) -> Any:
        try:
            import requests
            from dicomweb_client.api import DICOMwebClient
            from requests.adapters import HTTPAdapter
            from urllib3.util.retry import Retry
        except ImportError as error:
            raise InputError(
                f"source {self.url}: needs the package dicomweb-client, which is not installed; "
                "pip install 'medssl-monai[dicomweb]'"
            ) from error
        session = requests.Session()
        session.verify = (os.environ.get("MEDSSL_DICOMWEB_CA") or True) if self.verify_tls else False
        user, token = os.environ.get("MEDSSL_DICOMWEB_USER"), os.environ.get("MEDSSL_DICOMWEB_TOKEN")
        if user:
            session.auth = (user, os.environ.get("MEDSSL_DICOMWEB_PASSWORD", ""))
        elif token:
            session.headers["Authorization"] = f"Bearer {token}"
        retry = Retry(
            total=ATTEMPTS,
            backoff_factor=SECONDS_BEFORE_RETRY / 2,
            status_forcelist=STATUS_TO_RETRY,
            allowed_methods=["GET"],
            raise_on_status=False,
        )
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=retry))
        client = DICOMwebClient(self.url, session=session, timeout=TIMEOUT_SECONDS)
        client.set_http_retry_params(retry=False)
        return client


def fetch_ahead(
    source: PacsSource, wanted: Iterable[tuple[PacsSeries, Path]]
) -> Generator[tuple[PacsSeries, Path, list[SourceFile] | RejectedError], None, None]:
    """Retrieves series into their folders, `CONNECTIONS` at once; gives each, in order, with its files or why not.

    No more are asked for than that until the first of them is taken, so that what waits on the disk is bounded.
    """
    waiting: deque[tuple[PacsSeries, Path, Future[list[SourceFile]]]] = deque()

    def first() -> tuple[PacsSeries, Path, list[SourceFile] | RejectedError]:
        series, folder, future = waiting.popleft()
        try:
            return series, folder, future.result()
        except RejectedError as rejection:
            return series, folder, rejection

    # Quiet as a whole: what silences a library is the process's, and must not come and go while threads use it.
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        with quiet():
            for series, folder in wanted:
                waiting.append((series, folder, pool.submit(source.retrieve, series, folder)))
                if len(waiting) == CONNECTIONS:
                    yield first()
            while waiting:
                yield first()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def not_retrieved(series: PacsSeries, source: PacsSource, why: RejectedError, key: bytes) -> Verdict:
    """The verdict on a series that the PACS did not give; `key` is of the pseudonyms."""
    return Verdict(
        Outcome.REJECTED,
        "series",
        source_id(key, source.path(series)),
        pseudonym(key, "series", series.series_uid),
        files=len(series.instance_uids),
        reason=why.reason,
        detail=why.detail,
    )


def _value(item: Mapping[str, Any], tag: str) -> str:
    """The first value of a tag in DICOM JSON (PS3.18 F.2)."""
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])
