"""The nearest are found by cosine; the query's patient is not shown; features are computed once."""

import json
from pathlib import Path

import numpy as np
import pytest

from medssl_monai.classify import similar
from medssl_monai.classify.similar import SliceFeatures, nearest_series, nearest_slices, similar_cases
from medssl_monai.errors import InputError
from medssl_monai.ingest import SliceStore


@pytest.fixture
def some() -> SliceFeatures:
    features = np.random.default_rng(0).normal(size=(12, 6))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    series = [f"s{i // 3}" for i in range(12)]
    return SliceFeatures(unit, series, [i % 3 for i in range(12)], [f"p{i // 6}" for i in range(12)])


def test_slices_by_cosine(some: SliceFeatures) -> None:
    query = np.random.default_rng(1).normal(size=6) * 5
    cosine = [float(f @ query / np.linalg.norm(query)) for f in some.features]
    found = nearest_slices(query, some, 12, one_per_series=False)
    assert [(m.series_id, m.slice) for m in found] == [
        (some.series[i], some.slices[i]) for i in np.argsort(cosine)[::-1]
    ]
    assert found[0].likeness == pytest.approx(max(cosine))
    apart = nearest_slices(query, some, 12)
    assert sorted(m.series_id for m in apart) == ["s0", "s1", "s2", "s3"]
    assert {m.patient for m in nearest_slices(query, some, 12, without="p0")} == {"p1"}


def test_a_series_is_most_like_itself(some: SliceFeatures) -> None:
    found = nearest_series(some.features[3:6], some, 4)
    assert found[0].series_id == "s1"
    assert found[0].likeness == pytest.approx(1.0)
    assert len(found) == 4
    assert found[0].likeness > found[1].likeness >= found[2].likeness


def test_cases_from_a_store(
    fine_tuned: Path, phantom_store: SliceStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = phantom_store.series_ids[0]
    found = similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "a", 3, count=3)
    assert query not in {match["series_id"] for match in found["matches"]}
    assert len(found["matches"]) == 3
    assert json.loads((tmp_path / "a" / "similar.json").read_text(encoding="utf-8")) == found
    assert (tmp_path / "a" / "similar.png").stat().st_size > 10_000
    whole = similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "b")

    def embed_alone(self: similar.Embedder, store: SliceStore, rows: list[dict[str, object]]) -> object:
        assert len(rows) == 6, "of the store nothing is computed again"
        return original(self, store, rows)

    original = similar.Embedder.embed
    monkeypatch.setattr(similar.Embedder, "embed", embed_alone)
    assert similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "c") == whole
    with pytest.raises(InputError, match="no axial CT slice 99; its last is 5"):
        similar_cases(query, phantom_store.path, fine_tuned, tmp_path / "d", 99)
    with pytest.raises(InputError, match="neither a series of the store"):
        similar_cases("nothing", phantom_store.path, fine_tuned, tmp_path / "e")
