"""SparK as a trainer uses it: what it learns from, what it refuses, and where it can be carried."""

import copy
import io
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from medssl_monai.methods.base import Progress
from medssl_monai.methods.spark import SparK, draw_mask
from medssl_monai.networks.masked import masked_features
from medssl_monai.optimizers.factories import spark_lamb
from medssl_monai.transforms.draws import visible_cells

START = Progress(step=0, total_steps=10, epoch=0, steps_per_epoch=5)


def small(channels: int = 1, **settings: Any) -> SparK:
    torch.manual_seed(0)
    return SparK("resnet18", decoder_width=32, image_channels=channels, **settings)


def batch_of(model: SparK, height: int = 64, width: int = 96, seed: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(3, model.image_channels, height, width, generator=generator)
    return {"views": [image], "index": torch.arange(3), "mask": model.draw_mask(3, height, width, generator)}


def loss_and_gradients(model: SparK, batch: dict[str, Any]) -> tuple[Tensor, list[Tensor]]:
    model.zero_grad()
    loss = model(batch, START)["loss"]
    loss.backward()
    return loss.detach(), [p.grad for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("channels", [1, 3])
def test_every_parameter_learns(channels: int) -> None:
    model = small(channels)
    loss, gradients = loss_and_gradients(model, batch_of(model))
    assert loss.ndim == 0 and len(gradients) == len(list(model.parameters()))
    # The blocks' last norms start at zero, so convolutions before them wait one step.
    waiting = sum(not gradient.any() for gradient in gradients)
    optimizer = spark_lamb(model, lr=1e-2)
    optimizer.step()
    _, gradients = loss_and_gradients(model, batch_of(model))
    assert waiting > 0 and all(gradient.any() for gradient in gradients)


def test_the_loss_falls_on_a_few_images() -> None:
    model = small().double()  # in float32 the number of threads decides whether a step rises by a rounding
    optimizer = spark_lamb(model, lr=5e-2)
    batch = batch_of(model, 64, 64)
    ramp = torch.linspace(-1, 1, 64, dtype=torch.float64)
    batch["views"] = [(ramp[:, None] * ramp).expand(3, 1, 64, 64) + 0.05 * batch["views"][0].double()]
    losses = []
    for _ in range(20):
        loss, _ = loss_and_gradients(model, batch)
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0] and losses == sorted(losses, reverse=True)


def test_masked_pixels_reach_the_loss_as_targets_only() -> None:
    model = small().double()
    batch = batch_of(model)
    image, mask = batch["views"][0].double(), batch["mask"]
    hidden = ~mask.repeat_interleave(32, 2).repeat_interleave(32, 3)
    with torch.no_grad():
        first = model.predict(image, mask)
        second = model.predict(torch.where(hidden, torch.randn_like(image), image), mask)
    assert torch.equal(first, second)


def test_pictures_keep_visible_pixels_and_take_hidden_ones_from_the_prediction() -> None:
    model = small().eval()
    batch = batch_of(model)
    image, mask = batch["views"][0], batch["mask"]
    pictures = model.reconstruct(image, mask)
    visible = mask.repeat_interleave(32, 2).repeat_interleave(32, 3)
    assert torch.equal(pictures["masked"], torch.where(visible, image, torch.zeros(())))
    assert torch.equal(pictures["reconstruction"], torch.where(visible, image, pictures["prediction"]))
    assert not pictures["prediction"].requires_grad


@given(
    rows=st.integers(1, 8),
    columns=st.integers(1, 8),
    ratio=st.floats(0.05, 0.95),
    seed=st.integers(0, 2**32 - 1),
)
def test_masks_have_the_asked_number_of_visible_cells(rows: int, columns: int, ratio: float, seed: int) -> None:
    wanted = round(rows * columns * (1 - ratio))
    if not 0 < wanted < rows * columns:
        with pytest.raises(ValueError, match="take larger images or another ratio"):
            visible_cells(rows * columns, ratio)
        return
    mask = draw_mask(3, rows, columns, ratio, torch.Generator().manual_seed(seed))
    assert mask.dtype == torch.bool and mask.shape == (3, 1, rows, columns)
    assert mask.flatten(1).sum(1).tolist() == [wanted] * 3


def test_every_cell_is_as_likely_visible_as_any_other() -> None:
    mask = draw_mask(20_000, 2, 3, 0.6, torch.Generator().manual_seed(0))
    assert mask.double().mean(0).flatten().tolist() == pytest.approx([2 / 6] * 6, abs=0.015)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"views": [torch.zeros(3, 1, 64, 100)]}, "found 64 × 100; set image_size to a multiple of 32"),
        ({"views": [torch.zeros(3, 3, 64, 96)]}, "found 3; set image_channels"),
        ({"mask": torch.ones(3, 1, 3, 2, dtype=torch.bool)}, r"of shape \(3, 1, 3, 2\); draw one cell"),
        ({"mask": torch.ones(3, 1, 2, 3)}, "found torch.float32"),
    ],
)
def test_batches_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    model = small()
    with pytest.raises(ValueError, match=message):
        model(batch_of(model) | change, START)


def test_views_of_another_method_are_refused() -> None:
    with pytest.raises(ValueError, match="use SparK's views"):
        small()({"views": [torch.zeros(1, 1, 64, 64)]}, START)


def test_autocast_stays_near_full_precision() -> None:
    model = small()
    batch = batch_of(model)
    exact, gradients = loss_and_gradients(model, batch)
    other = small()
    with torch.autocast("cpu", torch.bfloat16):
        loss = other(batch, START)["loss"]
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.detach(), exact, rtol=1e-2, atol=1e-2)
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in other.parameters())
    decoder = other.decoder.projection.weight.grad
    torch.testing.assert_close(decoder, model.decoder.projection.weight.grad, rtol=0.1, atol=1e-3)
    assert len(gradients) == len(list(other.parameters()))


@pytest.mark.parametrize("settings", [{"mask_ratio": 1.0}, {"drop_path_rate": 1.0}, {"image_channels": 2}])
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(settings))):
        SparK("resnet18", decoder_width=32, **settings)


def test_copies_pickles_and_reloads_give_the_same_step() -> None:
    model = small()
    batch = batch_of(model)
    start = copy.deepcopy(model)
    loss, gradients = loss_and_gradients(model, batch)
    saved = io.BytesIO()
    torch.save(start.state_dict(), saved)
    saved.seek(0)
    reloaded = small()
    reloaded.load_state_dict(torch.load(saved, weights_only=True))
    for other in (copy.deepcopy(start), pickle.loads(pickle.dumps(start)), reloaded):
        other_loss, other_gradients = loss_and_gradients(other, batch)
        assert torch.equal(other_loss, loss)
        assert all(torch.equal(a, b) for a, b in zip(gradients, other_gradients, strict=True))


def test_activation_checkpointing_gives_the_same_gradients() -> None:
    model = small()
    batch = batch_of(model)
    loss, gradients = loss_and_gradients(model, batch)
    other = small()
    again = checkpoint(
        lambda image: other({"views": [image], "mask": batch["mask"]}, START)["loss"],
        batch["views"][0],
        use_reentrant=False,
    )
    again.backward()
    assert torch.equal(again, loss)
    for parameter, gradient in zip(other.parameters(), gradients, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient)


def test_threads_with_masks_of_their_own_do_not_mix() -> None:
    model = small()
    batches = [batch_of(model, seed=seed) for seed in range(6)]

    @torch.no_grad()
    def run(batch: dict[str, Any]) -> list[Tensor]:
        return masked_features(model.encoder, batch["views"][0], batch["mask"])

    for batch in batches:  # let the running statistics settle
        run(batch)
    model.eval()
    wanted = [run(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        torch.testing.assert_close(list(pool.map(run, batches)), wanted)


@pytest.mark.parametrize("backend", ["eager", pytest.param("aot_eager", marks=pytest.mark.slow)])
def test_compiles_whole(backend: str) -> None:
    model = small(packed=False)
    batch = batch_of(model)
    eager, gradients = loss_and_gradients(model, batch)
    compiled_model = small(packed=False)
    compiled = torch.compile(compiled_model, fullgraph=True, backend=backend)
    loss = compiled(batch, START)["loss"]
    loss.backward()
    torch.testing.assert_close(loss.detach(), eager)
    assert all(
        torch.allclose(p.grad, g, atol=1e-6)
        for p, g in zip(compiled_model.parameters(), gradients, strict=True)
        if p.grad is not None
    )
    assert int(compiled_model.encoder.bn1.num_batches_tracked) == 1


def test_visible_cells_compile_once_for_all_masks() -> None:
    model, compiled_model = small(), small()
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(compiled_model, backend=backend)
    counts = []
    for seed in range(3):
        batch = batch_of(model, seed=seed)
        eager, gradients = loss_and_gradients(model, batch)
        compiled_model.zero_grad()
        loss = compiled(batch, START)["loss"]
        loss.backward()
        torch.testing.assert_close(loss.detach(), eager)
        found = [p.grad for p in compiled_model.parameters() if p.grad is not None]
        torch.testing.assert_close(found, gradients)
        counts.append(len(graphs))
    assert 0 < counts[0] == counts[-1]


def test_progress_tells_its_share() -> None:
    assert Progress(5, 20, 1, 4).fraction == 0.25
    assert Progress(0, 0, 0, 0).fraction == 0.0
