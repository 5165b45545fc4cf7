"""Rules of thinning: what is a rule, and which slices each leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medssl_monai.errors import ConfigError, StoreError
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.ingest.volumes.patients import NamedPatients
from medssl_monai.store.measures import hamming_distance
from medssl_monai.store.redundancy import kept_slices, redundancy_rule
from tests.classify.made_pictures import picture
from tests.ingest.dicom_fixtures import KEY, axial_positions, phantom, write_series


def kept(store: SliceStore, rule: str, filters: Any = None) -> list[int]:
    """Numbers of the slices that are kept."""
    rows = store.select(filters)
    return [
        row["slice"] for row, one in zip(rows, kept_slices(store, redundancy_rule(rule), filters), strict=True) if one
    ]


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("none", "none", 0),
        ("hash-0", "hash", 0),
        ("hash-06", "hash", 6),
        ("spacing-2.50mm", "spacing", 2.5),
        ("embedding-1", "embedding", 1),
    ],
)
def test_rules(text: str, kind: str, value: float) -> None:
    rule = redundancy_rule(text)
    assert (rule.kind, rule.value) == (kind, value)
    assert redundancy_rule(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hash6", r"found 'hash6' \(did you mean 'hash-6'\?\); correct it"),
        ("HSAH-12", r"\(did you mean 'hash-12'\?\)"),
        ("spacing-3", r"\(did you mean 'spacing-3mm'\?\)"),
        ("spacing-3 mm", r"\(did you mean 'spacing-3mm'\?\)"),
        ("embeding_0.9", r"\(did you mean 'embedding-0.9'\?\)"),
        ("None", r"\(did you mean 'none'\?\)"),
        ("hash", "found 'hash'; correct it"),
        ("spacing-3cm", "found 'spacing-3cm'; correct it"),
        ("hash-6.5", "must be none, hash-N .bits, such as hash-6"),
        ("hash--1", "must be none"),
        (6.0, "found 6.0; correct it"),
        (False, "found False"),
        ("hash-65", "hash takes a number from 0 to 64 bits, found 'hash-65'"),
        ("spacing-0mm", "above 0 mm, found 'spacing-0mm'"),
        ("embedding-1.1", "a cosine above 0 and at most 1, found"),
    ],
)
def test_what_is_no_rule(text: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^redundancy: .*{message}"):
        redundancy_rule(text)


def test_hashes_are_compared_with_the_last_one_kept(phantom_store: SliceStore) -> None:
    rows = phantom_store.select()
    assert kept_slices(phantom_store, redundancy_rule("none")).all()
    alike = kept_slices(phantom_store, redundancy_rule("hash-64"))
    assert [row for row, one in zip(rows, alike, strict=True) if one] == [row for row in rows if row["slice"] == 0]
    for distance in (0, 6, 12):
        mask = kept_slices(phantom_store, redundancy_rule(f"hash-{distance}"))
        left = [row for row, one in zip(rows, mask, strict=True) if one]
        assert {row["series_id"] for row in left} == set(phantom_store.series_ids)
        last = left[0]
        for row, one in zip(rows, mask, strict=True):
            first = row["slice"] == 0
            assert one == (first or hamming_distance(last["phash"], row["phash"]) > distance)
            last = row if one else last


@pytest.mark.parametrize(
    ("depths", "rule", "filters", "wanted"),
    [
        ([0, 2.5, 5, 7.5, 10, 12.5], "spacing-5mm", None, [0, 2, 4]),
        ([0, 2.5, 5, 7.5, 10, 12.5], "spacing-2.5mm", None, [0, 1, 2, 3, 4, 5]),
        ([0, 2.5, 5, 7.5, 10, 12.5], "spacing-6mm", None, [0, 3]),
        # After a gap the next slice is far enough away, whatever its number.
        ([0, 2.5, 5, 17.5, 20, 22.5], "spacing-6mm", None, [0, 3]),
        ([0, 2.5, 5, 17.5, 20, 22.5], "spacing-4mm", None, [0, 2, 3, 5]),
        # What filters leave out still lies between the others.
        ([0, 2.5, 5, 7.5, 10, 12.5], "spacing-5mm", [["slice", "not in", [1, 2]]], [0, 3, 5]),
        # Positions written with three digits: 3 times 1.667 is a little more than 5 mm, 3 times 1.666 a little less.
        ([0, 1.666, 3.332, 4.998, 6.664, 8.33], "spacing-5mm", None, [0, 3]),
    ],
)  # fmt: skip
def test_spacing_is_in_mm(depths: list[float], rule: str, filters: Any, wanted: list[int], tmp_path: Path) -> None:
    for number, series in enumerate(("one", "two")):
        positions = [[-120.0, -90.0, 35.0 + depth] for depth in depths]
        hu = phantom(6, seed=number)
        write_series(tmp_path / "in" / series, hu, positions=positions, series=series, PatientID=series)
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    assert kept(SliceStore(tmp_path / "store"), rule, filters) == wanted * 2


def test_without_positions_there_is_no_spacing(tmp_path: Path) -> None:
    write_series(tmp_path / "in" / "one", phantom(3), positions=axial_positions(3))
    picture(tmp_path / "in" / "two.png", (64, 64))
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, modality=None, progress=False)
    store = SliceStore(tmp_path / "store")
    with pytest.raises(StoreError, match=r"1 of 2 series have none \(pictures never do\); give redundancy=hash-6, or"):
        kept_slices(store, redundancy_rule("spacing-5mm"))
    assert kept(store, "spacing-5mm", [["slice_spacing_mm", ">", 0]]) == [0, 2]


def test_pictures_are_compared_within_their_patient(tmp_path: Path) -> None:
    for number, name in enumerate(f"{patient}_{i}" for patient in "ab" for i in range(5)):
        picture(tmp_path / "in" / f"{name}.png", (64, 64), seed=number % 5 % 2)
        grey = np.array(Image.open(tmp_path / "in" / f"{name}.png"))
        grey[0, number] ^= 1  # no two files show the very same, of which ingestion takes one
        Image.fromarray(grey).save(tmp_path / "in" / f"{name}.png")
    patients = NamedPatients("^([a-z])_")
    build_store([tmp_path / "in"], tmp_path / "named", key=KEY, modality="OT", patients=patients, progress=False)
    build_store([tmp_path / "in"], tmp_path / "nameless", key=KEY, modality="OT", progress=False)
    named, nameless = SliceStore(tmp_path / "named"), SliceStore(tmp_path / "nameless")
    assert len(named) == len(nameless) == 10
    left = named.index.filter(kept_slices(named, redundancy_rule("hash-6")))
    assert sorted(left.column("patient").to_pylist()) == sorted(named.index.column("patient").unique().to_pylist() * 2)
    assert kept_slices(nameless, redundancy_rule("hash-6")).all()


def test_features_are_compared_by_cosine(tmp_path: Path) -> None:
    write_series(tmp_path / "in", phantom(6))
    build_store([tmp_path / "in"], tmp_path / "store", key=KEY, progress=False)
    angles = np.deg2rad([0, 10, 20, 40, 45, 0])
    features = np.stack([np.cos(angles), np.sin(angles)], axis=1) * np.arange(1, 7)[:, None]
    rule = redundancy_rule(f"embedding-{np.cos(np.deg2rad(15)):.6f}")
    assert kept_slices(SliceStore(tmp_path / "store"), rule, None, features).tolist() == [1, 0, 1, 1, 0, 1]
