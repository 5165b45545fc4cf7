"""Prints of slices: equal under what does not change a picture, near under what hardly does, far between pictures."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.store.prints import (
    BITS,
    ORIENTATIONS,
    VIEWS_HU,
    print_distances,
    slice_prints,
    turned_prints,
    unpacked,
)
from tests.ingest.dicom_fixtures import anatomy

CT = anatomy(3, 4)


def nearest(query: np.ndarray, modality: str = "OT") -> int:
    return int(print_distances(unpacked(turned_prints(query, modality)), unpacked(slice_prints(CT[1]))).min())


@pytest.mark.parametrize("modality", ["CT", "OT"])
def test_orientations_are_those_of_turned_pixels(modality: str) -> None:
    pixels = np.ascontiguousarray(CT[1][:, :50])  # not square
    turned = [np.rot90(side, turns) for side in (pixels, pixels[:, ::-1]) for turns in range(4)]
    expected = {one.tobytes() for each in turned for one in slice_prints(np.ascontiguousarray(each), modality)}
    found = turned_prints(pixels, modality)
    assert len(found) == ORIENTATIONS * (len(VIEWS_HU) if modality == "CT" else 1)
    assert {one.tobytes() for one in found} == expected


def test_what_hardly_changes_a_picture_hardly_changes_its_print() -> None:
    low, high = VIEWS_HU[1]
    picture = np.clip((CT[1] - low) / (high - low) * 255, 0, 255).astype(np.uint8)
    _, file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 60])
    changed = {
        "the same slice": (CT[1], "CT"),
        "8 bits": (picture, "OT"),
        "turned": (np.rot90(CT[1]).copy(), "CT"),
        "mirrored": (picture[:, ::-1].copy(), "OT"),
        "larger": (cv2.resize(picture, (150, 150), interpolation=cv2.INTER_CUBIC), "OT"),
        "recompressed": (cv2.imdecode(file, cv2.IMREAD_GRAYSCALE), "OT"),
    }
    found = {name: nearest(*one) for name, one in changed.items()}
    assert found["the same slice"] == found["turned"] == 0
    assert max(found.values()) <= 20, found


def test_other_slices_differ() -> None:
    others = [nearest(anatomy(seed, 2)[0], "CT") for seed in (100, 200, 300)]
    assert min(others) > 30, others


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 2**BITS - 1), min_size=1, max_size=5), st.lists(st.integers(0, 2**BITS - 1), min_size=1))
def test_distances_by_brute_force(first: list[int], second: list[int]) -> None:
    sides = [np.array([list(one.to_bytes(BITS // 8, "big")) for one in side], np.uint8) for side in (first, second)]
    expected = [[(a ^ b).bit_count() for b in second] for a in first]
    assert print_distances(*map(unpacked, sides)).tolist() == expected
