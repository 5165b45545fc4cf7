"""Images from a PACS by DICOMweb: series are found by QIDO-RS (PS3.18 10.6) and fetched by WADO-RS (PS3.18 10.4).

Credentials come from the environment: `MEDSSL_DICOMWEB_USER` and `MEDSSL_DICOMWEB_PASSWORD`, or
`MEDSSL_DICOMWEB_TOKEN`. Servers' certificates are verified, against `MEDSSL_DICOMWEB_CA` where that names a file.
Requests that fail for a while are repeated; what a store has already is not fetched again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydicom.datadict import tag_for_keyword

from medssl_monai.errors import InputError
from medssl_monai.ingest.dicom.modalities import checked_modality
from medssl_monai.ingest.dicom.tags import quiet
from medssl_monai.ingest.sources.dicomweb_client import dicomweb_client, unlogged
from medssl_monai.ingest.sources.paths import SourceFile
from medssl_monai.store.disk import disk_refused, writing
from medssl_monai.store.pseudonyms import pseudonym, source_id
from medssl_monai.store.verdicts import Outcome, Reason, RejectedError, Verdict

PAGE = 200
"""Matches that are asked for at once; servers may have a lower limit of their own."""

WILDCARDS = "*?\\,"
"""In a value, they ask for several (PS3.4 C.2.2.2)."""

ATTEMPTS = 4
SECONDS_BEFORE_RETRY = 1.0


def is_dicomweb(source: str | Path) -> bool:
    """Whether a source is a DICOMweb address rather than a path."""
    return isinstance(source, str) and source.lower().startswith(("http://", "https://"))


def parse_query(pairs: Sequence[str], modality: str | None = None) -> dict[str, str]:
    """``["StudyDate=20240101-"]`` to ``{"StudyDate": "20240101-"}``; the modality is one of them.

    Raises:
        InputError: an item without ``=``, or whose name is no keyword of DICOM's dictionary; a modality that DICOM
            does not know.
    """
    query = {} if modality is None else {"Modality": checked_modality(modality)}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator or not value or tag_for_keyword(name) is None:
            raise InputError(
                f"query {pair!r}: must be KEYWORD=VALUE with a keyword of DICOM, for instance "
                "StudyDate=20240101-20241231 or BodyPartExamined=CHEST; correct it"
            )
        is_word = name == "Modality" and not set(value) & set(WILDCARDS)
        query[name] = checked_modality(value) if is_word else value
    return query


@dataclass(frozen=True)
class PacsSeries:
    """A series as the server lists it; UIDs are real ones, and stay in memory.

    Attributes:
        unlisted: why the server did not list its images; empty where it did.
    """

    study_uid: str
    series_uid: str
    modality: str
    instance_uids: tuple[str, ...]
    unlisted: str = ""

    @property
    def files(self) -> int:
        """Its images; one where they are not known, so that it is counted."""
        return max(1, len(self.instance_uids))


class _QueryError(InputError):
    """A QIDO-RS request that failed; `status` is that of HTTP, None where there was no answer."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


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
        """The series that match, in the server's order, with their images, or why those are not listed.

        Raises:
            InputError: the server does not answer, refuses, or does not understand the query.
        """
        client = self._client()
        for study, series, modality in self.listed():
            try:
                uids = self._instances(client, study, series)
                unlisted = "" if uids else "it names none"
            except _QueryError as error:
                if error.status in (None, 401):
                    raise  # there will be no answer about the other series either
                uids, unlisted = (), f"status {error.status}"
            yield PacsSeries(study, series, modality, uids, unlisted)

    def listed(self) -> Iterator[tuple[str, str, str]]:
        """StudyInstanceUID, SeriesInstanceUID and modality of the series that match; images are not asked for.

        Raises:
            InputError: as `series`.
        """
        search = self._client().search_for_series
        for one in self._matches(search, "0020000E", search_filters=dict(self.query), fields=["Modality"]):
            if study := _value(one, "0020000D"):
                yield study, _value(one, "0020000E"), _value(one, "00080060")

    def path(self, series: PacsSeries, instance_uid: str = "") -> Path:
        """Where a series or an image stands: a path that no file system has, for source ids."""
        return Path("/", self.url.rstrip("/"), "studies", series.study_uid, "series", series.series_uid, instance_uid)

    def address(self, series: PacsSeries) -> str:
        """Where a series stands, as a user would write it; it holds real UIDs."""
        return f"{self.url.rstrip('/')}/studies/{series.study_uid}/series/{series.series_uid}"

    def retrieve(self, series: PacsSeries, folder: Path) -> list[SourceFile]:
        """Fetches a whole series into a folder, which is made.

        Raises:
            RejectedError: the server did not give all images, also when asked again.
        """
        if series.unlisted:
            raise RejectedError(
                Reason.NOT_RETRIEVED,
                f"the server did not list its images ({series.unlisted}); run the same command again",
            )
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(SECONDS_BEFORE_RETRY * 2 ** (attempt - 1))
            shutil.rmtree(folder, ignore_errors=True)
            with writing(folder):
                folder.mkdir(mode=0o700, parents=True)
            try:
                files = self._fetch(series, folder)
            except InputError:
                raise
            except Exception as error:  # requests' own, and whatever pydicom meets in what is no DICOM
                why = type(error).__name__
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
        with unlogged(), quiet():
            # "*": in the transfer syntax in which they are stored; the server need not decode anything.
            datasets = self._client().iter_series(
                series.study_uid, series.series_uid, media_types=(("application/dicom", "*"),)
            )
            for number, dataset in enumerate(datasets):
                name = str(dataset.get("SOPInstanceUID", ""))
                if name not in wanted:
                    continue
                content = folder / f"{number}.dcm"
                try:
                    dataset.save_as(content)
                except OSError as error:  # all was read before
                    raise disk_refused(folder, error) from error
                files[name] = SourceFile(self.path(series, name), content)
        return sorted(files.values())

    def _instances(self, client: Any, study: str, series: str) -> tuple[str, ...]:
        search = client.search_for_instances
        found = self._matches(search, "00080018", study_instance_uid=study, series_instance_uid=series)
        return tuple(_value(one, "00080018") for one in found)

    def _matches(self, search: Any, uid: str, **arguments: Any) -> Iterator[Any]:
        """All matches of a QIDO-RS search, each once, told apart by the tag `uid`.

        A server may give fewer at once than it is asked for (PS3.18 8.3.4.4.1), so that a short page need not be the
        last: the last is one that brings nothing new. That also ends with servers that give the same page for ever.
        """
        seen: set[str] = set()
        offset = 0
        while True:
            page = self._ask(search, limit=PAGE, offset=offset, **arguments)
            before = len(seen)
            for one in page:
                name = _value(one, uid)
                if name and name not in seen:
                    seen.add(name)
                    yield one
            if len(seen) == before:
                return
            offset += len(page)

    def _ask(self, call: Any, **arguments: Any) -> list[Any]:
        """A QIDO-RS request; what goes wrong is told without a patient's identifier."""
        try:
            with unlogged():
                return list(call(**arguments))
        except OSError as error:  # requests' errors are OSErrors
            status = getattr(getattr(error, "response", None), "status_code", None)
            if status == 404 and arguments["offset"]:
                return []  # so say some servers beyond the last match
            if status in (401, 403):
                remedy = "set MEDSSL_DICOMWEB_USER and MEDSSL_DICOMWEB_PASSWORD, or MEDSSL_DICOMWEB_TOKEN"
            elif "SSL" in type(error).__name__:
                remedy = "name the hospital's certificate authority with MEDSSL_DICOMWEB_CA"
            else:
                remedy = "correct the address or the query, or ask again later"
            answer = f"status {status}" if status else type(error).__name__
            raise _QueryError(f"source {self.url}: QIDO-RS did not answer ({answer}); {remedy}", status) from None

    def _client(self) -> Any:
        return dicomweb_client(self.url, self.verify_tls, ATTEMPTS, SECONDS_BEFORE_RETRY)


def not_retrieved(series: PacsSeries, source: PacsSource, why: RejectedError, key: bytes) -> Verdict:
    """The verdict on a series that the PACS did not give; `key` is of the pseudonyms."""
    return Verdict(
        Outcome.REJECTED,
        "series",
        source_id(key, source.path(series)),
        pseudonym(key, "series", series.series_uid),
        files=series.files,
        reason=why.reason,
        detail=why.detail,
    )


def _value(item: Mapping[str, Any], tag: str) -> str:
    """The first value of a tag in DICOM JSON (PS3.18 F.2)."""
    values = item.get(tag, {}).get("Value") or [""]
    return str(values[0])
