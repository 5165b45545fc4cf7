"""Where the series and files of a run came from: the rows of a names file, collected while the run goes on."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from medssl_monai.ingest.compare import uid_part
from medssl_monai.ingest.sources.dicomweb import PacsSeries, PacsSource
from medssl_monai.ingest.write_series import Plan
from medssl_monai.store.names_file import Name
from medssl_monai.store.pseudonyms import pseudonym, source_id
from medssl_monai.store.verdicts import Verdict


@dataclass
class Origins:
    """Paths and SeriesInstanceUIDs behind pseudonyms, as many as there are verdicts.

    Args:
        key: of the pseudonyms.
    """

    key: bytes
    _paths: dict[str, str] = field(default_factory=dict)
    _uids: dict[str, str] = field(default_factory=dict)
    _sources: dict[str, str] = field(default_factory=dict)

    def note_uids(self, uids: Iterable[str]) -> None:
        """Keep SeriesInstanceUIDs; what else stands for a series (see `plan.series_uid`) is none."""
        found = (uid for uid in uids if re.fullmatch(r"[0-9.]+", uid))
        self._uids.update((pseudonym(self.key, "series", uid), uid) for uid in found)

    def note_plans(self, plans: Iterable[Plan]) -> None:
        """Keep where series lie now; what is stored of them may have been read elsewhere."""
        self._sources.update((plan.series_id, plan.source_id) for plan in plans)

    def note_pacs_series(self, source: PacsSource, series: PacsSeries) -> None:
        """Keep a series that a PACS lists, whether it is fetched or not."""
        self.note_uids([series.series_uid])
        self._paths[source_id(self.key, source.path(series))] = source.address(series)

    def note_places(self, files: Iterable[Path], verdicts: Iterable[Verdict]) -> None:
        """Keep the paths that the verdicts speak of: files, and folders that hold them."""
        wanted = {*(verdict.source_id for verdict in verdicts), *self._sources.values()} - self._paths.keys()
        seen: set[Path] = set()
        for file in files:
            if not wanted:
                return
            place = file.resolve()
            for one in (place, *place.parents):
                if one in seen:
                    break
                seen.add(one)
                own = pseudonym(self.key, "source", str(one))
                if own in wanted:
                    self._paths[own] = str(one)
                    wanted.remove(own)

    def names(self, verdicts: Iterable[Verdict]) -> tuple[Name, ...]:
        """One row a verdict with a known path."""
        rows = []
        for verdict in verdicts:
            place = self._paths.get(self._sources.get(verdict.series_id, verdict.source_id), "")
            if place:
                uid = self._uids.get(uid_part(verdict.series_id), "")
                rows.append(Name(verdict.series_id, verdict.source_id, _address(place), uid))
        return tuple(rows)


def _address(place: str) -> str:
    """A path as its user would write it: what came from a PACS has a URL (see `PacsSource.path`)."""
    return re.sub(r"^/(https?):/", r"\1://", place)
