"""SwAV, MoCo and BYOL as a trainer uses them: order of events, accumulation, resume, refusals, one-channel views."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from medssl_monai.engines.pretrain import split_batch
from medssl_monai.errors import ConfigError
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.swav import SwAV
from medssl_monai.optimizers.factories import moco_sgd, swav_lars
from tests.golden.toy_encoder import toy_encoder

STEPS = 6


def swav(**options: Any) -> SwAV:
    settings = {"queue_length": 10, "queue_start_epoch": 0, "freeze_prototypes_steps": 2} | options
    return SwAV(toy_encoder(6), 8, 5, 7, **settings)


def moco(**options: Any) -> MoCo:
    return MoCo(toy_encoder(6), 5, 11, momentum=0.9, **options)


def byol(**options: Any) -> BYOL:
    return BYOL(toy_encoder(6), 8, 5, momentum=0.9, **options)


def moco_of_series() -> MoCo:
    """With keys of the query's own series left out: 12 slices of 3 series."""
    return moco(origins=torch.arange(12) // 4)


MAKERS: list[Callable[[], Method]] = [swav, moco, moco_of_series, byol]


def progress_at(step: int) -> Progress:
    return Progress(step, STEPS, step // 3, 3)


def views_at(step: int, method: Method, batch: int = 4, channels: int = 1) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    sizes = [16, 16, 8, 8, 8] if isinstance(method, SwAV) else [16, 16]
    views = [torch.randn(batch, channels, s, s, generator=generator, dtype=torch.float64) for s in sizes]
    if channels == 1:
        views = [view.expand(-1, 3, -1, -1) for view in views]
    return {"views": views, "index": torch.randint(12, (batch,), generator=generator)}


def train_step(method: Method, optimizer: torch.optim.Optimizer, step: int, parts: int = 1) -> float:
    progress = progress_at(step)
    method.train()
    method.before_step(progress)
    optimizer.zero_grad()
    total = 0.0
    for batch in split_batch(views_at(step, method), parts):
        loss = method(batch, progress)["loss"] / parts
        loss.backward()
        total += loss.item()
    method.after_backward(progress)
    optimizer.step()
    method.after_step(progress)
    return total


@pytest.mark.parametrize("make", MAKERS)
def test_resume_is_exact(make: Callable[[], Method]) -> None:
    torch.manual_seed(0)
    straight = make().double()
    optimizer = moco_sgd(straight, lr=0.1)
    for step in range(3):
        train_step(straight, optimizer, step)
    saved = copy.deepcopy((straight.state_dict(), optimizer.state_dict()))
    for step in range(3, STEPS):
        train_step(straight, optimizer, step)

    resumed = make().double()
    again = moco_sgd(resumed, lr=0.1)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    for step in range(3, STEPS):
        train_step(resumed, again, step)
    for (name, ours), theirs in zip(resumed.state_dict().items(), straight.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name


def without_batch_norm(method: Method) -> Method:
    for module in method.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.forward = lambda x: x  # type: ignore[method-assign, assignment]
    return method


@pytest.mark.parametrize("make", [moco, moco_of_series, byol])
def test_micro_batches_are_the_whole_batch_but_for_batch_norm(make: Callable[[], Method]) -> None:
    torch.manual_seed(0)
    whole = without_batch_norm(make().double())
    parts = without_batch_norm(make().double())
    parts.load_state_dict(whole.state_dict())
    optimizers = [moco_sgd(whole, lr=0.1), moco_sgd(parts, lr=0.1)]
    for step in range(STEPS):
        first, second = train_step(whole, optimizers[0], step), train_step(parts, optimizers[1], step, parts=2)
        assert first == pytest.approx(second, rel=1e-12)
    for (name, ours), theirs in zip(parts.state_dict().items(), whole.state_dict().values(), strict=True):
        assert_allclose(ours, theirs, rtol=1e-10, atol=1e-13, err_msg=name)


def test_swav_s_queue_takes_the_whole_batch_of_micro_batches() -> None:
    torch.manual_seed(0)
    whole = without_batch_norm(swav().double())
    parts = copy.deepcopy(whole)
    assert isinstance(whole, SwAV) and isinstance(parts, SwAV)
    assert whole.queue is not None and parts.queue is not None
    for step in range(4):
        for method, count in ((whole, 1), (parts, 2)):
            frozen = torch.optim.SGD(method.parameters(), lr=0.0)
            train_step(method, frozen, step, parts=count)
        assert_allclose(parts.queue.features, whole.queue.features, rtol=1e-12, atol=1e-15)


def test_moco_s_keys_enter_after_the_logits_and_the_key_encoder_follows_first() -> None:
    torch.manual_seed(0)
    method = moco().double()
    with torch.no_grad():
        method.encoder.conv1.weight.add_(1.0)
    before = method.key_encoder.conv1.weight.clone()
    queue = method.queue.features.clone()
    method.before_step(progress_at(0))
    assert_allclose(method.key_encoder.conv1.weight, before + 0.1)
    batch = views_at(0, method)
    output = method(batch, progress_at(0))
    assert torch.equal(method.queue.features, queue)
    output["loss"].backward()
    method.after_backward(progress_at(0))
    assert not torch.equal(method.queue.features[:4], queue[:4]) and torch.equal(method.queue.features[4:], queue[4:])
    assert_allclose(method.queue.features[:4].norm(dim=1), 1.0)
    assert all(p.grad is None for p in [*method.key_encoder.parameters(), *method.key_head.parameters()])
    # Batch norm of the keys is in training mode with statistics of its own.
    assert int(method.key_encoder.bn1.num_batches_tracked) == 1
    assert not torch.equal(method.key_encoder.bn1.running_mean, method.encoder.bn1.running_mean)


def test_moco_compares_with_keys_of_other_series_alone() -> None:
    torch.manual_seed(0)
    method, plain = moco_of_series().double(), moco().double()
    plain.load_state_dict(method.state_dict(), strict=False)
    queue = [(key, -1) for key in method.queue.features.clone()]  # oldest first; random rows are of no series
    seen: list[Tensor] = []
    for head in (method.head, method.key_head):
        head.register_forward_hook(lambda _, __, x: seen.append(nn.functional.normalize(x.detach(), dim=1)))
    for step in range(STEPS):
        batch = views_at(step, method)
        series = (batch["index"] // 4).tolist()
        method.before_step(progress_at(step))
        output = method(batch, progress_at(step))
        losses, left_out = [], 0
        for query, key, own in zip(*seen[-2:], series, strict=True):
            others = [float(query @ old) for old, origin in queue if origin != own]
            left_out += len(queue) - len(others)
            positive = math.exp(float(query @ key) / 0.2)
            losses.append(-math.log(positive / (positive + sum(math.exp(x / 0.2) for x in others))))
        assert output["loss"].item() == pytest.approx(sum(losses) / 4, rel=1e-9)
        assert output["left_out"].item() == pytest.approx(left_out / 4 / 11)
        method.after_backward(progress_at(step))
        queue = [*queue, *zip(seen[-1], series, strict=True)][4:]
    assert left_out > 0 and list(plain.state_dict()) == [n for n in method.state_dict() if n != "queue.origins"]
    assert torch.equal(method.queue.origins.sort().values, torch.tensor([own for _, own in queue]).sort().values)
    with pytest.raises(ValueError, match="MoCo with origins needs to know the slices of a batch"):
        method({"views": batch["views"]})


def test_moco_s_groups_are_normalised_apart_and_keys_in_other_groups_than_queries() -> None:
    method = moco(norm_groups=2).double().train()
    view = views_at(0, method, batch=6)["views"][0].clone()
    queries, keys = method.queries(view), method.keys(view)
    for changed in range(6):
        other = view.clone()
        other[changed] += torch.randn(3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
        moved = (method.queries(other) - queries).abs().amax(1) > 1e-9
        assert moved.tolist() == [i % 2 == changed % 2 for i in range(6)]
        moved = (method.keys(other) - keys).abs().amax(1) > 1e-9
        groups = [0, 1, 1, 0, 0, 1]  # each next pair begins with the other group
        assert moved.tolist() == [groups[i] == groups[changed] for i in range(6)]


def test_moco_s_groups_must_divide_the_batch() -> None:
    for batch in (5, 6):
        method = moco(norm_groups=2 if batch == 5 else 6).double().train()
        with pytest.raises(ConfigError, match="choose another batch size"):
            method(views_at(0, method, batch=batch))


@pytest.mark.parametrize("make", MAKERS)
def test_evaluation_changes_nothing(make: Callable[[], Method]) -> None:
    method = make().double().eval()
    before = copy.deepcopy(method.state_dict())
    with torch.no_grad():
        method(views_at(0, method), progress_at(5))
    method.after_backward(progress_at(5))
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_step_that_failed_leaves_nothing_behind() -> None:
    method = moco().double()
    method.before_step(progress_at(0))
    method(views_at(0, method), progress_at(0))  # no backward: the step was lost
    queue = method.queue.features.clone()
    method.before_step(progress_at(0))
    method.after_backward(progress_at(0))
    assert torch.equal(method.queue.features, queue)


def test_swav_freezes_prototypes_against_momentum_and_decay() -> None:
    torch.manual_seed(0)
    method = swav(freeze_prototypes_steps=2, queue_length=0).double()
    optimizer = swav_lars(method, lr=0.1, weight_decay=0.1)
    method.prototypes.normalise()
    start = method.prototypes.weight.detach().clone()
    moved = []
    for step in range(4):
        train_step(method, optimizer, step)
        moved.append(not torch.allclose(method.prototypes.weight, start, atol=1e-12))
        if step == 1:
            assert method.prototypes.weight not in optimizer.state or not optimizer.state[method.prototypes.weight]
    assert moved == [False, False, True, True]
    by_epochs = swav(freeze_prototypes_steps=0, freeze_prototypes_epochs=1).double()
    grads = []
    for step in (2, 3):  # the last step of epoch 0, the first of epoch 1
        train_step(by_epochs, torch.optim.SGD(by_epochs.parameters(), lr=0.0), step)
        grads.append(by_epochs.prototypes.weight.grad is not None)
    assert grads == [False, True]


def test_swav_s_queue_waits_for_its_epoch() -> None:
    method = swav(queue_start_epoch=1).double()
    assert method.queue is not None
    filled = []
    for step in range(STEPS):
        train_step(method, torch.optim.SGD(method.parameters(), lr=0.0), step)
        filled.append(int(method.queue.filled))
    assert filled == [0, 0, 0, 4, 8, 10]


def test_swav_passes_each_crop_size_once() -> None:
    method = swav().double()
    batches: list[int] = []
    method.encoder.register_forward_pre_hook(lambda _, args: batches.append(args[0].shape[0]))
    method(views_at(0, method), progress_at(0))
    assert batches == [8, 12]
    output = method(views_at(0, method), progress_at(0))
    assert 0.0 <= output["prototype_entropy"].item() <= 1.0


def test_byol_s_target_follows_by_the_schedule_and_stands_at_the_end() -> None:
    torch.manual_seed(0)
    for span, step, tau in (("run", 0, 0.9), ("run", 3, 0.95), ("run", 6, 1.0), ("epoch", 3, 1.0), ("epoch", 6, 0.9)):
        method = byol(momentum_span=span).double()
        with torch.no_grad():
            method.encoder.conv1.weight.add_(1.0)
        before = method.target_encoder.conv1.weight.clone()
        method.after_step(Progress(step, 6, step // 3, 3))
        assert_allclose(method.target_encoder.conv1.weight, before + (1 - tau), rtol=1e-12)


def test_byol_s_predictor_copy_decides_nothing() -> None:
    torch.manual_seed(0)
    plain = byol().double()
    extra = byol(target_predictor=True).double()
    extra.load_state_dict(plain.state_dict(), strict=False)
    optimizers = [moco_sgd(plain, lr=0.1), moco_sgd(extra, lr=0.1)]
    for step in range(3):
        assert train_step(plain, optimizers[0], step) == train_step(extra, optimizers[1], step)
    assert extra.target_predictor is not None and plain.target_predictor is None


@pytest.mark.parametrize(
    "make", [lambda: SwAV("resnet18", 16, 8, 10), lambda: MoCo("resnet18", 8, 16), lambda: BYOL("resnet18", 16, 8)]
)
def test_all_that_is_trained_gets_a_gradient_from_one_channel_views(make: Callable[[], Method]) -> None:
    method = make()
    progress = Progress(400, 500, 4, 100)
    method.before_step(progress)
    count = 4 if isinstance(method, SwAV) else 2
    views = [torch.randn(3, 1, size, size) for size in [64, 64, 32, 32][:count]]
    output = method({"views": views}, progress)
    output["loss"].backward()
    method.after_backward(progress)
    for name, parameter in method.named_parameters():
        followed = name.startswith(("key_", "target_"))
        assert (parameter.grad is None) == followed == (not parameter.requires_grad), name
    assert all(value.ndim == 0 and torch.isfinite(value) for value in output.values())
    assert next(iter(method.state_dict())) == "encoder.conv1.weight"


def test_wrong_views_and_settings_are_refused_with_the_remedy() -> None:
    view = torch.zeros(2, 3, 16, 16)
    for method in (moco(), byol()):
        with pytest.raises(ValueError, match="needs two, found 1"):
            method({"views": [view]})
    with pytest.raises(ValueError, match="two large crops"):
        swav()({"views": [view]})
    with pytest.raises(ValueError, match="one batch size"):
        swav()({"views": [view, view[:1]]})
    for make, match in (
        (lambda: moco(temperature=0.0), "temperature"),
        (lambda: moco(head="deep"), "'mlp'"),
        (lambda: MoCo(toy_encoder(2), momentum=1.5), "momentum"),
        (lambda: BYOL(toy_encoder(2), momentum=-0.1), "momentum"),
        (lambda: byol(momentum_span="step"), "momentum_span"),
        (lambda: swav(epsilon=0.0), "epsilon"),
        (lambda: swav(queue_length=-1), "queue_length"),
        (lambda: SwAV(toy_encoder(2), prototypes=1), "prototypes"),
    ):
        with pytest.raises(ValueError, match=match):
            make()


def test_bfloat16_autocast_stays_close() -> None:
    torch.manual_seed(0)
    for make in MAKERS:
        method = make()
        batch = views_at(0, method)
        views = {**batch, "views": [view.float() for view in batch["views"]]}
        method.before_step(progress_at(0))
        plain: Tensor = copy.deepcopy(method)(views, progress_at(0))["loss"]
        with torch.autocast("cpu", torch.bfloat16):
            low = copy.deepcopy(method)(views, progress_at(0))["loss"]
        assert low.dtype == torch.float32 and low.item() == pytest.approx(plain.item(), abs=0.1)


@pytest.mark.parametrize("make", MAKERS)
def test_compiles_whole(make: Callable[[], Method]) -> None:
    torch.compiler.reset()
    torch.manual_seed(0)
    plain = make().double()
    compiled = copy.deepcopy(plain)
    forward = torch.compile(compiled, backend="eager", fullgraph=True)
    for step in range(4):  # SwAV's queue is full before the last
        losses = []
        for method, run in ((plain, plain), (compiled, forward)):
            method.before_step(progress_at(step))
            loss = run(views_at(step, method), progress_at(step))["loss"]
            loss.backward()
            method.after_backward(progress_at(step))
            method.after_step(progress_at(step))
            losses.append(loss.item())
        assert losses[0] == losses[1]
    for (name, ours), theirs in zip(compiled.state_dict().items(), plain.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
