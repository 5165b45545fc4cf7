"""SparK against numbers of the reference implementation, in float64 where its tolerance is tight."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from medssl_monai.losses.masked_reconstruction import patchify, unpatchify
from medssl_monai.methods.base import Progress
from medssl_monai.methods.spark import SparK, draw_mask
from medssl_monai.networks.masked import masked_features
from medssl_monai.networks.stochastic_depth import drop_path_rates
from medssl_monai.optimizers.factories import spark_lamb
from medssl_monai.optimizers.schedules import WarmupCosine
from medssl_monai.transforms.draws import visible_cells
from tests import golden
from tests.golden import fill
from tests.golden.spark_names import filled_state, reference_name

TIGHT = 1e-7  # relative, of the largest value
WITHOUT_REFERENCE_CONSTANTS = {"imn_m", "imn_s", "norm_black"}


def assert_close(ours: Tensor | float, theirs: Any, tolerance: float = TIGHT) -> None:
    found = ours.detach().numpy() if isinstance(ours, Tensor) else np.asarray(ours)
    assert_allclose(found, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def model_for(meta: dict[str, Any]) -> SparK:
    model = SparK("resnet50", mask_ratio=meta.get("mask_ratio", 0.6), decoder_width=meta["decoder_width"])
    model.load_state_dict(filled_state(model, meta["seed"]))
    return model


def input_for(meta: dict[str, Any], name: str = "input") -> Tensor:
    size = meta["size"]
    return torch.from_numpy(fill.raw(name, (meta["B"], 3, size, size), meta["seed"]))


def mask_for(meta: dict[str, Any], name: str) -> Tensor:
    cells = (meta["size"] // 32) ** 2
    keep = visible_cells(cells, 0.6)
    order = fill.raw(name, (meta["B"], cells), meta["seed"]).argsort(axis=1, kind="stable")[:, :keep]
    mask = np.zeros((meta["B"], cells), dtype=bool)
    np.put_along_axis(mask, order, True, axis=1)
    return torch.from_numpy(mask.reshape(meta["B"], 1, meta["size"] // 32, meta["size"] // 32))


CASES = ["spark_w64_i64", "spark_w64_i96_b8", "spark_w768_i64"]


@pytest.mark.parametrize("name", CASES)
def test_forward_backward_and_statistics_match_in_float64(name: str) -> None:
    meta, want = golden.load(name)
    model, image, mask = model_for(meta).double(), input_for(meta).double(), torch.from_numpy(want["active"])
    assert torch.equal(mask, mask_for(meta, "active"))
    seen: dict[str, list[Tensor]] = {}
    model.decoder.register_forward_pre_hook(lambda _, args: seen.update(dense=args[0]))
    model.decoder.register_forward_hook(lambda _, __, output: seen.update(prediction=[output]))

    loss = model({"views": [image], "mask": mask})["loss"]
    loss.backward()

    assert_close(loss, want["loss_f64"])
    for i, dense in enumerate(seen["dense"]):
        assert list(dense.shape) == want[f"todec{i}_shape"].tolist()
        assert_close(dense.sum((0, 2, 3)), want[f"todec{i}_chan_sum_f64"])
    assert_close(seen["prediction"][0][..., ::8, ::8], want["rec_f64_slice"])

    parameters = {reference_name(key): value for key, value in model.named_parameters()}
    gradients = {key: value.grad for key, value in parameters.items() if value.grad is not None}
    norms = [gradients[key].norm().item() for key in meta["grad_names"]]
    assert_allclose(norms, want["grad_norm_f64"], rtol=TIGHT)
    for key, stored, corner in golden.corners(want, "grad_f64"):
        assert_close(gradients[key][corner], stored)

    buffers = {reference_name(key): value for key, value in model.named_buffers()}
    statistics = [key.removeprefix("stat:") for key in want if key.startswith("stat:")]
    assert len(statistics) == 16
    for key in statistics:
        stored = want[f"stat:{key}"]  # float32: the reference's own rounding error is the tolerance
        assert_close(buffers[key][:256], stored, max(1e-6, 10 * meta["f32_vs_f64_err"][f"stat:{key}"]))
    assert all(int(value) == 1 for key, value in buffers.items() if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("name", CASES[:2])
def test_encoder_maps_match_in_train_and_eval_mode(name: str) -> None:
    meta, want = golden.load(name)
    model, image, mask = model_for(meta).double(), input_for(meta).double(), torch.from_numpy(want["active"])
    model.eval()
    with torch.no_grad():
        maps = masked_features(model.encoder, image, mask)
        loss = model({"views": [image], "mask": mask})["loss"]
    assert_close(loss, want["eval_loss_f64"])
    for i, features in enumerate(maps):
        assert_close(features.sum((0, 2, 3)), want[f"eval_enc{i}_chan_sum"], 1e-5)

    model.train()
    with torch.no_grad():
        maps = masked_features(model.encoder, image, mask)
    for i, features in enumerate(maps):
        assert list(features.shape) == want[f"enc{i}_shape"].tolist()
        assert_close(features.sum((0, 2, 3)), want[f"enc{i}_chan_sum_f64"])
        assert_close(features.abs().mean(), want[f"enc{i}_mean_abs_f64"])


def test_float32_forward_is_within_rounding_of_the_reference() -> None:
    meta, want = golden.load("spark_w64_i96_b8")
    model, image, mask = model_for(meta), input_for(meta), torch.from_numpy(want["active"])
    with torch.no_grad():
        assert_close(model({"views": [image], "mask": mask})["loss"], want["loss"], 1e-4)
        model.load_state_dict(filled_state(model, meta["seed"]))
        assert_close(model.predict(image, mask), want["rec"], 2e-2)


def test_pictures_match() -> None:
    meta, want = golden.load("spark_w64_i64")
    model, image, mask = model_for(meta), input_for(meta), torch.from_numpy(want["active"])
    pictures = model.reconstruct(image, mask)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def as_unit(picture: Tensor) -> Tensor:
        return (picture * deviation[:, None, None] + mean[:, None, None]).clamp(0, 1)

    assert_allclose(255 * as_unit(image), want["vis_input"], atol=0.501)
    assert_allclose(255 * as_unit(pictures["masked"]), want["vis_masked"], atol=0.501)
    assert_allclose(as_unit(pictures["reconstruction"])[..., ::4, ::4], want["vis_rec_or_inp_slice"], atol=2e-2)


def test_four_training_steps_match_in_float64() -> None:
    meta, want = golden.load("spark_train4_w64_i64")
    model = model_for(meta).double()
    optimizer = spark_lamb(model, lr=meta["peak_lr"], weight_decay=meta["wd"])
    schedule = WarmupCosine(meta["peak_lr"], meta["wp_it"], meta["wd"], meta["wd_end"])
    for step in range(meta["steps"]):
        schedule.apply(optimizer, Progress(step, meta["max_it"], epoch=step, steps_per_epoch=1))
        image, mask = input_for(meta, f"input/{step}").double(), mask_for(meta, f"active/{step}")
        loss = model({"views": [image], "mask": mask})["loss"]
        optimizer.zero_grad()
        loss.backward()
        norm = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None]).norm()
        assert_close(loss, want["loss_f64"][step])
        assert_close(norm, want["global_grad_norm_f64"][step])
        assert_close(optimizer.param_groups[0]["lr"], want["lr"][step], 1e-12)
        optimizer.step()
    parameters = {reference_name(key): value for key, value in model.named_parameters()}
    norms = [parameters[key].norm().item() for key in meta["param_names"]]
    assert_allclose(norms, want["param_norm_f64"], rtol=TIGHT)
    assert_close(model.encoder.bn1.running_mean, want["bn1_running_mean_f64"])
    assert_close(model.encoder.conv1.weight[:16], want["conv1_weight_f64"])
    assert_close(parameters["mask_tokens.0"].flatten()[:256], want["mask_token0_f64"])
    assert int(model.encoder.bn1.num_batches_tracked) == want["num_batches_tracked"]


def test_masks_and_patches_match_exactly() -> None:
    meta, want = golden.load("spark_mask_patchify")
    for row in meta["len_keep_table"]:
        assert round(row["fmap"] ** 2 * (1 - row["mask_ratio"])) == row["len_keep"]
        if 0 < row["len_keep"] < row["fmap"] ** 2:
            assert visible_cells(row["fmap"] ** 2, row["mask_ratio"]) == row["len_keep"]
    for case in meta["cases"]:
        size, batch, grid = case["size"], case["B"], case["fmap"]
        for seed in case["torch_seeds"]:
            mask = draw_mask(batch, grid, grid, 0.6, torch.Generator().manual_seed(seed))
            assert np.array_equal(mask.numpy(), want[f"mask_{size}_ts{seed}"])
        if f"patchify_idx_{size}" in want:
            index = torch.arange(batch * 3 * size * size).view(batch, 3, size, size)
            assert np.array_equal(patchify(index)[0].numpy(), want[f"patchify_idx_{size}"])
            flat = torch.arange(batch * grid * grid * 3072).view(batch, grid * grid, 3072)
            assert np.array_equal(unpatchify(flat, grid, grid)[0].numpy(), want[f"unpatchify_idx_{size}"])


@pytest.fixture(scope="module")
def full_size() -> SparK:
    torch.manual_seed(0)
    return SparK("resnet50", decoder_width=768)


def test_initialisation_matches_in_distribution(full_size: SparK) -> None:
    stats = golden.load_json("spark_init_stats")["params"]
    ours = {reference_name(key): value.detach() for key, value in full_size.named_parameters()}
    for key, want in stats.items():
        value = ours[key]
        assert list(value.shape) == want["shape"]
        few = 6 / value.numel() ** 0.5  # a small tensor's own standard deviation wanders
        assert float(value.double().std(correction=0)) == pytest.approx(want["std"], rel=0.02 + few, abs=1e-12), key
        assert float(value.double().mean()) == pytest.approx(want["mean"], abs=10 * want["std"] / value.numel() ** 0.5)
    assert float(ours["mask_tokens.0"].abs().max()) <= 0.02


def test_tensors_are_the_reference_s(full_size: SparK) -> None:
    stored = golden.load_json("ckpt_spark_full")["state_dict"]
    ours = {reference_name(key): list(value.shape) for key, value in full_size.state_dict().items()}
    theirs = {key: shape for key, (shape, _) in stored.items() if key not in WITHOUT_REFERENCE_CONSTANTS}
    assert ours == theirs
    exported = golden.load_json("ckpt_spark_finetune")["state_dict"]
    assert list(full_size.encoder.state_dict()) == list(exported)


def test_drop_path_rates_match(full_size: SparK) -> None:
    rates = golden.load_json("spark_init_stats")["drop_path"]["rates_per_block"]
    assert drop_path_rates(sum(map(len, full_size.encoder.stages)), 0.05) == pytest.approx(
        [rate or 0.0 for rate in rates], abs=1e-15
    )
