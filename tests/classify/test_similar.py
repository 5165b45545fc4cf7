"""The nearest are found by cosine; the query's patient is not shown; features are computed once."""

import json
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.classify import similar
from medssl_monai.classify.embedder import Embedder
from medssl_monai.classify.similar import SliceFeatures, nearest_series, similar_cases, usual_likeness
from medssl_monai.errors import InputError
from medssl_monai.ingest import SliceStore


@pytest.fixture
def some() -> SliceFeatures:
    features = np.random.default_rng(0).normal(size=(12, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    series = [f"s{i // 3}" for i in range(12)]
    return SliceFeatures(unit, series, [i % 3 for i in range(12)], [f"p{i // 6}" for i in range(12)])


def test_series_of_a_slice_by_cosine(some: SliceFeatures) -> None:
    query = np.random.default_rng(1).normal(size=(1, 6)) * 5
    cosine = some.features @ query[0] / np.linalg.norm(query)
    best = {f"s{i}": max(range(3 * i, 3 * i + 3), key=lambda j: cosine[j]) for i in range(4)}
    wanted = sorted(best, key=lambda series: -cosine[best[series]])
    found = nearest_series(query, some, 12)
    assert [(m.series_id, m.slice) for m in found] == [(s, some.slices[best[s]]) for s in wanted]
    assert [m.likeness for m in found] == pytest.approx([cosine[best[s]] for s in wanted])
    assert len(nearest_series(query, some, 2)) == 2
    assert {m.patient for m in nearest_series(query, some, 12, without="p0")} == {"p1"}


def test_a_series_is_most_like_itself(some: SliceFeatures) -> None:
    found = nearest_series(some.features[3:6], some, 4)
    assert found[0].series_id == "s1"
    assert found[0].likeness == pytest.approx(1.0)
    assert len(found) == 4
    assert found[0].likeness > found[1].likeness >= found[2].likeness


def two_kinds(shared: float) -> SliceFeatures:
    """Twelve patients: eleven of one kind and one of another; ``shared`` is in all features."""
    rng = np.random.default_rng(0)
    kind = np.repeat([[4.0, 0.0, 0.0]] * 11 + [[0.0, 4.0, 0.0]], 5, axis=0)
    features = np.concatenate([kind + rng.normal(size=kind.shape), np.full((60, 1), shared)], axis=1)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return SliceFeatures(
        unit, [f"s{i // 5:02d}" for i in range(60)], list(range(5)) * 12, [f"p{i // 5}" for i in range(60)]
    )


@pytest.mark.parametrize("shared", [0.0, 30.0, 1000.0])
@pytest.mark.parametrize("rows", [slice(0, 5), slice(2, 3)])
def test_the_percentile_tells_alike_from_unlike(shared: float, rows: slice) -> None:
    """However much all features share, which makes all cosines nearly 1."""
    some = two_kinds(shared)
    usual = usual_likeness(some, whole_series=rows == slice(0, 5))
    found = [similar._ranked(match, usual) for match in nearest_series(some.features[rows], some, 12, without="p0")]
    assert found[-1].series_id == "s11"
    percentiles = [match.percentile or 0.0 for match in found]
    assert percentiles[-1] < 17, "as unlike as the pairs of the two kinds, a sixth of all"
    assert np.median(percentiles[:-1]) > 30
    if shared == 1000.0:
        assert found[-1].likeness > 0.9999


def test_the_usual_likeness_is_of_different_patients(some: SliceFeatures) -> None:
    pairs = usual_likeness(some, whole_series=True)
    cosines = some.features @ some.features.T
    wanted = [
        cosines[3 * a : 3 * a + 3, 3 * b : 3 * b + 3].max(axis=1).mean()
        for a in range(4)
        for b in range(4)
        if a // 2 != b // 2
    ]
    assert pairs == pytest.approx(np.sort(wanted))
    alone = SliceFeatures(some.features, some.series, some.slices, ["p0"] * 12)
    assert len(usual_likeness(alone, whole_series=False)) == 0
    (match,) = nearest_series(some.features[:1], alone, 1)
    assert similar._ranked(match, usual_likeness(alone, whole_series=True)).percentile is None


def test_cases_from_a_store(
    fine_tuned: Path, phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = phantom_store.series_ids[0]
    found = similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "a", 3, count=3)
    assert query not in {match["series_id"] for match in found["matches"]}
    assert len(found["matches"]) == 3
    assert all(0 <= match["percentile"] <= 100 for match in found["matches"])
    assert json.loads((tmp_path / "a" / "similar.json").read_text(encoding="utf-8")) == found
    assert (tmp_path / "a" / "similar.png").stat().st_size > 10_000
    whole = similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "b")

    def embed_alone(self: Embedder, store: SliceStore, rows: list[dict[str, object]]) -> object:
        assert len(rows) == 6, "of the store nothing is computed again"
        return original(self, store, rows)

    original = Embedder.embed
    monkeypatch.setattr(Embedder, "embed", embed_alone)
    assert similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "c") == whole
    with pytest.raises(InputError, match="no axial CT slice 99; its last is 5"):
        similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "d", 99)
    with pytest.raises(InputError, match="neither a series of the store"):
        similar_cases("nothing", phantom_store.path, fine_tuned, tmp_path / "e")
