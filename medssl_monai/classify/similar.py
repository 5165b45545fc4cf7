"""Cases like a given one: the nearest slices and series of a store by an encoder's features.

Features of a store are computed once and kept: the table of `handlers.feature_table`, under a name made of the store's,
the encoder's and the view's fingerprints. Nearness is the cosine of the angle between two slices' features. Features of
one encoder share a mean, so all cosines may be near 1, and their size says little. Whether a case is alike follows
from its percentile among comparisons of cases of different patients.

Shapes: N slices, D features.
"""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from matplotlib.figure import Figure

from medssl_monai.atomic import write_json
from medssl_monai.classify.embedder import Embedder
from medssl_monai.classify.features import write_features
from medssl_monai.classify.heat_maps import windowed_slice
from medssl_monai.classify.inputs import AXIAL_CT, PredictionInput
from medssl_monai.drawing import save_figure
from medssl_monai.errors import InputError, NoImagesError
from medssl_monai.resources import user_cache
from medssl_monai.store.places import store_at
from medssl_monai.store.reader import SliceStore
from medssl_monai.store.schema import Filters

Floats = npt.NDArray[np.floating[Any]]

USUAL_SERIES, USUAL_QUERIES, USUAL_SLICES = 200, 32, 4
SEARCHED: Filters = [["modality", "==", "CT"], ["plane", "==", "axial"], ["body_fraction", ">", 0.05]]


@dataclass(frozen=True)
class SliceFeatures:
    """Features (N, D) of unit length, and of each slice its series, number and patient: pseudonyms all."""

    features: Floats
    series: Sequence[str]
    slices: Sequence[int]
    patients: Sequence[str]

    @cached_property
    def by_series(self) -> list[npt.NDArray[np.intp]]:
        """Rows of each series, in the order of the series' names."""
        _, owners = np.unique(np.asarray(self.series), return_inverse=True)
        order = np.argsort(owners, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(owners[order])) + 1)


@dataclass(frozen=True)
class Match:
    """A series found, by its slice that is most like any slice of the query.

    ``likeness`` is a cosine, 1 for the same; of several slices the mean over the query's slices of the likeness to the
    best slice of the series. ``percentile`` is the share, in per cent, of comparisons between cases of different
    patients that are less alike (`usual_likeness`); None where there are none.
    """

    series_id: str
    slice: int
    patient: str
    likeness: float
    percentile: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "likeness": round(self.likeness, 6)}


def store_features(
    store: SliceStore, embedder: Embedder, *, filters: Filters = SEARCHED, folder: Path | None = None
) -> SliceFeatures:
    """Features of the store's slices that pass, from the table kept of them where there is one.

    Args:
        store: what is searched.
        embedder: of the query, too.
        filters: which slices.
        folder: where tables are kept; None is the user's cache.

    Raises:
        NoImagesError: no slice passes.
    """
    rows = store.select(filters)
    if not rows:
        raise NoImagesError(f"store {store.place}: holds no axial CT slice with a body to search; ingest some")
    name = hashlib.sha256(json.dumps([store.fingerprint, embedder.fingerprint, repr(filters)]).encode()).hexdigest()
    path = (folder or user_cache() / "features") / name[:16] / "features.parquet"
    if not path.is_file():
        features = embedder.embed(store, rows)
        write_features(path, [{**row, "features": one} for row, one in zip(rows, features, strict=True)])
    table = pq.read_table(path).to_pydict()
    return SliceFeatures(
        _unit(np.asarray(table["features"], dtype=np.float32)), table["series_id"], table["slice"], table["patient"]
    )


def nearest_series(query: Floats, among: SliceFeatures, count: int = 8, *, without: str = "") -> list[Match]:
    """The nearest series of a series, or of a slice.

    Args:
        query: (M, D), of a series; (1, D) of a slice.
        among: what is searched.
        count: at most.
        without: a patient that is not shown, that of the query.
    """
    likeness = _unit(query) @ among.features.T
    means = [float(likeness[:, rows].max(axis=1).mean()) for rows in among.by_series]
    found: list[Match] = []
    for place in np.argsort(-np.asarray(means), kind="stable").tolist():
        rows = among.by_series[place]
        best = int(rows[likeness[:, rows].max(axis=0).argmax()])
        if len(found) < count and not (without and among.patients[best] == without):
            found.append(Match(among.series[best], among.slices[best], among.patients[best], means[place]))
    return found


def usual_likeness(among: SliceFeatures, *, whole_series: bool, seed: int = 0) -> Floats:
    """How alike cases of different patients usually are: likenesses as of `nearest_series`, in rising order.

    At most 32 series, or 4 slices of each of these, are compared with at most 200 series of other patients. Empty where
    there is one patient alone.

    Args:
        among: what is searched.
        whole_series: whether series are compared with series, or slices with series.
        seed: of the choice.
    """
    generator = np.random.default_rng(seed)
    chosen = [among.by_series[i] for i in generator.permutation(len(among.by_series))[:USUAL_SERIES]]
    found = []
    for rows in chosen[:USUAL_QUERIES]:
        others = [other for other in chosen if among.patients[int(other[0])] != among.patients[int(rows[0])]]
        slices = generator.permutation(rows)[:USUAL_SLICES, None]
        for query in [rows] if whole_series else slices:
            found += [float((among.features[query] @ among.features[o].T).max(axis=1).mean()) for o in others]
    return np.sort(np.asarray(found, dtype=np.float64))


def draw_matches(
    query: tuple[SliceStore, str, int], store: SliceStore, matches: Sequence[Match], window: Any, path: Path
) -> None:
    """Draw the query and what was found, each with its id, slice and likeness.

    Args:
        query: store, series id and slice.
        store: of what was found.
        matches: one or more.
        window: what is shown, see `windowed_slice`.
        path: PNG to write.

    Raises:
        InputError: nothing was found.
    """
    if not matches:
        raise InputError(
            "similar: nothing is left to show, for all slices are of the query's patient; use --same-patient"
        )
    tiles = [(query[0], query[1], query[2], "the query"), *((store, m.series_id, m.slice, "") for m in matches)]
    columns = min(5, len(tiles))
    rows = -(-len(tiles) // columns)
    figure = Figure(figsize=(2.6 * columns, 3.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    shown = ""
    for number, (panel, (owner, series, place, title)) in enumerate(zip(panels, tiles, strict=False)):
        row = owner.select([["series_id", "==", series], ["slice", "==", place]])[0]
        picture, shown = windowed_slice(owner.read(series, place), window, row["window_level"], row["window_width"])
        aspect = (row["spacing_row_mm"] or 1) / (row["spacing_column_mm"] or 1)
        panel.imshow(picture, cmap="gray", vmin=0, vmax=1, aspect=aspect)
        rank = title or f"{number}. {_rank(matches[number - 1])}"
        panel.set_title(f"{rank}\n{series}\nslice {place}", fontsize=8, fontweight="bold" if title else "normal")
    for panel in panels:
        panel.set_axis_off()
    figure.suptitle(
        f"Cases like the query ({shown})\nabove N %: as many pairs of different patients are less alike", fontsize=10
    )
    save_figure(figure, path, dpi=110)


def _rank(match: Match) -> str:
    return f"likeness {match.likeness:.3f}" + ("" if match.percentile is None else f", above {match.percentile:.0f} %")


def _ranked(match: Match, usual: Floats) -> Match:
    below = np.searchsorted(usual, match.likeness)
    return replace(match, percentile=round(100 * float(below) / len(usual), 1)) if len(usual) else match


def _unit(features: Floats) -> Floats:
    length = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(length, 1e-12))


def similar_cases(
    query: str,
    store: Path,
    encoder: Path,
    out: Path,
    slice_number: int | None = None,
    *,
    count: int = 8,
    same_patient: bool = False,
) -> dict[str, Any]:
    """Write ``similar.json`` and ``similar.png``, which name series by their ids in the store.

    Args:
        query: a series id of the store; or files, folders or an archive with one CT series.
        store: what is searched.
        encoder: a run or a weights file.
        out: folder.
        slice_number: of the query; None compares whole series.
        count: matches at most.
        same_patient: whether other series of the query's patient count; the query itself never does.

    Returns:
        The content of ``similar.json``.

    Raises:
        InputError: the query is not one series, or has no such slice; or nothing is left to show.
        StoreError: there is no store. CheckpointError: the weights are no encoder.
    """
    searched = store_at(store)
    with tempfile.TemporaryDirectory(prefix="medssl-similar-") as folder:  # of the store that a query in files becomes
        asked_store, rows = _query(query, searched, Path(folder))
        series, patient = rows[0]["series_id"], rows[0]["patient"]
        if slice_number is not None:
            last = rows[-1]["slice"]
            rows = [row for row in rows if row["slice"] == slice_number]
            if not rows:
                raise InputError(f"similar: the query has no axial CT slice {slice_number}; its last is {last}")
        embedder = Embedder(encoder)
        features = embedder.embed(asked_store, rows)
        among = store_features(searched, embedder)
        matches = nearest_series(features, among, count + 1, without="" if same_patient else patient)
        usual = usual_likeness(among, whole_series=slice_number is None)
        matches = [_ranked(match, usual) for match in matches if match.series_id != series][:count]
        shown = rows[len(rows) // 2]["slice"]
        draw_matches((asked_store, series, shown), searched, matches, embedder.window, out / "similar.png")
    content = {
        "query": {"series_id": series, "slice": slice_number, "patient": patient},
        "compared": "whole series: mean over the query's slices of the likeness to the best slice"
        if slice_number is None
        else "one slice, with the best slice of each series",
        "likeness": "cosine of the encoder's features",
        "percentile": f"% of {len(usual)} such comparisons between different patients of the store that are less alike",
        "searched_slices": len(among.series),
        "matches": [match.as_json() for match in matches],
    }
    write_json(out / "similar.json", content)
    return content


def _query(query: str, searched: SliceStore, folder: Path) -> tuple[SliceStore, list[dict[str, Any]]]:
    """Store and rows of the query; files are ingested into ``folder``."""
    if query in searched.series_ids:
        rows = [row for row in searched.select(AXIAL_CT) if row["series_id"] == query]
        if not rows:
            raise InputError(f"similar: series {query} has no axial CT slice; name another")
        return searched, rows
    path = Path(query)
    if not path.exists():
        raise InputError(f"similar: {query} is neither a series of the store nor a file or folder; correct it")
    given = PredictionInput(path, cache_dir=folder)
    series = sorted({row["series_id"] for row in given.rows})
    if len(series) > 1:
        raise InputError(
            f"similar: {query} holds {len(series)} axial CT series ({', '.join(series[:4])}); give files of "
            "one, or ingest them and name one of these ids"
        )
    return given.store, given.rows
