"""LAMB's trajectory and SparK's schedules against the reference's numbers, and their laws."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn

from medssl_monai.errors import ConfigError
from medssl_monai.methods.base import Progress
from medssl_monai.methods.spark import SparK
from medssl_monai.optimizers.factories import spark_lamb, weight_decay_groups
from medssl_monai.optimizers.schedules import WarmupCosine, cosine, set_rates, warmup_cosine
from tests import golden
from tests.optimizers.trajectory import assert_follows, start_values


class Named(nn.Module):
    """Parameters under arbitrary dotted names, as a state dict spells them."""

    def __init__(self, values: dict[str, nn.Parameter]) -> None:
        super().__init__()
        self.values = values

    def named_parameters(self, *_: Any, **__: Any) -> Any:
        return iter(self.values.items())


@pytest.mark.parametrize("case", range(3))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_trajectory_matches(case: int, dtype: torch.dtype) -> None:
    meta, want = golden.load("optim_lamb")
    settings = meta["cases"][case]
    rates = settings["cfg"]
    model = Named(start_values(meta, settings["seed"], dtype))
    optimizer = spark_lamb(model, lr=rates["lr"], weight_decay=rates["wd"], max_grad_norm=rates["max_norm"])
    for group, theirs in zip(optimizer.param_groups, settings["group_scales"], strict=True):
        names = [name for name, value in model.values.items() if any(value is p for p in group["params"])]
        assert names == theirs["params"]
        assert group["weight_decay_scale"] == theirs["weight_decay_scale"]
    schedule = WarmupCosine(rates["lr"], rates["warm"], rates["wd"], rates["wde"])

    def apply_schedule(step: int) -> None:
        schedule.apply(optimizer, Progress(step, rates["total"], step, steps_per_epoch=1))
        assert_allclose(optimizer.param_groups[0]["lr"], want[f"c{case}_lr"][step], rtol=1e-12)
        assert_allclose([g["weight_decay"] for g in optimizer.param_groups], want[f"c{case}_wd"][step], rtol=1e-12)

    assert_follows(optimizer, model.values, case, settings, want, apply_schedule)


@pytest.mark.parametrize("case", range(3))
def test_schedule_matches(case: int) -> None:
    meta, want = golden.load("sched_spark_lr_wd")
    settings = meta["cases"][case]
    steps = want[f"c{case}_it"].tolist()
    total, warmup = settings["max_it"], settings["wp_it"]
    lr = [warmup_cosine(step, total, warmup, settings["peak_lr"]) for step in steps]
    decay = [cosine(step, total, settings["wd"], settings["wd_end"]) for step in steps]
    assert_allclose(lr, want[f"c{case}_lr"], rtol=1e-12)
    assert_allclose(decay, want[f"c{case}_wd_decay_group"], rtol=1e-12)


@given(total=st.integers(2, 10_000), share=st.floats(0, 0.9), peak=st.floats(1e-6, 1.0))
def test_schedule_rises_to_its_peak_and_falls(total: int, share: float, peak: float) -> None:
    warmup = int(share * total)
    values = [warmup_cosine(step, total, warmup, peak) for step in range(0, total, max(1, total // 50))]
    assert all(0.001 * peak * (1 - 1e-9) <= value <= peak * (1 + 1e-9) for value in values)
    assert warmup_cosine(warmup, total, warmup, peak) == pytest.approx(peak)
    if warmup < total - 1:
        assert warmup_cosine(total - 1, total, warmup, peak) == pytest.approx(0.001 * peak)
    top = values.index(max(values))
    assert values[:top] == sorted(values[:top]) and values[top:] == sorted(values[top:], reverse=True)


@given(steps=st.integers(1, 1000), start=st.floats(0, 1), end=st.floats(0, 1))
def test_cosine_meets_both_ends_and_its_middle(steps: int, start: float, end: float) -> None:
    assert cosine(steps + 5, steps, start, end) == pytest.approx(end)
    if steps > 1:
        assert cosine(0, steps, start, end) == pytest.approx(start)
    if steps % 2 and steps > 1:
        assert cosine(steps // 2, steps, start, end) == pytest.approx((start + end) / 2)
    assert math.isfinite(cosine(0, steps, start, end))


def test_rates_are_scaled_by_group() -> None:
    first, second = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    groups: list[dict[str, Any]] = [
        {"params": [first], "lr_scale": 0.5, "weight_decay_scale": 0.0},
        {"params": [second]},
    ]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_rates(optimizer, lr=0.2, weight_decay=0.3)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3]
    WarmupCosine(peak_lr=1.0).apply(optimizer, Progress(0, 10, 0, 5))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.3], "no decay given, none touched"


def test_a_warmup_as_long_as_the_run_is_refused() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(2))], lr=1.0)
    with pytest.raises(ConfigError, match="lower it, or raise max_epochs"):
        WarmupCosine(1.0, warmup_epochs=2).apply(optimizer, Progress(0, 10, 0, 5))


def test_groups_of_spark_are_the_reference_s() -> None:
    groups = weight_decay_groups(SparK("resnet50", decoder_width=32), 0.04)
    stored = golden.load_json("ckpt_spark_full")["optimizer"]["param_groups"]
    sizes = [int(group["params"].removeprefix("list[").removesuffix("]")) for group in stored]
    assert [len(group["params"]) for group in groups] == sizes


def test_frozen_parameters_are_in_no_group() -> None:
    model = nn.Linear(2, 3)
    model.weight.requires_grad_(False)
    (group,) = weight_decay_groups(model, 0.04)
    assert group["weight_decay_scale"] == 0.0 and group["params"][0] is model.bias
