"""MoCo against numbers of the reference implementation, in float64 where its tolerance is tight.

The reference casts logits to float32 before the cross-entropy; its losses are compared at that accuracy.
"""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from medssl_monai.losses.info_nce import info_nce_logits
from medssl_monai.methods.base import Progress
from medssl_monai.methods.moco import MoCo
from medssl_monai.optimizers.factories import moco_sgd
from tests import golden
from tests.golden import fill
from tests.golden.toy_encoder import fill_method, raw, toy_encoder

PREFIXES = {
    "encoder.": "encoder_q.",
    "head.": "encoder_q.fc.",
    "key_encoder.": "encoder_k.",
    "key_head.": "encoder_k.fc.",
}


def reference_name(name: str) -> str | None:
    for ours, theirs in PREFIXES.items():
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    return None


def filled(encoder: Any, meta: dict[str, Any]) -> MoCo:
    head: Any = "mlp" if meta["use_mlp"] else "linear"
    dimensions, negatives = meta["emb_dim"], meta["num_negatives"]
    method = MoCo(encoder, dimensions, negatives, meta["encoder_momentum"], meta["softmax_temperature"], head=head)
    fill_method(method, meta["seed"], reference_name)
    queue = fill.unit_columns(fill.raw("queue", (dimensions, negatives), meta["seed"]))
    method.queue.features.copy_(torch.from_numpy(queue.T.copy()))
    return method


def by_reference_name(method: MoCo) -> dict[str, Tensor]:
    named = {reference_name(name): value for name, value in method.state_dict().items()}
    return {name: value for name, value in named.items() if name is not None}


@pytest.mark.parametrize("name", ["moco_toy_linear", "moco_toy_mlp"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_training_steps_match(name: str, dtype: torch.dtype) -> None:
    meta, want = golden.load(name)
    shape, seed = (meta["batch"], 3, meta["img"], meta["img"]), meta["seed"]
    method = filled(toy_encoder(8), meta)
    method.to(dtype)
    optimizer = moco_sgd(method, meta["lr"], meta["weight_decay"], meta["momentum"])
    seen: list[Tensor] = []
    for head in (method.head, method.key_head):
        head.register_forward_hook(lambda _, __, x: seen.append(x))
    tolerance = 1e-6 if dtype is torch.float64 else 2e-6
    for step in range(meta["steps"]):
        progress = Progress(step, meta["steps"], 0, meta["steps"])
        views = [raw(f"img_q/{step}", shape, seed, dtype), raw(f"img_k/{step}", shape, seed, dtype)]
        method.before_step(progress)
        if step in want["key_params_steps"]:
            parameters = by_reference_name(method)
            flat = torch.cat([parameters[f"encoder_k.{key}"].flatten() for key in meta["key_param_order"]])
            row = want["key_params_steps"].tolist().index(step)
            assert_allclose(flat, want["key_params"][row], rtol=0, atol=tolerance)
        seen.clear()
        output = method({"views": views}, progress)
        queries, keys = (torch.nn.functional.normalize(x.detach(), dim=1) for x in seen)
        logits = info_nce_logits(queries, keys, method.queue.features, method.temperature)
        assert_allclose(queries, want["q"][step], rtol=0, atol=tolerance)
        assert_allclose(keys, want["k"][step], rtol=0, atol=tolerance)
        assert_allclose(logits, want["logits"][step], rtol=0, atol=tolerance * np.abs(want["logits"][step]).max())
        assert output["accuracy"].item() == float((logits.argmax(1) == 0).double().mean())
        optimizer.zero_grad()
        output["loss"].backward()
        method.after_backward(progress)
        optimizer.step()
        method.after_step(progress)
        assert_allclose(output["loss"].item(), want["loss_f64"][step], rtol=tolerance)
        assert int(method.queue.pointer) == want["queue_ptr"][step]
        if step in want["queue_after_steps"]:
            row = want["queue_after_steps"].tolist().index(step)
            assert_allclose(method.queue.features.T, want["queue_after"][row], rtol=0, atol=tolerance)
    found = by_reference_name(method)
    finals = [key.split(":", 1) for key in want if key.startswith("final")]
    assert {key for _, key in finals} == set(found)
    for kind, key in finals:
        if kind == "final":
            atol = 2e-6 * max(1.0, np.abs(want[f"final:{key}"]).max())
            assert_allclose(found[key], want[f"final:{key}"], rtol=0, atol=atol)
        elif dtype is torch.float64:
            # Their gradients pass through the float32 logits.
            assert_allclose(found[key], want[f"final_f64:{key}"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["moco_resnet50_fc128", "moco_resnet50_mlp"])
def test_resnet50_matches_in_float64(name: str) -> None:
    meta, want = golden.load(name)
    shape, seed = (meta["batch"], 3, meta["img"], meta["img"]), meta["seed"]
    method = filled("resnet50", meta)
    method.double()
    progress = Progress(0, 1, 0, 1)
    method.before_step(progress)
    seen: list[Tensor] = []
    for head in (method.head, method.key_head):
        head.register_forward_hook(lambda _, __, x: seen.append(x.detach()))
    loss = method({"views": [raw("img_q/0", shape, seed), raw("img_k/0", shape, seed)]}, progress)["loss"]
    loss.backward()
    queries, keys = (torch.nn.functional.normalize(x, dim=1) for x in seen)
    logits = info_nce_logits(queries, keys, method.queue.features, method.temperature)
    method.after_backward(progress)

    assert_allclose(queries, want["q_f64"], rtol=0, atol=1e-6)
    assert_allclose(logits, want["logits_f64"], rtol=0, atol=1e-6)
    assert_allclose(keys, want["k"], rtol=0, atol=5e-4)
    assert_allclose(loss.item(), want["loss_f64"], rtol=1e-6)
    assert_allclose(method.queue.features[: meta["batch"]].T, want["queue_cols_0_bs"], rtol=0, atol=5e-4)
    assert int(method.queue.pointer) == meta["queue_ptr_after"]
    gradients = {reference_name(key): value.grad for key, value in method.named_parameters() if value.grad is not None}
    norms = np.array([gradients[f"encoder_q.{key}"].norm().item() for key in meta["grad_names"]])
    assert len(gradients) == len(norms)
    assert_allclose(norms, want["grad_norm_f64"], rtol=1e-6, atol=1e-6 * norms.max())
    for key, stored, corner in golden.corners(want, "grad_f64"):
        assert_allclose(gradients[f"encoder_q.{key}"][corner], stored, rtol=0, atol=1e-6 * np.abs(stored).max())
    state = by_reference_name(method)
    for key, stored, corner in golden.corners(want, "stat"):  # stored in float32
        assert_allclose(state[key][corner], stored, rtol=0, atol=1e-4 * stored.max())
    for key, stored, corner in golden.corners(want, "key_after_momentum"):
        assert_allclose(state[f"encoder_k.{key}"][corner], stored, rtol=0, atol=1e-7)


def test_resnet50_matches_within_rounding_in_float32() -> None:
    meta, want = golden.load("moco_resnet50_fc128")
    shape, seed = (meta["batch"], 3, meta["img"], meta["img"]), meta["seed"]
    method = filled("resnet50", meta)
    method.before_step(Progress(0, 1, 0, 1))
    with torch.no_grad():
        views = [raw(name, shape, seed, torch.float32) for name in ("img_q/0", "img_k/0")]
        assert_allclose(method({"views": views})["loss"].item(), want["loss"], rtol=1e-4)
