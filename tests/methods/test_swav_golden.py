"""SwAV against numbers of the reference implementation, in float64 where its tolerance is tight."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from torch import Tensor, nn

from medssl_monai.losses.sinkhorn import sinkhorn
from medssl_monai.methods.base import Progress
from medssl_monai.methods.swav import SwAV
from tests import golden
from tests.golden.toy_encoder import fill_method, raw, toy_encoder

START = Progress(0, 100, 0, 10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_codes_match(dtype: torch.dtype) -> None:
    meta, want = golden.load("swav_sinkhorn")
    for i, case in enumerate(meta["cases"]):
        scores = torch.from_numpy(want[f"c{i}_scores"]).to(dtype)
        found = sinkhorn(scores, case["epsilon"], case["iterations"])[-case["kept_last_rows"] :].numpy()
        stored = want[f"c{i}_q_f64"] if dtype is torch.float64 else want[f"c{i}_q"]
        found = found[: len(stored)]
        if dtype is torch.float64:
            assert_allclose(found, stored, rtol=0, atol=1e-14)
        else:
            assert_allclose(found, stored, rtol=0, atol=2e-6)
            assert_allclose(found[stored > 1e-6], stored[stored > 1e-6], rtol=1e-5)


class Rows(nn.Module):
    """An encoder whose "views" (B, 1, 1, D) already are the projector's output (B, D)."""

    num_features = 1

    def forward(self, view: Tensor) -> Tensor:
        return view.flatten(1)


def headless(dimensions: int, prototypes: int, **options: Any) -> SwAV:
    """SwAV on projector outputs."""
    method = SwAV(toy_encoder(1), 1, dimensions, prototypes, freeze_prototypes_steps=0, **options)
    method.encoder, method.projector = Rows(), nn.Identity()  # type: ignore[assignment]
    return method


def as_views(outputs: Tensor, crops: int) -> list[Tensor]:
    """Projector outputs, view by view."""
    return [part[:, None, None] for part in outputs.chunk(crops)]


@pytest.mark.parametrize("case", range(5))
def test_loss_codes_and_gradients_match(case: int) -> None:
    meta, want = golden.load("swav_loss")
    settings = meta["cases"][case]
    seed, batch, d, k = settings["seed"], settings["batch"], settings["D"], settings["K"]
    crops = sum(settings["nmb_crops"])
    for dtype in (torch.float32, torch.float64):
        method = headless(d, k).to(dtype)
        with torch.no_grad():
            method.prototypes.weight.copy_(raw("prototypes.weight", (k, d), seed, dtype))
        outputs = raw("h", (crops * batch, d), seed, dtype).requires_grad_()
        views = as_views(outputs, crops)
        method.before_step(START)
        loss = method({"views": views}, START)["loss"]
        loss.backward()
        method.after_backward(START)
        if dtype is torch.float32:
            assert_allclose(loss.item(), want[f"c{case}_loss"], rtol=1e-6)
            continue
        assert_allclose(loss.item(), want[f"c{case}_loss_f64"], rtol=1e-10)
        with torch.no_grad():
            embeddings = method.embeddings(views)
            scores = method.prototypes(embeddings)
            codes = torch.stack(method.codes(scores[:2]))
        assert method.prototypes.weight.grad is not None and outputs.grad is not None
        for name, found, tolerance in (
            ("q", codes, 1e-6),
            ("proto_normalized", method.prototypes.weight.detach(), 1e-6),
            ("z", embeddings.flatten(0, 1), 1e-6),
            ("scores", scores.flatten(0, 1), 1e-6),
            ("grad_h_f64", outputs.grad, 1e-10),
            ("grad_proto_f64", method.prototypes.weight.grad, 1e-10),
        ):
            stored = want[f"c{case}_{name}"]
            assert_allclose(found.numpy()[: len(stored)], stored, rtol=0, atol=tolerance * np.abs(stored).max())


def test_queue_fills_switches_on_and_keeps_the_newest_first() -> None:
    meta, want = golden.load("swav_queue")
    seed, d, k, batch = meta["seed"], meta["D"], meta["K"], meta["batch"]
    crops = sum(meta["nmb_crops"])
    method = headless(d, k, queue_length=meta["queue_length"], queue_start_epoch=0).double()
    assert method.queue is not None
    prototypes = method.prototypes.weight
    with torch.no_grad():
        prototypes.copy_(raw("prototypes.weight", (k, d), seed))
    for step in range(meta["steps"]):
        assert method.queue.is_full == meta["use_the_queue_after"][step]
        method.before_step(START)
        loss = method({"views": as_views(raw(f"h/{step}", (crops * batch, d), seed), crops)}, START)["loss"]
        method.after_backward(START)
        assert_allclose(loss.item(), want["loss_f64"][step], rtol=1e-10)
        assert_allclose(method.queue.features, want["queue"][step], rtol=0, atol=1e-6)
        with torch.no_grad():
            prototypes.add_(raw(f"delta/{step}", (k, d), seed, torch.float32) * 0.05)
    assert_allclose(prototypes.detach(), want["final_prototypes_unnormalized"], rtol=0, atol=1e-6)


def reference_name(name: str) -> str:
    name = re.sub(r"^encoder\.", "", name)
    return re.sub(r"^projector\.", "projection_head.", name)


def full_resnet(meta: dict[str, Any], dtype: torch.dtype) -> tuple[SwAV, list[Tensor]]:
    method = SwAV("resnet50", meta["hidden_mlp"], meta["feat_dim"], meta["nmb_prototypes"], freeze_prototypes_steps=0)
    fill_method(method, meta["seed"], reference_name)
    large, small = meta["size_crops"]
    sizes = [large] * meta["nmb_crops"][0] + [small] * meta["nmb_crops"][1]
    views = [
        raw(f"crop/{i}", (meta["batch"], 3, size, size), meta["seed"], dtype).requires_grad_(False)
        for i, size in enumerate(sizes)
    ]
    return method.to(dtype), views


def test_resnet50_matches_in_float64() -> None:
    meta, want = golden.load("swav_full_resnet50")
    method, views = full_resnet(meta, torch.float64)
    seen: dict[str, Tensor] = {}
    method.projector.register_forward_pre_hook(lambda _, args: seen.update(features=args[0].detach()))
    method.prototypes.register_forward_hook(lambda _, __, scores: seen.update(scores=scores.detach()))
    method.before_step(START)
    assert_allclose(method.prototypes.weight.detach()[:8, :16], want["proto_normalized_slice"], atol=1e-6)
    loss = method({"views": views}, START)["loss"]
    loss.backward()
    method.after_backward(START)

    assert_allclose(loss.item(), want["loss_f64"], rtol=1e-9)
    stored = want["scores_f64"]
    assert_allclose(seen["scores"].flatten(0, 1)[: stored.shape[0], : stored.shape[1]], stored, atol=1e-9)
    assert_allclose(seen["features"].sum(0), want["backbone_chan_sum_f64"], rtol=1e-9, atol=1e-9)
    gradients = {reference_name(key): value.grad for key, value in method.named_parameters() if value.grad is not None}
    norms = [gradients[name].norm().item() for name in meta["grad_names"]]
    assert_allclose(norms, want["grad_norm_f64"], rtol=1e-9, atol=1e-9 * max(norms))
    for key, stored, corner in golden.corners(want, "grad_f64"):
        assert_allclose(gradients[key][corner], stored, rtol=0, atol=1e-9 * np.abs(stored).max())
    buffers = {reference_name(key): value for key, value in method.named_buffers()}
    for key, stored, corner in golden.corners(want, "stat"):  # stored in float32
        assert_allclose(buffers[key][corner], stored, rtol=0, atol=1e-4 * np.abs(stored).max())
    method.eval()
    with torch.no_grad():
        features = method.encoder(views[0])[:, :64]
    assert_allclose(
        features, want["feat_eval_after_f64"], rtol=0, atol=1e-9 * np.abs(want["feat_eval_after_f64"]).max()
    )


def test_resnet50_matches_within_rounding_in_float32() -> None:
    meta, want = golden.load("swav_full_resnet50")
    method, views = full_resnet(meta, torch.float32)
    method.before_step(START)
    with torch.no_grad():
        embeddings = method.embeddings(views)
        scores = method.prototypes(embeddings)
    assert_allclose(embeddings.flatten(0, 1), want["z"], rtol=0, atol=1e-3)
    assert math.isfinite(float(scores.sum()))
    codes = method.codes(scores[:2])
    predictions = F.log_softmax(scores / 0.1, dim=2)
    terms = [-(codes[a] * predictions[v]).sum(1).mean() for a in range(2) for v in range(len(views)) if v != a]
    assert_allclose(torch.stack(terms).mean().item(), want["loss"], rtol=1e-5)
