import doctest
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.data.meta_tensor import MetaTensor
from monai.transforms.compose import Compose
from monai.transforms.intensity.array import ScaleIntensityRange

from medssl_monai.errors import ConfigError, NotHounsfieldError
from medssl_monai.transforms import CTWindow, CTWindowd, ct_window
from medssl_monai.transforms.ct_window import window_limits
from medssl_monai.windows import parse_windows, resolve_window, window_presets

GOLDEN = Path(__file__).resolve().parents[1] / "golden"
FIXED = [name for name in window_presets() if name not in ("tags", "minmax", "picture")]
LIMITS = st.tuples(st.integers(-2000, 2000), st.integers(1, 4000)).map(lambda p: [p[0], p[0] + p[1]])
HU = hnp.arrays(np.int16, hnp.array_shapes(min_dims=3, max_dims=4, max_side=6).map(lambda s: (1, *s[1:])))


@pytest.mark.parametrize("name", FIXED)
def test_linear_exact_of_the_standard(name: str) -> None:
    """PS3.3 C.11.2.1.3.2: y = ((x - c) / w + 0.5) (ymax - ymin) + ymin, clipped; written as the standard's cases."""
    low, high = resolve_window(name)
    level, width = (low + high) / 2, high - low
    for hu in range(-1100, 3100, 37):
        if hu <= level - width / 2:
            expected = 0.0
        elif hu > level + width / 2:
            expected = 1.0
        else:
            expected = (hu - level) / width + 0.5
        assert CTWindow(name)(np.array([[[hu]]], np.int16)).item() == pytest.approx(expected, abs=1e-6)


@given(HU, LIMITS)
def test_in_range_monotone_and_inverted_to_clipped_hu(hu: np.ndarray[Any, Any], limits: list[int]) -> None:
    window = CTWindow(limits)
    out = window(hu)
    assert out.dtype == np.float32 and out.shape == hu.shape
    assert out.min() >= 0 and out.max() <= 1
    order = np.argsort(hu, axis=None)
    assert (np.diff(np.asarray(out).ravel()[order]) >= 0).all()
    np.testing.assert_allclose(window.inverse(out), np.clip(hu, limits[0], limits[1]), atol=1e-2)
    np.testing.assert_allclose(np.asarray(window(torch.from_numpy(hu))), out, atol=1e-6)


def test_without_clipping_the_inverse_is_exact() -> None:
    hu = np.arange(-1024, 3072, dtype=np.int16).reshape(1, 64, 64)
    window = CTWindow("brain", clip=False)
    assert window(hu).max() > 10
    np.testing.assert_allclose(window.inverse(window(hu)), hu, atol=1e-2)


def test_the_windows_of_medgemma_are_those_of_its_notebook() -> None:
    """Its CT notebook (google-health/medgemma, high_dimensional_ct): clip, subtract the low limit, divide by the width,
    times 255; red, green and blue are -1024 to 1024, -135 to 215 and 0 to 80 HU."""
    hu = np.arange(-1500, 3100, dtype=np.float32).reshape(1, 46, 100)
    expected = [
        (np.clip(hu[0], low, high) - low) / (high - low) * 255 for low, high in ((-1024, 1024), (-135, 215), (0, 80))
    ]
    found = np.asarray(CTWindow("medgemma")(hu.astype(np.int16))) * 255
    np.testing.assert_allclose(found, expected, atol=1e-4)
    np.testing.assert_array_equal(found.round(), np.round(expected))


def test_the_windows_of_published_models_are_those_of_their_code() -> None:
    """CT-FM's card: MONAI's ScaleIntensityRange. CT-CLIP's data_inference_nii.py: clip, divide by 1000. MedSAM's
    pre_CT_MR.py: clip to level 40 and width 400, then from the lowest to the highest value."""
    hu = np.arange(-1500, 3100, dtype=np.int16).reshape(1, 46, 100)
    card = ScaleIntensityRange(a_min=-1024, a_max=2048, b_min=0, b_max=1, clip=True)
    np.testing.assert_allclose(CTWindow("ct_fm")(hu), card(hu.astype(np.float32)), atol=1e-6)
    clipped = np.clip(hu.astype(np.float64), -1000, 1000) / 1000
    np.testing.assert_allclose((np.asarray(CTWindow("ct_clip")(hu)) - 0.5) / 0.5, clipped, atol=1e-6)
    clipped = np.clip(hu.astype(np.float64), 40 - 400 / 2, 40 + 400 / 2)
    expected = (clipped - clipped.min()) / (clipped.max() - clipped.min())
    np.testing.assert_allclose(CTWindow("medsam")(hu), expected, atol=1e-6)


def test_several_windows_are_channels() -> None:
    hu = np.random.default_rng(0).integers(-1024, 2000, (1, 5, 6)).astype(np.int16)
    windows: list[Any] = ["lung", [-160, 240], "bone"]
    out = CTWindow(windows)(hu)
    assert out.shape == (3, 5, 6)
    for channel, window in enumerate(windows):
        np.testing.assert_array_equal(out[channel], CTWindow(window)(hu)[0])
    with pytest.raises(ValueError, match="no inverse"):
        CTWindow(["lung", "bone"]).inverse(out)


def test_minmax_is_per_image_and_survives_a_constant() -> None:
    image = np.array([[[-50, 0], [50, 150]]], np.int16)
    np.testing.assert_allclose(CTWindow("minmax")(image), [[[0, 0.25], [0.5, 1]]])
    assert (CTWindow("minmax")(np.full((1, 2, 2), 7)) == 0).all()
    extremes = np.array([[[-32768, 32767]]], np.int16)  # their difference does not fit int16
    np.testing.assert_array_equal(CTWindow("minmax")(extremes), [[[0, 1]]])


@pytest.mark.parametrize("case", range(5))
def test_minmax_is_what_the_paper_stored(case: int) -> None:
    """Wolf et al. 2023 wrote the slice's min-max image as an 8-bit PNG; the golden PNGs come from their code."""
    with np.load(GOLDEN / "preproc_lidc.npz") as golden:
        hu, png = golden[f"c{case}_hu"], golden[f"c{case}_png"]
    np.testing.assert_array_equal(np.rint(np.asarray(CTWindow("minmax")(hu[None]))[0] * 255), png)


def test_tags_window() -> None:
    item: dict[str, Any] = {
        "image": torch.tensor([[[0, 50, 100]]], dtype=torch.int16),
        "window_level": 50.0,
        "window_width": 100.0,
    }
    assert CTWindowd("image", "tags")(item)["image"].tolist() == [[[0.0, 0.5, 1.0]]]
    nothing = {**item, "window_level": math.nan, "window_width": math.nan}
    with pytest.raises(ConfigError, match=r"nan.*window_fallback"):
        CTWindowd("image", "tags")(nothing)
    fallen = CTWindowd("image", "tags", window_fallback=[0, 200])(nothing)["image"]
    assert fallen.tolist() == [[[0.0, 0.25, 0.5]]]
    with pytest.raises(ConfigError, match="width 0"):
        CTWindow("tags")(item["image"], 40.0, 0.0)


def test_only_ct_is_in_hounsfield_units() -> None:
    item = {"image": np.zeros((1, 2, 2), np.float32), "modality": "MR", "window_level": 0.0, "window_width": 1.0}
    with pytest.raises(NotHounsfieldError, match="MR"):
        CTWindowd("image", "lung")(item)
    with pytest.raises(NotHounsfieldError):
        CTWindowd("image", "tags", window_fallback="lung")(item)
    for name in ("minmax", "tags", "picture"):
        CTWindowd("image", name)(item)
    CTWindowd("image", "lung")({**item, "modality": "CT"})
    with pytest.raises(NotHounsfieldError, match="'picture' on CT"):
        CTWindowd("image", ["lung", "picture"])({**item, "modality": "CT"})


@pytest.mark.parametrize(
    ("level", "width", "limits"), [(None, None, (0, 255)), (127.5, 255, (0, 255)), (50, 20, (40, 60))]
)
def test_a_picture_has_the_range_of_its_bits(level: float | None, width: float | None, limits: tuple[int, int]) -> None:
    """0 .. 255, whatever values the picture has; of 16 bits what ingestion noted."""
    assert window_limits(parse_windows("picture"), np.array([[[7, 90]]]), level, width) == (limits,)


def test_a_tracked_metatensor_inverts_even_what_depends_on_the_image() -> None:
    hu = torch.tensor([[[-1000.0, 0.0, 400.0]]])
    for name in ("lung", "minmax"):
        chain = Compose([CTWindowd("image", name)])
        out = chain({"image": MetaTensor(hu)})
        assert len(out["image"].applied_operations) == 1
        back = chain.inverse(out)["image"]  # type: ignore[no-untyped-call]
        low, high = (-1350.0, 150.0) if name == "lung" else (-1000.0, 400.0)
        torch.testing.assert_close(back.as_tensor(), hu.clamp(low, high), atol=1e-3, rtol=0)
        assert back.applied_operations == []
    with pytest.raises(ValueError, match="no inverse"):
        CTWindow("minmax").inverse(torch.zeros(1, 2, 2))


def test_one_channel_is_needed() -> None:
    with pytest.raises(ValueError, match="one channel"):
        CTWindow("lung")(np.zeros((3, 4, 4)))
    assert window_limits(["minmax"], np.array([3, 9])) == ((3.0, 9.0),)


def test_examples_in_the_docstrings() -> None:
    assert doctest.testmod(ct_window, extraglobs={"np": np}).failed == 0
