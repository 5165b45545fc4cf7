"""A step never asks the device for a value: it runs on torch's meta device, which has none to give."""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.pretrain import PretrainTrainer
from medssl_monai.methods.base import Method
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK, draw_mask
from medssl_monai.methods.swav import SwAV
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, spark_lamb, swav_lars
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import DeviceViews, SparKViewsd, TwoViewsd

spark = partial(SparK, "resnet18", decoder_width=32, image_channels=1, drop_path_rate=0.1)
METHODS: dict[str, tuple[Callable[[], Method], Any]] = {
    "spark": (spark, spark_lamb),
    "spark under a mask": (partial(spark, packed=False), spark_lamb),
    "moco": (partial(MoCo, "resnet18", 8, queue_length=16), moco_sgd),
    "byol": (partial(BYOL, "resnet18", 16, 8), byol_adam),
    "swav": (
        partial(SwAV, "resnet18", 16, 8, 6, queue_length=8, queue_start_epoch=0, freeze_prototypes_steps=2),
        swav_lars,
    ),
}


class Slices(Dataset[dict[str, Any]]):
    """Two views a slice, and a mask."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(key.index)
        views = [torch.randn(1, 64, 64, generator=generator) for _ in range(2)]
        return {"views": views, "mask": draw_mask(1, 2, 2, 0.5, generator)[0], "index": key.index}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("parts", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_a_step_asks_nothing_of_the_device(name: str, parts: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # The meta device does not know of autocast.
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    make, make_optimizer = METHODS[name]
    method = make()
    if isinstance(method, SwAV) and method.queue is not None:
        assert not method.queue.is_full  # read once a run; the meta device could not be asked
    method.to("meta")
    trainer = PretrainTrainer(
        "meta",
        max_epochs=1,
        train_data_loader=StepLoader(Slices(), 4, seed=0),
        method=method,
        optimizer=make_optimizer(method, lr=0.1),
        epoch_length=6,
        accumulation_steps=parts,
        clip_norm=1.0,
    )
    trainer.run()
    assert trainer.state.iteration == 6 and trainer.state.output["loss"].device.type == "meta"
    if isinstance(method, SwAV) and method.queue is not None:
        assert method.queue.is_full and method._queue_counts


@pytest.mark.parametrize("transform", [TwoViewsd(seed=0, image_size=64), SparKViewsd(seed=0, image_size=64)])
def test_views_ask_nothing_of_the_device(transform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    views = DeviceViews(transform)
    images = np.zeros((16, 1, 90, 100), np.int16)  # enough for turned, upright, blurred and noisy ones
    items = [{"image": image, "index": i, "epoch": 0, "modality": "CT"} for i, image in enumerate(images)]
    made = views.apply(views.collate([views.draw(item) for item in items]), "meta")
    assert all(view.shape == (16, 1, 64, 64) and view.device.type == "meta" for view in made["views"])
