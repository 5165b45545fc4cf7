"""What a classifier is given to predict: clinical files as slices of a store, and a word on all that is left out.

A store that is made for a prediction is private and removed afterwards, unless a folder is named to keep it.
"""

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from medssl_monai.classify.dicom.sources import Sources
from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.ingest.pipeline import build_store
from medssl_monai.ingest.sources.dicomweb import PacsSource, is_dicomweb, not_retrieved
from medssl_monai.store.places import is_store, store_at
from medssl_monai.store.pseudonyms import load_key
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters
from medssl_monai.store.verdicts import Outcome, RejectedError, Verdict

AXIAL_CT: Filters = [["modality", "==", "CT"], ["plane", "==", "axial"]]


class PredictionInput:
    """The slices to be classified, and the verdicts on the rest.

    Args:
        data: a slice store, or files, folders and archives, which are ingested.
        cache_dir: folder in which such a store is kept; None uses a private one until `close`.
        filters: slices that the classifier is for.
        modality: what is ingested.
        key: of the pseudonyms; by default the user's own.
        left_out: what was refused before, such as by a PACS.
        headers: whether the headers of DICOM images are kept, for `sources`.

    Attributes:
        sources: the headers behind the slices, if they are kept; none of a store.
        names: path of each series and file by its pseudonym, which may name a patient; none of a store.
        store: the slices.
        rows: of the index that are to be classified.
        left_out: everything that is not, and why, rejected files and series first.

    Raises:
        InputError: a source does not exist.
        NoImagesError: nothing is left to classify; the message says why.
    """

    def __init__(
        self,
        data: str | Path | Sequence[str | Path],
        cache_dir: str | Path | None = None,
        filters: Filters = AXIAL_CT,
        modality: str = "CT",
        key: bytes | None = None,
        left_out: Sequence[Mapping[str, Any]] = (),
        headers: bool = False,
    ) -> None:
        self.sources = Sources()
        self.names: dict[str, str] = {}
        self._private: tempfile.TemporaryDirectory[str] | None = None
        sources = [Path(data)] if isinstance(data, (str, Path)) else [Path(one) for one in data]
        if len(sources) == 1 and is_store(sources[0]):
            self.store = store_at(sources[0])
            met = list(self.store.verdicts)
        else:
            out = self._store_folder(sources, cache_dir, modality)
            planned = self.sources.note if headers else None
            summary = build_store(sources, out, key=key, modality=modality, progress=False, planned=planned, names=True)
            self.store = SliceStore(out)
            self.names = {name.series_id or name.source_id: name.path for name in summary.names}
            met = list(summary.verdicts)
        # A kept store may hold what lay in these folders at another time.
        here = {one.series_id for one in met if one.outcome is not Outcome.REJECTED}
        fitting = [row for row in self.store.select(filters) if row["series_id"] in here]
        self.rows: list[dict[str, Any]] = fitting
        taken = {row["series_id"] for row in fitting}
        other = [row for row in self.store.select() if row["series_id"] in here - taken]
        self.left_out: list[dict[str, Any]] = [
            *(dict(one) for one in left_out),
            *(left_out_entry(one) for one in met if one.outcome is Outcome.REJECTED),
            *_unfit(other, {one.series_id: one for one in met}),
        ]
        if not self.rows:
            why = "; ".join(sorted({one["detail"] for one in self.left_out})[:3])
            raise NoImagesError(f"{_named(sources)}: no axial CT slice to classify ({why}); give an axial CT series")

    def close(self) -> None:
        """Remove a private store; what was read from it cannot be read again."""
        if self._private is not None:
            self._private.cleanup()

    def _store_folder(self, sources: Sequence[Path], cache_dir: str | Path | None, modality: str) -> Path:
        if cache_dir is None:
            self._private = tempfile.TemporaryDirectory(prefix="medssl-predict-")
            return Path(self._private.name) / "store"
        names = "\n".join(sorted(str(one.resolve()) for one in sources)) + f"\n{modality}"
        return Path(cache_dir) / hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _unfit(rows: Sequence[Mapping[str, Any]], verdicts: Mapping[str, Verdict]) -> list[dict[str, Any]]:
    """An entry for each series that could be read, but is not what the classifier is for."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["modality"] != "CT":
            reason, detail = "OTHER_MODALITY", f"is {row['modality']}; the classifier is for CT"
        else:
            reason, detail = "NOT_AXIAL", f"is {row['plane']}; the classifier is for axial slices"
        found[row["series_id"]] = {**left_out_entry(verdicts[row["series_id"]]), "reason": reason, "detail": detail}
    return [found[series_id] for series_id in sorted(found)]


def left_out_entry(verdict: Verdict) -> dict[str, Any]:
    """What a result says of a series or file that was not classified; JSON-ready."""
    return {
        "kind": verdict.kind,
        "series_id": verdict.series_id,
        "source_id": verdict.source_id,
        "modality": verdict.modality,
        "files": verdict.files,
        "reason": verdict.reason.value if verdict.reason else "",
        "detail": verdict.detail,
    }


def _named(sources: Sequence[Path]) -> str:
    return ", ".join(str(one) for one in sources[:3]) + (" …" if len(sources) > 3 else "")


@dataclass(frozen=True)
class Fetched:
    """Sources that are all on this machine.

    Attributes:
        paths: files and folders.
        left_out: series that a PACS did not give.
        addresses: of each series that it gave, by the private folder in which it lies meanwhile.
    """

    paths: list[Path]
    left_out: list[dict[str, Any]]
    addresses: dict[str, str]


@contextmanager
def fetched(
    sources: Sequence[str | Path], query: Mapping[str, str] | None = None, *, verify_tls: bool = True
) -> Iterator[Fetched]:
    """Sources with DICOMweb addresses replaced by private folders, which are removed at the end.

    Args:
        sources: paths and addresses; an address may go on with ``/studies/UID`` and ``/series/UID``.
        query: QIDO-RS attributes, for addresses.
        verify_tls: whether certificates are verified.

    Raises:
        InputError: an address names no study, and no query narrows it down; the PACS does not answer; or nothing there
            matches.
    """
    found = Fetched([], [], {})
    with tempfile.TemporaryDirectory(prefix="medssl-pacs-") as folder:
        for number, source in enumerate(sources):
            if not is_dicomweb(source):
                found.paths.append(Path(source))
                continue
            url, wanted = parse_dicomweb(str(source), query or {})
            pacs = PacsSource(url, wanted, verify_tls)
            home = Path(folder) / str(number)
            home.mkdir()
            found.paths.append(home)
            _fetch(pacs, home, found)
        yield found


def parse_dicomweb(address: str, query: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """The service of ``https://pacs/dicom-web/studies/UID/series/UID`` and the query for it.

    Raises:
        InputError: neither the address nor the query says which study.
    """
    parts = address.rstrip("/").split("/")
    wanted = {"Modality": "CT", **query}
    if len(parts) > 2 and parts[-2] == "series" and "studies" in parts:
        wanted["SeriesInstanceUID"] = parts[-1]
        parts = parts[:-2]
    if len(parts) > 2 and parts[-2] == "studies":
        wanted["StudyInstanceUID"] = parts[-1]
        parts = parts[:-2]
    if set(wanted) == {"Modality"}:
        raise InputError(
            f"source {urlsplit(address).hostname}: a prediction is for a study, not for a whole PACS; add /studies/UID "
            "to the address, or --query StudyInstanceUID=UID"
        )
    return "/".join(parts), wanted


def _fetch(pacs: PacsSource, folder: Path, found: Fetched) -> None:
    key = load_key()
    count = 0
    for number, series in enumerate(pacs.series()):
        count += 1
        place = folder / str(number)
        try:
            pacs.retrieve(series, place)
        except RejectedError as rejection:
            found.left_out.append(left_out_entry(not_retrieved(series, pacs, rejection, key)))
        else:
            found.addresses[str(place.resolve())] = pacs.address(series)
    if not count:
        raise InputError(f"source {pacs.url}: no CT series matches; correct the UID or the query")
