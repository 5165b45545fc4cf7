import math
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.bundle.config_parser import ConfigParser
from monai.data.meta_tensor import MetaTensor
from torch.utils.data import DataLoader, Dataset

from medssl_monai.errors import NotHounsfieldError
from medssl_monai.transforms import LabelledParameters, LabelledView, LabelledViewd, sample_generator
from medssl_monai.transforms.spatial import resample_affine
from medssl_monai.windows import resolve_window
from tests.transforms.body_slices import body_slice, psnr_db

# What an inference.yaml says with MONAI's transforms alone. low, high: the window in HU; 1024 keeps air at zero,
# which MONAI's Gaussian and padding assume beyond the border.
ONE_WINDOW = """
preprocessing:
  _target_: Compose
  transforms:
    - {_target_: CastToTyped, keys: image, dtype: $torch.float32}
    - {_target_: ShiftIntensityd, keys: image, offset: 1024.0}
    - {_target_: Resized, keys: image, spatial_size: "@image_size", size_mode: longest, mode: bilinear,
       anti_aliasing: true}
    - {_target_: ResizeWithPadOrCropd, keys: image, spatial_size: ["@image_size", "@image_size"], value: 0}
    - {_target_: ScaleIntensityRanged, keys: image, a_min: "$@window_hu[0] + 1024", a_max: "$@window_hu[1] + 1024",
       b_min: 0.0, b_max: 1.0, clip: true}
    - {_target_: RepeatChanneld, keys: image, repeats: 3}
    - {_target_: NormalizeIntensityd, keys: image, subtrahend: "@mean", divisor: "@std", channel_wise: true}
"""
THREE_WINDOWS = """
preprocessing:
  _target_: Compose
  transforms:
    - {_target_: CastToTyped, keys: image, dtype: $torch.float32}
    - {_target_: ShiftIntensityd, keys: image, offset: 1024.0}
    - {_target_: Resized, keys: image, spatial_size: "@image_size", size_mode: longest, mode: bilinear,
       anti_aliasing: true}
    - {_target_: ResizeWithPadOrCropd, keys: image, spatial_size: ["@image_size", "@image_size"], value: 0}
    - {_target_: CopyItemsd, keys: image, times: 3, names: [w0, w1, w2]}
    - {_target_: ScaleIntensityRanged, keys: w0, a_min: "$@window_hu[0][0] + 1024", a_max: "$@window_hu[0][1] + 1024",
       b_min: 0.0, b_max: 1.0, clip: true}
    - {_target_: ScaleIntensityRanged, keys: w1, a_min: "$@window_hu[1][0] + 1024", a_max: "$@window_hu[1][1] + 1024",
       b_min: 0.0, b_max: 1.0, clip: true}
    - {_target_: ScaleIntensityRanged, keys: w2, a_min: "$@window_hu[2][0] + 1024", a_max: "$@window_hu[2][1] + 1024",
       b_min: 0.0, b_max: 1.0, clip: true}
    - {_target_: ConcatItemsd, keys: [w0, w1, w2], name: image}
    - {_target_: DeleteItemsd, keys: [w0, w1, w2]}
    - {_target_: NormalizeIntensityd, keys: image, subtrahend: "@mean", divisor: "@std", channel_wise: true}
"""
MEAN, STD = [0.3, 0.4, 0.5], [0.2, 0.25, 0.3]


def stock_monai(text: str, image: np.ndarray[Any, Any], side: int, window_hu: Any) -> torch.Tensor:
    config = {"imports": ["$import torch"], **yaml.safe_load(text)}
    parser = ConfigParser({**config, "image_size": side, "window_hu": window_hu, "mean": MEAN, "std": STD})
    chain = parser.get_parsed_content("preprocessing")
    result = chain({"image": MetaTensor(torch.from_numpy(image)[None])})["image"]
    return torch.as_tensor(result.as_tensor())


@pytest.mark.parametrize("shape", [(512, 512), (300, 512), (512, 201), (60, 90), (224, 224), (225, 224)])
def test_evaluation_is_stock_monai(shape: tuple[int, int]) -> None:
    image = body_slice(*shape)
    ours = LabelledViewd(image_size=224, window="lung", mean=MEAN, std=STD, augment=False)({"image": image[None]})
    expected = stock_monai(ONE_WINDOW, image, 224, list(resolve_window("lung")))
    assert ours["image"].shape == (3, 224, 224)
    torch.testing.assert_close(ours["image"], expected, atol=1e-4, rtol=0)


def test_evaluation_with_three_windows_is_stock_monai() -> None:
    image, names = body_slice(300, 400), ["lung", "soft_tissue", "bone"]
    ours = LabelledView(128, window=names, mean=MEAN, std=STD).apply(image[None])
    expected = stock_monai(THREE_WINDOWS, image, 128, [list(resolve_window(name)) for name in names])
    torch.testing.assert_close(ours, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("shape", [(512, 512), (300, 512), (512, 201), (60, 90)])
def test_training_without_change_is_the_evaluation_view(shape: tuple[int, int]) -> None:
    image = body_slice(*shape)
    view = LabelledView(224, window="full")
    same = view.apply(image[None], LabelledParameters())
    assert psnr_db(same * 4095, view.apply(image[None]) * 4095) > 40


def test_geometry_of_the_augmentation() -> None:
    """A bright disc goes where the parameters send it."""
    image = np.full((200, 200), -1000, np.int16)
    y, x = np.mgrid[:200, :200] + 0.5
    image[(y - 60) ** 2 + (x - 140) ** 2 < 64] = 1000  # 40 px above and right of the centre
    view = LabelledView(200, window="wide")

    def found(**parameters: Any) -> list[float]:
        out = view.apply(image[None], LabelledParameters(**parameters))[0].numpy()
        return [float((out * axis).sum() / out.sum()) for axis in (y, x)]

    assert found() == pytest.approx([60, 140], abs=0.2)
    assert found(scale=1.1) == pytest.approx([56, 144], abs=0.3)
    assert found(shift_rows=0.05, shift_columns=-0.05) == pytest.approx([70, 130], abs=0.2)
    assert found(flip_horizontal=True) == pytest.approx([60, 60], abs=0.2)
    assert found(rotation_degrees=90) == pytest.approx([60, 60], abs=0.2)  # counter-clockwise: right goes up
    turned = [
        100 - 40 * math.sqrt(2) * math.sin(math.radians(55)),
        100 + 40 * math.sqrt(2) * math.cos(math.radians(55)),
    ]
    assert found(rotation_degrees=10) == pytest.approx(turned, abs=0.2)


@settings(max_examples=30, deadline=None)
@given(st.integers(16, 600), st.integers(16, 600), st.integers(0, 2**40), st.booleans())
def test_any_slice_gives_a_view(height: int, width: int, seed: int, augment: bool) -> None:
    image = np.random.default_rng(height).integers(-1024, 3072, (1, height, width)).astype(np.int16)
    item = {"image": torch.from_numpy(image), "index": 0, "epoch": 0, "label": 1}
    out = LabelledViewd(image_size=96, window="soft_tissue", seed=seed, augment=augment)(item)
    assert out["image"].shape == (3, 96, 96) and out["image"].dtype == torch.float32
    assert out["image"].min() >= 0 and out["image"].max() <= 1
    assert out["label"] == 1


def test_draws_stay_in_their_ranges_and_depend_on_the_item_alone() -> None:
    view = LabelledView(64, flip=0.5)
    drawn = [view.draw(sample_generator(0, 0, index)) for index in range(300)]
    assert all(0.9 <= p.scale <= 1.1 and abs(p.rotation_degrees) <= 10 for p in drawn)
    assert all(max(abs(p.shift_rows), abs(p.shift_columns)) <= 0.05 for p in drawn)
    assert 100 < sum(p.flip_horizontal for p in drawn) < 200
    assert not any(LabelledView(64).draw(sample_generator(0, 0, index)).flip_horizontal for index in range(100))
    transform = LabelledViewd(image_size=64, seed=3)
    item = {"image": body_slice(80, 90)[None], "index": 5, "epoch": 2}
    first = transform(item)["image"]
    transform({**item, "index": 6})
    assert torch.equal(transform(item)["image"], first)
    assert not torch.equal(transform({**item, "epoch": 3})["image"], first)


class Labelled(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {"image": body_slice(80, 90, seed=index)[None], "index": index, "epoch": 0}
        return {**LabelledViewd(image_size=64)(item), "threads": cv2.getNumThreads()}


def test_workers_use_one_thread_and_give_the_same() -> None:
    before = cv2.getNumThreads()
    alone, shared = (next(iter(DataLoader(Labelled(), batch_size=4, num_workers=n))) for n in (0, 1))
    torch.testing.assert_close(alone["image"], shared["image"], atol=1e-5, rtol=0)
    assert set(shared["threads"].tolist()) == {1}
    assert cv2.getNumThreads() == before


def test_what_does_not_fit_is_refused() -> None:
    image = np.zeros((1, 32, 32), np.int16)
    with pytest.raises(NotHounsfieldError):
        LabelledViewd(augment=False)({"image": image, "modality": "CR"})
    LabelledViewd(augment=False, window="minmax")({"image": image, "modality": "CR"})
    with pytest.raises(ValueError, match="index"):
        LabelledViewd()({"image": image})
    with pytest.raises(ValueError, match="do not fit 3 channels"):
        LabelledView(window=["lung", "bone"])
    for wrong in ({"flip": 2}, {"scale": (1.1, 0.9)}, {"rotation_degrees": -1}, {"shift": -1}, {"image_size": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LabelledView(**wrong)
    with pytest.raises(ValueError, match="one key"):
        LabelledViewd(["image", "other"])


def test_border_is_air_not_water() -> None:
    """MONAI's Gaussian reads zeros beyond the border; without the shift, air at the edge would look like water."""
    view = LabelledView(64, window="full").apply(np.full((1, 400, 400), -1024, np.int16))
    assert view.max() == 0
    affine = np.diag([400 / 64, 400 / 64, 1.0])
    assert (resample_affine(np.full((400, 400), -1024, np.int16), affine, (64, 64)) == -1024).all()
