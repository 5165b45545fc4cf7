"""LARS's trajectory and the contrastive methods' schedules against the reference's numbers, and their laws."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch import nn

from medssl_monai.errors import ConfigError
from medssl_monai.methods.base import Progress
from medssl_monai.methods.swav import SwAV
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, swav_lars
from medssl_monai.optimizers.lars import LARS
from medssl_monai.optimizers.schedules import RecurringCosine, recurring_cosine, set_rates
from tests import golden
from tests.optimizers.trajectory import assert_follows, start_values


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("foreach", [False, True])
def test_lars_trajectory_matches(case: int, dtype: torch.dtype, foreach: bool) -> None:
    meta, want = golden.load("optim_lars")
    settings = meta["cases"][case]
    rates = settings["cfg"]
    parameters = start_values(meta, settings["seed"], dtype)
    groups = [
        {"params": [parameters[name] for name in names], "weight_decay": decay}
        for names, decay in zip(settings["param_groups"], want[f"c{case}_wd"][0].tolist(), strict=True)
    ]
    optimizer = LARS(groups, lr=rates["lr"], momentum=0.9, trust_coeff=rates["trust"], foreach=foreach)

    def set_rate(step: int) -> None:
        lr = rates["lr"]
        if "total" in rates:
            lr = recurring_cosine(step, rates["total"], rates["warm"], rates["lr"])
        assert lr == pytest.approx(want[f"c{case}_lr"][step], rel=1e-9, abs=1e-15)
        set_rates(optimizer, lr)

    assert_follows(optimizer, parameters, case, settings, want, set_rate)


def test_lars_step_is_the_paper_s() -> None:
    weight = nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = LARS([weight], lr=0.5, momentum=0.9, weight_decay=0.1, trust_coeff=0.01, eps=0.0)
    weight.grad = torch.tensor([0.0, 2.0])
    optimizer.step()
    ratio = 0.01 * 5 / (2 + 0.1 * 5)
    first = ratio * np.array([0.3, 2.4])
    assert_allclose(weight.detach(), np.array([3.0, 4.0]) - 0.5 * first, rtol=1e-6)
    weight.grad = torch.zeros(2)
    before = weight.detach().clone()
    optimizer.step()  # no gradient: momentum alone, no decay
    assert_allclose(weight.detach(), before.numpy() - 0.5 * 0.9 * first, rtol=1e-6)
    assert len(optimizer.param_groups) == 1 and optimizer.param_groups[0]["weight_decay"] == 0.1


def test_lars_resumes_exactly() -> None:
    torch.manual_seed(0)
    first = nn.Linear(3, 2)
    second = nn.Linear(3, 2)
    second.load_state_dict(first.state_dict())

    def step(model: nn.Linear, optimizer: torch.optim.Optimizer, scale: float) -> None:
        optimizer.zero_grad()
        (model(torch.ones(1, 3)).square().sum() * scale).backward()
        optimizer.step()

    one = swav_lars(first, lr=0.1)
    step(first, one, 1.0)
    saved = copy.deepcopy(one.state_dict())
    second.load_state_dict(first.state_dict())
    two = swav_lars(second, lr=0.1)
    two.load_state_dict(saved)
    for scale in (2.0, 0.0):
        step(first, one, scale)
        step(second, two, scale)
    assert torch.equal(first.weight, second.weight) and torch.equal(first.bias, second.bias)


@pytest.mark.parametrize("case", range(3))
def test_swav_schedule_matches_as_it_ran_and_as_meant(case: int) -> None:
    meta, want = golden.load("sched_swav_lr")
    settings = meta["cases"][case]
    steps = want[f"c{case}_step"].tolist()
    found = [
        recurring_cosine(step, settings["total_steps"], settings["warmup_steps"], settings["base_lr"]) for step in steps
    ]
    assert_allclose(found, want[f"c{case}_lr"], rtol=1e-9, atol=1e-15)


def lr_of(schedule: RecurringCosine, progress: Progress) -> float:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0)
    schedule.apply(optimizer, progress)
    return float(optimizer.param_groups[0]["lr"])


def test_rates_of_real_runs_match() -> None:
    traces = golden.load_json("real_run_traces")
    swav = RecurringCosine(0.15, 800, 10)
    for step, lr in traces["swav"]["lr_per_step"]:
        assert lr_of(swav, Progress(step, 10_000, step // 2, 2)) == pytest.approx(lr, rel=1e-12)
    byol = RecurringCosine(1e-3, 100, 10, "epoch", early_peak=True)
    length = traces["byol"]["len_train_dataloader"]
    for row in traces["byol"]["steps"]:
        # Read after the step: on an epoch's last batch it already is the next epoch's.
        progress = Progress(row["global_step"], 300_000, row["global_step"] // length, length)
        assert lr_of(byol, progress) == pytest.approx(row["lr"], rel=1e-12)


@pytest.mark.parametrize("case", range(2))
def test_byol_schedule_matches(case: int) -> None:
    meta, want = golden.load("sched_byol_lr")
    s = meta["cases"][case]
    found = [
        recurring_cosine(
            epoch,
            s["max_epochs"],
            s["warmup_epochs"],
            s["base_lr"],
            start=s["warmup_start_lr"],
            end=s["eta_min"],
            climb=s["warmup_epochs"] - 1,
        )
        for epoch in range(s["epochs"])
    ]
    assert_allclose(found, want[f"c{case}_lr"], rtol=1e-9, atol=1e-12 * s["base_lr"])
    assert_allclose(found, want[f"c{case}_closed_form"], rtol=1e-9, atol=1e-12 * s["base_lr"])


@pytest.mark.parametrize("case", range(2))
def test_moco_schedule_matches(case: int) -> None:
    meta, want = golden.load("sched_moco_lr")
    settings = meta["cases"][case]
    schedule = RecurringCosine(settings["base_lr"], settings["T_max"], unit="epoch")
    found = [lr_of(schedule, Progress(3 * e + 2, 3 * settings["T_max"], e, 3)) for e in range(settings["epochs"])]
    assert_allclose(found, want[f"c{case}_lr"], rtol=1e-9, atol=1e-12 * settings["base_lr"])


@given(length=st.integers(2, 500), share=st.floats(0, 0.9), position=st.integers(0, 3000))
def test_recurring_cosine_recurs_within_its_bounds(length: int, share: float, position: int) -> None:
    warmup = int(share * length)
    value = recurring_cosine(position, length, warmup, 1.0)
    assert -1e-12 <= value <= 1 + 1e-12
    assert recurring_cosine(length, length, warmup, 1.0) == pytest.approx(0.0, abs=1e-12)
    if position >= warmup:
        period = 2 * (length - warmup)
        assert recurring_cosine(position + period, length, warmup, 1.0) == pytest.approx(value, abs=1e-9)


def test_schedules_refuse_what_cannot_be() -> None:
    with pytest.raises(ConfigError, match="unit"):
        RecurringCosine(1.0, 10, unit="batch")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="warmup"):
        RecurringCosine(1.0, 10, warmup=10)


@pytest.mark.parametrize("make", [swav_lars, moco_sgd, byol_adam])
def test_decay_can_leave_one_dimensional_parameters_out(make: Any) -> None:
    method = SwAV("resnet18", 8, 4, 6)
    every = make(method, lr=0.1, weight_decay=0.3, decay_all=True)
    assert [group["weight_decay"] for group in every.param_groups] == [0.3]
    chosen = make(method, lr=0.1, weight_decay=0.3, decay_all=False)
    for group in chosen.param_groups:
        assert {p.ndim > 1 for p in group["params"]} == {group["weight_decay"] == 0.3}
    # A schedule of weight decay keeps to the groups.
    set_rates(chosen, weight_decay=0.7)
    assert [group["weight_decay"] for group in chosen.param_groups] == [0.7, 0.0]
