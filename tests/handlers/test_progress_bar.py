"""The progress bar of a training and of an evaluation."""

from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.data import Dataset
from monai.engines import SupervisedEvaluator
from torch import nn
from torch.utils.data import DataLoader

from medssl_monai.handlers.progress_bar import RunProgress


@pytest.mark.parametrize("epoch", [1, 6])
def test_an_evaluation_in_any_epoch_of_a_training_is_one_pass(epoch: int) -> None:
    """MONAI gives an evaluator the number of the trainer's epoch."""
    seen: list[tuple[int, int]] = []
    bar = RunProgress()
    data: DataLoader[Any] = DataLoader(Dataset([{"image": 0.0, "label": 0} for _ in range(3)]))
    evaluator = SupervisedEvaluator(torch.device("cpu"), data, nn.Identity(), val_handlers=[bar], decollate=False)
    evaluator.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append((bar.bar.n, bar.bar.total)))
    evaluator.run(epoch)
    assert seen == [(3, 3)]
