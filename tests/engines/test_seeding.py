"""Seeds of a training, and cuDNN's algorithms."""

import random

import numpy as np
import pytest
import torch

from medssl_monai.engines.seeding import seed_training


@pytest.mark.parametrize("deterministic", [True, False])
def test_seeds_and_algorithms(deterministic: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for flag in ("deterministic", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, flag, True)  # put back afterwards
    draws = []
    for _ in range(2):
        seed_training(3, deterministic)
        draws.append((torch.rand(1).item(), float(np.random.random()), random.random()))  # noqa: NPY002
    assert draws[0] == draws[1]
    assert (torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark) == (deterministic, False)
