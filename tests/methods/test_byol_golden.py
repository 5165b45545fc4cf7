"""BYOL against numbers of the reference implementation, in float64 where its tolerance is tight."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from medssl_monai.losses.cosine_prediction import cosine_prediction_loss
from medssl_monai.methods.base import Progress
from medssl_monai.methods.byol import BYOL, target_momentum
from medssl_monai.optimizers.factories import byol_adam
from medssl_monai.optimizers.schedules import RecurringCosine
from tests import golden
from tests.golden.toy_encoder import fill_method, raw, toy_encoder

PREFIXES = {
    "encoder.": "online_network.encoder.",
    "projector.": "online_network.projector.model.",
    "predictor.": "online_network.predictor.model.",
    "target_encoder.": "target_network.encoder.",
    "target_projector.": "target_network.projector.model.",
    "target_predictor.": "target_network.predictor.model.",
}


def reference_name(name: str) -> str:
    for ours, theirs in PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    raise KeyError(name)


@pytest.mark.parametrize("case", range(4))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_loss_and_gradients_match(case: int, dtype: torch.dtype) -> None:
    meta, want = golden.load("byol_loss")
    settings = meta["cases"][case]
    shape = (settings["N"], settings["D"])
    h1, z2, h2, z1 = (raw(name, shape, settings["seed"], dtype) for name in ("h1", "z2", "h2", "z1"))
    if settings["zero_rows"]:
        h1[0], z1[1] = 0.0, 0.0
    h1.requires_grad_(), h2.requires_grad_()
    losses = torch.stack([cosine_prediction_loss(h1, z2), cosine_prediction_loss(h2, z1)])
    torch.autograd.backward(losses.sum())
    found = [*losses.tolist(), losses.sum().item()]
    assert h1.grad is not None and h2.grad is not None
    if dtype is torch.float32:
        assert_allclose(found, want[f"c{case}_losses"], rtol=0, atol=2e-6)
    else:
        assert_allclose(found, want[f"c{case}_losses_f64"], rtol=0, atol=1e-12)
        assert_allclose(h1.grad, want[f"c{case}_grad_h1_f64"], rtol=1e-12, atol=1e-12)
        assert_allclose(h2.grad, want[f"c{case}_grad_h2_f64"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", range(4))
def test_momentum_matches_as_meant_and_as_it_ran(case: int) -> None:
    meta, want = golden.load("byol_tau")
    settings = meta["cases"][case]
    # With max_epochs = -1 the reference's cosine spans one epoch.
    span = settings["len_train_dataloader"] * abs(settings["max_epochs"])
    found = [target_momentum(step, span, settings["initial_tau"]) for step in range(settings["steps"] + 1)]
    assert_allclose(found[:-1], want[f"c{case}_tau_used"], rtol=0, atol=1e-12)
    assert_allclose(found[-1], want[f"c{case}_tau_last"], rtol=0, atol=1e-12)


def test_momentum_of_a_real_run_matches() -> None:
    trace = golden.load_json("real_run_traces")["byol"]
    length = trace["len_train_dataloader"]
    for row in trace["steps"]:
        step = row["global_step"] - 1
        assert target_momentum(step, length, 0.996) == pytest.approx(row["tau_used"], abs=1e-15)
        assert target_momentum(step + 1, length, 0.996) == pytest.approx(row["tau_next"], abs=1e-15)


@pytest.mark.parametrize("name", ["byol_toy", "byol_toy_wd"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_steps_match(name: str, dtype: torch.dtype) -> None:
    meta, want = golden.load(name)
    shape, seed = (meta["batch"], 3, meta["img"], meta["img"]), meta["seed"]
    encoder = toy_encoder(meta["C"])
    method = BYOL(encoder, meta["hidden"], meta["out_dim"], meta["initial_tau"], target_predictor=True)
    fill_method(method, seed, reference_name)
    method.to(dtype)
    optimizer = byol_adam(method, meta["lr"], meta["weight_decay"], decay_all=True)
    schedule = RecurringCosine(meta["lr"], 100, meta["warmup_epochs"], "epoch", early_peak=True)
    length = meta["steps_per_epoch"]
    for step in range(length * meta["epochs"]):
        progress = Progress(step, length * meta["trainer_max_epochs"], step // length, length)
        schedule.apply(optimizer, progress)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(want["lr_used"][step], rel=1e-12)
        method.before_step(progress)
        views = [raw(f"view{i}/{step}", shape, seed, dtype) for i in (1, 2)]
        loss = method({"views": views}, progress)["loss"]
        optimizer.zero_grad()
        loss.backward()
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress)
        if dtype is torch.float64:
            assert_allclose(loss.item(), want["loss_f64"][step], rtol=0, atol=1e-9)
        else:
            assert_allclose(loss.item(), want["loss"][step], rtol=0, atol=1e-3)
    state = {reference_name(key): value for key, value in method.state_dict().items()}
    for key, stored in want.items():
        kind, _, tensor = key.partition(":")
        if kind == "final_f64" and dtype is torch.float64:
            assert_allclose(state[tensor], stored, rtol=0, atol=1e-9)
        elif kind == "final" and dtype is torch.float32 and tensor.startswith("target_network"):
            assert_allclose(state[tensor], stored, rtol=0, atol=1e-3)
    assert {key.partition(":")[2] for key in want if key.startswith("final:")} == set(state)


def full_resnet(meta: dict[str, Any], dtype: torch.dtype) -> tuple[BYOL, list[Tensor]]:
    method = BYOL("resnet50", meta["projector_hidden_size"], meta["projector_out_dim"], target_predictor=True)
    fill_method(method, meta["seed"], reference_name)
    shape = (meta["batch"], 3, meta["img"], meta["img"])
    return method.to(dtype), [raw(f"view{i}/0", shape, meta["seed"], dtype) for i in (1, 2)]


def test_resnet50_matches_in_float64() -> None:
    meta, want = golden.load("byol_resnet50")
    method, views = full_resnet(meta, torch.float64)
    predictions: list[Tensor] = []
    projections: list[Tensor] = []
    method.predictor.register_forward_hook(lambda _, __, h: predictions.append(h.detach()))
    method.target_projector.register_forward_hook(lambda _, __, z: projections.append(z.detach()))
    progress = Progress(0, 50, 0, 50)
    method.before_step(progress)
    loss = method({"views": views}, progress)["loss"]
    loss.backward()
    method.after_step(progress)

    assert_allclose(loss.item(), want["losses_f64"][2], rtol=0, atol=1e-8)
    losses = [cosine_prediction_loss(h, z).item() for h, z in zip(predictions, projections, strict=True)]
    assert_allclose(losses, want["losses_f64"][:2], rtol=0, atol=1e-8)
    h1, h2, z2, z1 = (x[:, :64] for x in (*predictions, *projections))
    assert_allclose(h1, want["h1_f64"], rtol=0, atol=1e-8 * np.abs(want["h1_f64"]).max())
    assert_allclose(z2, want["z2_f64"], rtol=0, atol=1e-8 * np.abs(want["z2_f64"]).max())
    assert_allclose(h2, want["h2"], rtol=0, atol=2e-3 * np.abs(want["h2"]).max())
    assert_allclose(z1, want["z1"], rtol=0, atol=2e-3 * np.abs(want["z1"]).max())
    gradients = {reference_name(key): value.grad for key, value in method.named_parameters() if value.grad is not None}
    norms = np.array([gradients[f"online_network.{key}"].norm().item() for key in meta["grad_names"]])
    assert len(gradients) == len(norms)
    assert_allclose(norms, want["grad_norm_f64"], rtol=1e-8, atol=1e-8 * norms.max())
    for name, stored, corner in golden.corners(want, "grad_f64"):
        found = gradients[f"online_network.{name}"][corner]
        assert_allclose(found, stored, rtol=0, atol=1e-8 * np.abs(stored).max())
    state = {reference_name(key): value for key, value in method.state_dict().items()}
    for kind, tolerance in (("stat", 1e-4), ("ema", 1e-7)):  # stored in float32
        for name, stored, corner in golden.corners(want, kind):
            assert_allclose(state[name][corner], stored, rtol=0, atol=tolerance * max(1, stored.max()))
    assert target_momentum(1, 50, 0.996) == pytest.approx(meta["tau_next_after_step1_of_50"], abs=1e-15)
    # Two passes a step, of the online network and of the target.
    assert int(method.encoder.bn1.num_batches_tracked) == int(method.target_encoder.bn1.num_batches_tracked) == 2


def test_resnet50_matches_within_rounding_in_float32() -> None:
    meta, want = golden.load("byol_resnet50")
    method, views = full_resnet(meta, torch.float32)
    with torch.no_grad():
        assert_allclose(method({"views": views})["loss"].item(), want["losses"][2], rtol=0, atol=5e-4)
