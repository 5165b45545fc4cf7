"""Data given as a store or as clinical files: the latter are ingested once, into a cache."""

import hashlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path

from medssl_monai.errors import BusyStoreError, InputError
from medssl_monai.ingest.dicom.modalities import checked_modality
from medssl_monai.ingest.pipeline import build_store
from medssl_monai.ingest.sources.paths import source_path
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.resources import user_cache
from medssl_monai.store.joined import JoinedStore
from medssl_monai.store.places import is_store, store_at
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import SCHEMA_VERSION
from medssl_monai.store.urls import remote_url

WAIT_SECONDS = 0.5

logger = logging.getLogger(__name__)


def cached_store_path(
    sources: Sequence[Path],
    cache_dir: str | Path | None = None,
    modality: str | None = "CT",
    patients: NamedPatients | None = None,
) -> Path:
    """Where the store of these files and folders is kept.

    The schema is part of the name: what an older version of this program cached is made again, not refused.
    """
    parts = [*sorted(str(s.resolve()) for s in sources), str(modality), f"schema {SCHEMA_VERSION}"]
    names = "\n".join([*parts, patients.digest] if patients else parts)
    folder = Path(cache_dir) if cache_dir is not None else user_cache() / "stores"
    return folder / hashlib.sha256(names.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def open_store(
    data: str | Path | Sequence[Path],
    *,
    modality: str | None = "CT",
    cache_dir: str | Path | None = None,
    key: bytes | None = None,
    workers: int = 1,
    patient_from: str | None = None,
    patients: str | Path | None = None,
) -> SliceStore:
    """The store at ``data``, or one made from the files there.

    A folder (or list of files and folders) of DICOM, NIfTI and the like is ingested into ``cache_dir``. Ingestion
    adds nothing the second time, so that later calls only look for new files; while another run does it, this
    waits. The cache holds pixels under pseudonyms, and what the files hold now: of what was removed or changed since,
    nothing is kept, and a process that still reads it from there is told so by an error.

    Args:
        data: a store, also at a URL (`RemoteStore`), several stores (`JoinedStore`), or what `build_store` takes.
        modality: what is ingested.
        cache_dir: folder of such stores; by default ``stores`` in `user_cache`.
        key: of the pseudonyms; by default the user's own.
        workers: processes that ingest.
        patient_from: regular expression that finds the patient in names of files without tags, see `NamedPatients`.
        patients: CSV table of sources and their patients, likewise.

    Raises:
        InputError: ``data`` is empty, or there is nothing there; DICOM knows no such modality; patients are named for
            a store, which has them.
        NoImagesError: nothing there is of the modality.
    """
    sources = [source_path(one) for one in ([data] if isinstance(data, (str, Path)) else data)]
    for source in sources:
        if not (source.exists() or is_store(source)):
            raise InputError(f"{source} does not exist; give a slice store, or a folder of DICOM or NIfTI files")
    stores = [is_store(source) for source in sources]
    if len(sources) > 1 and any(stores):
        if not all(stores) or patient_from is not None or patients is not None:
            found = ", ".join(remote_url(source) or str(source) for source in sources)
            raise InputError(
                f"data: stores and other folders cannot be mixed, and stores have their patients, found "
                f"{found}; ingest the other folders into stores of their own, and leave "
                "patient_from and patients out"
            )
        return JoinedStore([store_at(source) for source in sources])
    if stores == [True]:
        if patient_from is not None or patients is not None:
            raise InputError(
                f"{sources[0]}: is a store, and patients are named when it is made; give patient_from or patients to "
                "`medssl ingest`, or the folder of pictures as data"
            )
        return store_at(sources[0])
    named = NamedPatients(patient_from, patients)
    modality = None if modality is None else checked_modality(modality)
    out = cached_store_path(sources, cache_dir, modality, named)
    while True:
        try:
            build_store(sources, out, key=key, modality=modality, workers=workers, exact=True, patients=named)
            store = SliceStore(out)
            logger.info("%s slices of %s", len(store), store.patients_told())
            return store
        except BusyStoreError:  # a run on the same files, or another process of this one, makes the very store
            logger.info("waiting for another run that ingests the same files")
            time.sleep(WAIT_SECONDS)
