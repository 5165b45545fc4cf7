"""The studies that a server works on: a folder, a slice store or a PACS, ingested into one store.

An image of the server is a series. Its id is the pseudonym of the series, or for a PACS the SeriesInstanceUID, because
viewers request that. Clients download NIfTI files written from the store: HU, in the patient's frame, without any
header that could identify a patient.
"""

import os
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.ingest import SliceStore, build_store, load_key
from medssl_monai.ingest.lookup import find_series
from medssl_monai.ingest.sources.dicomweb import PacsSource, is_dicomweb
from medssl_monai.label_server.refusals import UnknownImageError
from medssl_monai.label_server.volumes import series_volume, write_volume
from medssl_monai.label_server.workspace import ServerSettings, Workspace, limit_folder, locked
from medssl_monai.store.pseudonyms import pseudonym

LISTING_SECONDS = 30.0
"""How long a PACS's list of series is kept."""


class Studies(ABC):
    """Images by id, and the slices of the store behind them.

    Args:
        workspace: where the store and the files for clients lie.
        settings: of the server.
    """

    def __init__(self, workspace: Workspace, settings: ServerSettings) -> None:
        self.workspace, self.settings = workspace, settings
        self.key = load_key(None if settings.key is None else Path(settings.key))
        self._opened: tuple[tuple[int, int], SliceStore] | None = None

    @property
    def store_path(self) -> Path:
        """Folder of the store."""
        return self.workspace.store

    @property
    def store(self) -> SliceStore:
        """The store, opened again if another process has added to it.

        Raises:
            StoreError: nothing has been ingested yet.
        """
        file = self.store_path / "store.json"
        stamp = (file.stat().st_mtime_ns, file.stat().st_ino) if file.is_file() else (0, 0)
        if self._opened is None or self._opened[0] != stamp:
            self._opened = (stamp, SliceStore(self.store_path))
        return self._opened[1]

    @abstractmethod
    def ids(self) -> list[str]:
        """All images, in a fixed order."""

    @abstractmethod
    def record_name(self, image_id: str) -> str:
        """The name of an image's record.

        Raises:
            UnknownImageError: the server has no such image.
        """

    @abstractmethod
    def image_of(self, record: str) -> str:
        """The image with a record of that name.

        Raises:
            UnknownImageError: the server has no such record.
        """

    @abstractmethod
    def series_of(self, image_id: str) -> list[str]:
        """The series of an image in the store, fetched if necessary; several if ingestion had to split it.

        Raises:
            UnknownImageError: the server has no such image.
            NoImagesError: it holds nothing readable.
        """

    @abstractmethod
    def fetched_ids(self) -> list[str]:
        """Images with slices in the store."""

    @abstractmethod
    def add(self, file: Path, name: str = "") -> str:
        """Ingest a file, which the client calls ``name``; returns the id of its first image.

        Raises:
            NoImagesError: it holds nothing readable.
            InputError: this server takes no uploads.
        """

    def fetch_all(self) -> None:
        """Ingest every image."""
        for image_id in self.ids():
            try:
                self.series_of(image_id)
            except NoImagesError:
                continue

    def rows(self, image_id: str) -> list[dict[str, Any]]:
        """Index rows of the slices that a network reads.

        Raises:
            UnknownImageError: the server has no such image.
            NoImagesError: it has no slice of the server's kind.
        """
        series = self.series_of(image_id)  # before the store is opened, because this may fetch it
        return usable_rows(self.store, series, self.settings)

    def image_file(self, image_id: str) -> Path:
        """A NIfTI file of an image, written from the store if it does not exist.

        Raises:
            UnknownImageError, NoImagesError: as `series_of`.
        """
        series = max(self.series_of(image_id), key=lambda one: len(self.store.select([["series_id", "==", one]])))
        file = self.workspace.images / f"{series}.nii.gz"
        if file.is_file():
            file.touch()
        else:
            draft = self.workspace.tmp / f"{os.getpid()}-{file.name}"  # nibabel needs the whole suffix
            write_volume(self.store, series, series_volume(self.store, series), draft)
            draft.replace(file)
        limit_folder(self.workspace.images, int(self.settings.image_cache_gib * 2**30), keep=file)
        return file

    def patient(self, image_id: str) -> str:
        """Pseudonym of the patient."""
        return str(self.rows(image_id)[0]["patient"])

    def _ingest(self, sources: list[Any]) -> None:
        with locked(self.workspace.root / ".store.lock"):
            build_store(sources, self.store_path, key=self.key, modality=self.settings.modality, progress=False)


class StudiesFolder(Studies):
    """A folder of clinical files, ingested when the server starts; or a finished store, used as it is."""

    @property
    def store_path(self) -> Path:
        """The server's own store, or the one that was given."""
        given = Path(self.settings.studies)
        return given if (given / "store.json").is_file() else self.workspace.store

    def ids(self) -> list[str]:
        """Series ids of the store."""
        return self.store.series_ids

    def record_name(self, image_id: str) -> str:
        """The id itself: it is a pseudonym."""
        return self.series_of(image_id)[0]

    def image_of(self, record: str) -> str:
        """The name itself."""
        return self.record_name(record)

    def series_of(self, image_id: str) -> list[str]:
        """The series itself; an id that a client gave at upload is accepted too."""
        if image_id in self.ids():
            return [image_id]
        alias = self._alias(image_id)
        if alias.is_file() and (known := alias.read_text(encoding="utf-8")) in self.ids():
            return [known]
        raise UnknownImageError(
            f"image {image_id[:80]!r}: must be on this server; GET /datastore/?output=all lists all"
        )

    def fetched_ids(self) -> list[str]:
        """All."""
        return self.ids()

    def add(self, file: Path, name: str = "") -> str:
        """As in `Studies`; ``name`` is kept only as a keyed hash."""
        if self.store_path != self.workspace.store:
            raise InputError(
                "upload: this server works on a finished store and does not change it; start it with a folder"
            )
        before = set(self.ids())
        with nameless(file):
            self._ingest([file])
        added = sorted(set(self.ids()) - before) or [find_series(self.store, file, self.key)]
        if name and name != added[0]:
            self._alias(name).write_text(added[0], encoding="utf-8")
        return added[0]

    def _alias(self, name: str) -> Path:
        return self.workspace.records / f"{pseudonym(self.key, 'source', name)}.alias"


class PacsStudies(Studies):
    """A DICOMweb service: listed by QIDO-RS; each series is fetched when it is first requested."""

    def __init__(self, workspace: Workspace, settings: ServerSettings) -> None:
        super().__init__(workspace, settings)
        self._listed: tuple[float, list[str]] = (float("-inf"), [])

    def ids(self) -> list[str]:
        """SeriesInstanceUIDs, as listed within the last half minute."""
        if time.monotonic() - self._listed[0] > LISTING_SECONDS:
            self._listed = (time.monotonic(), sorted(uid for _, uid, _ in self._source({}).listed()))
        return self._listed[1]

    def record_name(self, image_id: str) -> str:
        """The series' pseudonym."""
        if image_id not in self.ids():
            raise UnknownImageError(
                f"image {image_id[:80]!r}: the PACS lists no {self.settings.modality} series of this UID; "
                "GET /datastore/?output=all lists what it has"
            )
        return self._name(image_id)

    def image_of(self, record: str) -> str:
        """The SeriesInstanceUID with this pseudonym."""
        for uid in self.ids():
            if self._name(uid) == record:
                return uid
        raise UnknownImageError(f"series {record[:80]!r}: must be on this server; choose the next one")

    def series_of(self, image_id: str) -> list[str]:
        """Parts of the series in the store."""
        base = self.record_name(image_id)
        if not (found := self._stored(base)):
            self._ingest([self._source({"SeriesInstanceUID": image_id})])
            found = self._stored(base)
        return found

    def fetched_ids(self) -> list[str]:
        """Images that have been fetched before."""
        stored = {one.partition("-")[0] for one in self._stored_ids()}
        return [uid for uid in self.ids() if self._name(uid) in stored]

    def fetch_all(self) -> None:
        """Fetch all at once."""
        self._ingest([self._source({})])

    def add(self, file: Path, name: str = "") -> str:
        """Refused: images of a PACS are added in the PACS."""
        raise InputError("upload: this server works on a PACS; send the image to the PACS instead (STOW-RS or C-STORE)")

    def _source(self, query: dict[str, str]) -> PacsSource:
        wanted = {"Modality": self.settings.modality, **self.settings.query, **query}
        return PacsSource(self.settings.studies, wanted, self.settings.verify_tls)

    def _name(self, uid: str) -> str:
        return pseudonym(self.key, "series", uid)

    def _stored_ids(self) -> list[str]:
        return self.store.series_ids if (self.store_path / "store.json").is_file() else []

    def _stored(self, base: str) -> list[str]:
        return [one for one in self._stored_ids() if one.partition("-")[0] == base]


def open_studies(workspace: Workspace) -> Studies:
    """Open the studies of a server, see `Workspace.settings`."""
    settings = workspace.settings()
    kind = PacsStudies if is_dicomweb(settings.studies) else StudiesFolder
    return kind(workspace, settings)


def usable_rows(store: SliceStore, series: list[str], settings: ServerSettings) -> list[dict[str, Any]]:
    """Rows of these series that a network reads.

    Raises:
        NoImagesError: no slice is left.
    """
    rows = store.select([["series_id", "in", series], *settings.filters])
    if not rows:
        what = "axial CT" if settings.modality == "CT" else settings.modality
        raise NoImagesError(f"image: holds no {what} slice that can be classified; choose another")
    return rows


@contextmanager
def nameless(file: Path) -> Iterator[None]:
    """Remove the server's path from errors about an uploaded file."""
    try:
        yield
    except NoImagesError as error:
        raise NoImagesError(str(error).replace(str(file), "the file sent")) from error


@contextmanager
def passing_store(file: Path, settings: ServerSettings, key: bytes, folder: Path) -> Iterator[SliceStore]:
    """A store of one uploaded file, deleted when the block ends.

    Raises:
        NoImagesError: it holds nothing readable.
    """
    out = Path(tempfile.mkdtemp(prefix="upload-", dir=folder))
    try:
        with nameless(file):
            build_store([file], out / "store", key=key, modality=settings.modality, progress=False)
        yield SliceStore(out / "store")
    finally:
        shutil.rmtree(out, ignore_errors=True)
