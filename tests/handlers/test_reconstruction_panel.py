"""SparK's pictures and its loss on other slices are of the same views each time."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from medssl_monai.handlers.reconstruction_panel import ReconstructionPanel, hide_masked, show_picture
from medssl_monai.methods.reconstruction import evaluate_reconstruction
from medssl_monai.methods.spark import SparK
from medssl_monai.store.epochs import EpochDataset, SampleKey
from medssl_monai.transforms import SparKViewsd
from tests.transforms.body_slices import body_slice


class Slices(EpochDataset):
    transform = SparKViewsd(seed=0, image_size=64)

    def __getitem__(self, key: int | SampleKey) -> dict[str, Any]:
        epoch, index = self.sample_key(key)
        image = torch.from_numpy(body_slice(80, 80, seed=index))[None]
        return self.transform({"image": image, "index": index, "epoch": epoch, "series_id": f"s{index % 2}"})


@pytest.fixture(scope="module")
def method() -> SparK:
    torch.manual_seed(0)
    return SparK("resnet18", decoder_width=32, image_channels=1)


def test_the_panel_is_the_same_each_time_and_leaves_the_mode(tmp_path: Path, method: SparK) -> None:
    data = Slices(4)
    panel = ReconstructionPanel(method.train(), data, tmp_path, mean=0.25, std=0.25, count=3)
    made = []
    for _ in range(2):
        panel.draw("cpu", "SparK")
        with Image.open(panel.path) as picture:
            made.append(picture.convert("RGB").tobytes())
        assert method.training
        data[0]
    assert made[0] == made[1]


def test_hidden_cells_are_left_out() -> None:
    mask = torch.tensor([[[True, False], [False, True]]])
    shown = hide_masked(torch.full((3, 64, 64), 0.5), mask)
    assert shown.isnan().float().mean() == 0.5 and shown[:, :32, :32].eq(0.5).all() and shown[:, :32, 32:].isnan().all()
    axes = Figure().subplots()
    show_picture(axes, shown[0].numpy())
    assert axes.images[0].get_array().mask.sum() == 2048  # type: ignore[union-attr]


def test_the_loss_is_of_epoch_0_however_often_it_is_computed(tmp_path: Path, method: SparK) -> None:
    data = Slices(5)
    first, second = (evaluate_reconstruction(method, data, tmp_path, batch_size=size) for size in (2, 5))
    assert first["slices"] == 5 and set(first["per_series"]) == {"s0", "s1"}
    assert second["loss"] == pytest.approx(first["loss"], rel=1e-5)
    data.set_epoch(3)
    assert evaluate_reconstruction(method, data, tmp_path)["loss"] == pytest.approx(first["loss"], rel=1e-5)
