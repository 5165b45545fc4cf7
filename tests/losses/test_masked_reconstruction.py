"""SparK's loss against a slow NumPy version written from the paper, and its laws."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medssl_monai.losses.masked_reconstruction import (
    masked_reconstruction_loss,
    patch_statistics,
    patchify,
    unpatchify,
)

Array = npt.NDArray[np.float64]


def slow_loss(prediction: Array, image: Array, visible: npt.NDArray[np.bool_]) -> float:
    """Patch by patch: normalise the true one by itself, average the squared error over the hidden ones."""
    errors = []
    for sample, _, row, column in np.argwhere(~visible):
        window = np.s_[sample, :, 32 * row : 32 * row + 32, 32 * column : 32 * column + 32]
        target = image[window]
        target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        errors.append(np.mean((prediction[window] - target) ** 2))
    return float(np.mean(errors))


@settings(max_examples=20, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.integers(1, 3),
    rows=st.integers(1, 3),
    columns=st.integers(1, 3),
    channels=st.sampled_from([1, 3]),
)
def test_loss_equals_the_slow_one(seed: int, batch: int, rows: int, columns: int, channels: int) -> None:
    rng = np.random.default_rng(seed)
    prediction, image = rng.normal(size=(2, batch, channels, 32 * rows, 32 * columns))
    image = 0.3 * image + rng.normal()
    visible = rng.random((batch, 1, rows, columns)) < 0.4
    visible[0, 0, 0, 0] = False
    loss = masked_reconstruction_loss(torch.from_numpy(prediction), torch.from_numpy(image), torch.from_numpy(visible))
    assert float(loss) == pytest.approx(slow_loss(prediction, image, visible), rel=1e-12)


@given(rows=st.integers(1, 3), columns=st.integers(1, 3), channels=st.sampled_from([1, 3]), patch=st.integers(1, 4))
def test_patches_go_back_where_they_came_from(rows: int, columns: int, channels: int, patch: int) -> None:
    image = torch.arange(2 * channels * rows * columns * patch**2).view(2, channels, rows * patch, columns * patch)
    patches = patchify(image, patch)
    assert patches.shape == (2, rows * columns, patch * patch * channels)
    assert torch.equal(unpatchify(patches, rows, columns, patch), image)


def test_loss_ignores_brightness_contrast_and_visible_cells() -> None:
    torch.manual_seed(0)
    image, prediction = torch.randn(2, 2, 1, 64, 64, dtype=torch.float64)
    mask = torch.tensor([[[[True, False], [False, True]]], [[[False, True], [True, False]]]])
    loss = masked_reconstruction_loss(prediction, image, mask)
    assert masked_reconstruction_loss(prediction, 5 * image - 3, mask).item() == pytest.approx(loss.item(), rel=1e-5)
    prediction[0, :, :32, :32] += 9  # a visible cell
    assert masked_reconstruction_loss(prediction, image, mask).item() == loss.item()


def test_the_normalised_image_itself_has_no_error_and_zero_has_nearly_one() -> None:
    torch.manual_seed(0)
    image = torch.randn(2, 3, 64, 32, dtype=torch.float64)
    mask = torch.tensor([True, False]).view(1, 1, 2, 1).expand(2, 1, 2, 1)
    mean, deviation = patch_statistics(patchify(image))
    perfect = unpatchify((patchify(image) - mean) / deviation, 2, 1)
    assert masked_reconstruction_loss(perfect, image, mask).item() == pytest.approx(0, abs=1e-20)
    # A patch of n values normalised by its unbiased deviation has mean square (n − 1) / n.
    assert masked_reconstruction_loss(0 * image, image, mask).item() == pytest.approx(1 - 1 / 3072, rel=1e-5)


def test_flat_patches_and_all_visible_images_stay_finite() -> None:
    image = torch.full((1, 1, 32, 64), -1.0, requires_grad=True)
    prediction = torch.zeros(1, 1, 32, 64, requires_grad=True)
    loss = masked_reconstruction_loss(prediction, image, torch.tensor([[[[True, False]]]]))
    assert all(torch.isfinite(gradient).all() for gradient in torch.autograd.grad(loss, (prediction, image)))
    assert masked_reconstruction_loss(prediction, image, torch.ones(1, 1, 1, 2, dtype=torch.bool)).item() == 0
