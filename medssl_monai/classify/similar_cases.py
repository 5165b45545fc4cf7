"""Similar cases from a store for a series or slice that is given by its id or as files: a list and a picture."""

from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_json
from medssl_monai.classify.inputs import AXIAL_CT, PredictionInput
from medssl_monai.classify.similar import Embedder, draw_matches, nearest_series, nearest_slices, store_features
from medssl_monai.errors import InputError
from medssl_monai.store.reader import SliceStore

__all__ = ["similar_cases"]


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
    searched = SliceStore(store)
    asked_store, rows, keep = _query(query, searched)
    series, patient = rows[0]["series_id"], rows[0]["patient"]
    if slice_number is not None:
        last = rows[-1]["slice"]
        rows = [row for row in rows if row["slice"] == slice_number]
        if not rows:
            raise InputError(f"similar: the query has no axial CT slice {slice_number}; its last is {last}")
    embedder = Embedder(encoder)
    features = embedder.embed(asked_store, rows)
    among = store_features(searched, embedder)
    without = "" if same_patient else patient
    if slice_number is None:
        matches, shown = nearest_series(features, among, count + 1, without=without), rows[len(rows) // 2]["slice"]
    else:
        matches, shown = nearest_slices(features[0], among, count + 1, without=without), slice_number
    matches = [match for match in matches if match.series_id != series][:count]
    draw_matches((asked_store, series, shown), searched, matches, embedder.window, out / "similar.png")
    content = {
        "query": {"series_id": series, "slice": slice_number, "patient": patient},
        "compared": "whole series: mean over the query's slices of the likeness to the best slice"
        if slice_number is None
        else "one slice, with the best slice of each series",
        "likeness": "cosine of the encoder's features",
        "searched_slices": len(among.series),
        "matches": [match.as_json() for match in matches],
    }
    write_json(out / "similar.json", content)
    del keep
    return content


def _query(query: str, searched: SliceStore) -> tuple[SliceStore, list[dict[str, Any]], Any]:
    """Store and rows of the query, and what must live as long as they are read."""
    if query in searched.series_ids:
        rows = [row for row in searched.select(AXIAL_CT) if row["series_id"] == query]
        if not rows:
            raise InputError(f"similar: series {query} has no axial CT slice; name another")
        return searched, rows, None
    path = Path(query)
    if not path.exists():
        raise InputError(f"similar: {query} is neither a series of the store nor a file or folder; correct it")
    given = PredictionInput(path)
    series = sorted({row["series_id"] for row in given.rows})
    if len(series) > 1:
        raise InputError(
            f"similar: {query} holds {len(series)} axial CT series ({', '.join(series[:4])}); give files of "
            "one, or ingest them and name one of these ids"
        )
    return given.store, given.rows, given
