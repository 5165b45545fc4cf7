"""From pseudonyms to the paths that they stand for, and from paths and UIDs to pseudonyms."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from medssl_monai.errors import InputError, LabelError
from medssl_monai.ingest.lookup import all_series
from medssl_monai.ingest.sources.dicomweb import is_dicomweb
from medssl_monai.store.names_file import Name
from medssl_monai.store.pseudonyms import load_key, source_id
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.verdicts import Verdict

PSEUDONYM = re.compile(r"[spf][a-z2-7]{16}(-[a-z2-7]+)?")


@dataclass(frozen=True)
class Whereabouts:
    """A series or a file, what became of it, and where it came from.

    Attributes:
        id: pseudonym of the series, or of the file where it belongs to none.
        outcome: accepted, repaired or rejected.
        reason: why it was rejected; empty otherwise.
        path: of the file or folder; empty without a names file.
        series_uid: SeriesInstanceUID; empty where it is not known.
    """

    id: str
    outcome: str
    reason: str = ""
    path: str = ""
    series_uid: str = ""

    def to_json(self) -> dict[str, str]:
        """Plain values, in the order of the fields."""
        return asdict(self)


def whereabouts(
    store: SliceStore, asked: str, names: Sequence[Name] | None = None, key: bytes | None = None
) -> list[Whereabouts]:
    """All that a pseudonym, a path or a SeriesInstanceUID stands for, rejected files and series too.

    Args:
        store: the store whose verdicts speak of it.
        asked: pseudonym of a series, a path or a patient, as the store's files have them; or a path or a UID.
        names: rows of the names file, which a pseudonym needs.
        key: of the pseudonyms, which a path and a UID need; None loads the user's own.

    Raises:
        InputError: nothing in the store, or in the names file, is called that.
        StoreError: the store was made with another key.

    Example:
        >>> store, names = SliceStore("thorax.store"), read_names(Path("names.csv"))     # doctest: +SKIP
        >>> whereabouts(store, "sabcdefghij234567", names)[0].path                      # doctest: +SKIP
    """
    verdicts = store.verdicts
    met = {verdict.series_id for verdict in verdicts} | {verdict.source_id for verdict in verdicts}
    is_pseudonym = bool(PSEUDONYM.fullmatch(asked)) and (asked in met or not Path(asked).exists())
    if not is_pseudonym:
        ids = _by_key(store, asked, verdicts, key)
    elif names is None:
        raise InputError(
            f"{asked}: a pseudonym leads to a path only with the names file; give the one that "
            "`medssl ingest --names FILE` wrote, with --names FILE"
        )
    elif asked.startswith("p"):
        ids = {row["series_id"] for row in store.select([["patient", "==", asked]])}
    else:
        ids = {asked}
    found = [verdict for verdict in verdicts if ids & {verdict.series_id, verdict.source_id}]
    if not found:
        raise InputError(
            f"{asked}: store {store.place} has no verdict on it; correct it, or name the store that it is of"
        )
    rows = {name.series_id or name.source_id: name for name in names or ()}
    if is_pseudonym and not any(verdict.subject in rows for verdict in found):
        raise InputError(
            f"{asked}: is not in the names file; run the same `medssl ingest` again, with --names, which adds to it"
        )
    return [_whereabouts(verdict, rows.get(verdict.subject)) for verdict in found]


def _by_key(store: SliceStore, asked: str, verdicts: Sequence[Verdict], key: bytes | None) -> set[str]:
    """Ids of series, and of the file or folder itself, from which series may have been rejected."""
    key = load_key() if key is None else key
    own = source_id(key, Path("/", asked.rstrip("/")) if is_dicomweb(asked) else Path(asked))
    known = {verdict.series_id for verdict in verdicts} - {""}
    try:
        return {own, *all_series(store, asked, key, known)}
    except LabelError:
        if all(verdict.source_id != own for verdict in verdicts):
            raise
        return {own}


def _whereabouts(verdict: Verdict, name: Name | None) -> Whereabouts:
    reason = verdict.reason.value if verdict.reason else ""
    place, uid = (name.path, name.series_uid) if name else ("", "")
    return Whereabouts(verdict.subject, verdict.outcome.value, reason, place, uid)
