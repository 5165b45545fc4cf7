"""Queues, moving averages, prototypes and heads, against plain Python and their laws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn

from medssl_monai.networks.feature_queue import NewestFirstQueue, RingQueue
from medssl_monai.networks.moving_average import follow, follower
from medssl_monai.networks.projection_heads import byol_mlp, linear_head, moco_mlp, swav_projector
from medssl_monai.networks.prototypes import Prototypes

batches = st.lists(st.integers(1, 9), min_size=1, max_size=12)


@settings(deadline=None)
@given(length=st.integers(1, 8), sizes=batches)
def test_ring_queue_holds_the_last_rows(length: int, sizes: list[int]) -> None:
    queue = RingQueue(length, 1)
    start = queue.features.flatten().tolist()
    entered: list[float] = []
    for size in sizes:
        rows = [float(len(entered) + i) for i in range(size)]
        entered += rows
        queue.enter(torch.tensor(rows)[:, None])
        held = queue.features.flatten().tolist()
        newest = entered[-length:]
        assert sorted(held) == sorted(
            newest + start[len(entered) :]
        )  # the rest are the random rows not yet overwritten
        assert int(queue.pointer) == len(entered) % length
        for i, row in enumerate(newest):  # read round from the pointer they are in order
            assert held[(int(queue.pointer) - len(newest) + i) % length] == row


@settings(deadline=None)
@given(length=st.integers(1, 8), sizes=batches)
def test_newest_first_queue_is_first_in_first_out(length: int, sizes: list[int]) -> None:
    queue = NewestFirstQueue(2, length, 1)
    plain: list[float] = []
    count = 0
    for size in sizes:
        rows = [float(count + 1 + i) for i in range(size)]
        count += size
        plain = (rows + plain)[:length]
        queue.enter(torch.tensor([rows, [-row for row in rows]])[:, :, None])
        assert queue.features[0, :, 0].tolist() == plain + [0.0] * (length - len(plain))
        assert torch.equal(queue.features[1], -queue.features[0])
        assert queue.is_full == (count >= length)


def test_queues_start_as_the_papers_say_and_survive_a_restart() -> None:
    ring = RingQueue(16, 4)
    assert_allclose(ring.features.norm(dim=1), 1.0, rtol=1e-6)
    ring.enter(torch.randn(5, 4))
    again = RingQueue(16, 4)
    again.load_state_dict(ring.state_dict())
    rows = torch.randn(13, 4)
    ring.enter(rows)
    again.enter(rows)
    assert torch.equal(ring.features, again.features) and int(again.pointer) == 2
    empty = NewestFirstQueue(2, 3, 4)
    assert not empty.features.any() and not empty.is_full
    for queue in (RingQueue, lambda n, d: NewestFirstQueue(2, n, d)):
        with pytest.raises(ValueError, match="queue length"):
            queue(0, 4)


@settings(deadline=None)
@given(momentum=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_moving_average_is_between_the_two(momentum: float, seed: int) -> None:
    torch.manual_seed(seed)
    online = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double()
    average = follower(online)
    for parameter in online.parameters():
        parameter.data.normal_()
    before = [p.clone() for p in average.parameters()]
    online(torch.randn(5, 3, dtype=torch.float64))
    follow(average, online, momentum)
    for old, new, value in zip(before, average.parameters(), online.parameters(), strict=True):
        assert_allclose(new.detach(), momentum * old + (1 - momentum) * value.detach(), rtol=1e-12, atol=1e-15)
        low, high = torch.minimum(old, value), torch.maximum(old, value)
        assert ((new >= low - 1e-12) & (new <= high + 1e-12)).all()
        assert not new.requires_grad
        if momentum == 1.0:
            assert torch.equal(new, old)
    buffers = dict(average.named_buffers())
    assert int(buffers["1.num_batches_tracked"]) == 0 and not buffers["1.running_mean"].any()  # buffers do not follow


def test_prototypes_are_brought_to_unit_length_once_a_step() -> None:
    prototypes = Prototypes(4, 6)
    prototypes.normalise()
    assert_allclose(prototypes.weight.detach().norm(dim=1), np.ones(6), rtol=1e-6)
    assert prototypes.weight.requires_grad and list(prototypes.state_dict()) == ["weight"]
    x = torch.randn(3, 4)
    exact = x @ prototypes.weight.T
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(prototypes(x), exact)


def test_heads_are_the_papers() -> None:
    assert [type(layer).__name__ for layer in moco_mlp(8, 4)] == ["Linear", "ReLU", "Linear"]
    assert [type(layer).__name__ for layer in swav_projector(8, 16, 4)] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [name for name, _ in byol_mlp(8, 16, 4).named_parameters()] == [
        "0.weight",
        "1.weight",
        "1.bias",
        "3.weight",
        "3.bias",
    ]
    assert linear_head(8, 4)(torch.zeros(2, 8)).shape == (2, 4)
