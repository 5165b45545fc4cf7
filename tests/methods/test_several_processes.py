"""Two processes, each on half a batch, compute what one computes on the whole: gloo on the CPU, in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from numpy.testing import assert_allclose
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from medssl_monai.engines.pretrain import split_batch
from medssl_monai.losses.sinkhorn import sinkhorn
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.networks.process_batch_norm import use_process_batch_norm
from medssl_monai.processes import any_process, process_cat, process_count, process_mean, process_rank, process_sum
from tests.golden.toy_encoder import toy_encoder

PROCESSES, BATCH, STEPS = 2, 8, 6
METHODS: dict[str, Callable[[], Method]] = {
    # The queue fills after two steps; its length is a multiple of neither batch nor processes.
    "swav": lambda: SwAV(toy_encoder(6), 8, 5, 7, queue_length=15, queue_start_epoch=0, freeze_prototypes_steps=1),
    "moco": lambda: MoCo(toy_encoder(6), 5, 19, momentum=0.9),
    "byol": lambda: BYOL(toy_encoder(6), 8, 5, momentum=0.9, target_predictor=True),
    "moco_origins": lambda: MoCo(toy_encoder(6), 5, 19, momentum=0.9, origins=torch.arange(12) // 4),
    "moco_groups": lambda: MoCo(toy_encoder(6), 5, 19, momentum=0.9, norm_groups=2),
    "moco_groups_of_one": lambda: MoCo(toy_encoder(6), 5, 19, momentum=0.9, norm_groups=4),
    "spark": lambda: SparK("resnet18", decoder_width=32, image_channels=1),
    "spark_depth": lambda: SparK("resnet18", decoder_width=32, image_channels=1, drop_path_rate=0.5),
    "spark_masked": lambda: SparK("resnet18", decoder_width=32, image_channels=1, drop_path_rate=0.5, packed=False),
    "moco_resnet18": lambda: MoCo("resnet18", 8, 20, momentum=0.9),
}
Results = dict[str, dict[str, Tensor]]


def batch_at(step: int, name: str) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(step)
    sizes = {"swav": [16, 16, 8, 8], "spark": [64]}.get(name.split("_")[0], [32, 32])
    channels = 1 if name.startswith("spark") else 3
    views = [torch.randn(BATCH, channels, s, s, generator=generator, dtype=torch.float64) for s in sizes]
    visible = torch.rand(BATCH, 4, generator=generator).argsort(1) < 2
    index = torch.randint(12, (BATCH,), generator=generator)
    return {"views": views, "mask": visible.view(BATCH, 1, 2, 2), "index": index}


def part_of(batch: dict[str, Any], rank: int, count: int) -> dict[str, Any]:
    return split_batch(batch, count)[rank]


def trained(name: str) -> dict[str, Tensor]:
    """State after a few steps of this process's share of the batches, and each step's loss over all of them."""
    torch.manual_seed(0)
    method = METHODS[name]().double()
    use_process_batch_norm(method)
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.02, momentum=0.9)
    losses = []
    for step in range(STEPS):
        progress = Progress(step, STEPS, 0, STEPS)
        method.before_step(progress)
        optimizer.zero_grad()
        loss = method(part_of(batch_at(step, name), process_rank(), process_count()), progress)["loss"]
        loss.backward()
        method.after_backward(progress)
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(process_mean(parameter.grad))
        optimizer.step()
        method.after_step(progress)
        losses.append(process_mean(loss.detach()))
    return {**method.state_dict(), "losses": torch.stack(losses)}


def uneven() -> dict[str, Tensor]:
    """Batch norm and codes where processes hold different numbers of rows: 3 and 5."""
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(BATCH, 4, 3, 3, generator=generator, dtype=torch.float64)
    mine = slice(None) if process_count() == 1 else slice(0, 3) if process_rank() == 0 else slice(3, None)
    own = rows[mine].clone().requires_grad_()
    norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm1d(4), nn.BatchNorm1d(4)]).double()
    use_process_batch_norm(norms)
    with torch.no_grad():
        norms[0].weight.uniform_(0.5, 2.0, generator=generator)  # type: ignore[operator]
    outputs = [norms[0](own), norms[1](own.flatten(2)), norms[2](own[:, :, 0, 0])]
    torch.autograd.backward(sum((out.square() * (i + 1)).sum() + out.pow(3).sum() for i, out in enumerate(outputs)))
    assert own.grad is not None
    norm_gradients = [process_sum(p.grad) for p in norms.parameters() if p.grad is not None]
    codes = sinkhorn(rows[mine, :, 0, 0], 0.3, 3, across_processes=True)
    found = {"gradient": own.grad, "codes": codes, **{f"output{i}": out.detach() for i, out in enumerate(outputs)}}
    found |= {f"norm{i}": gradient for i, gradient in enumerate(norm_gradients)}
    return found | {key: value.clone() for key, value in norms.state_dict().items()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=PROCESSES)
    results = {name: trained(name) for name in METHODS} | {"uneven": uneven()}
    order = process_cat(torch.full((1, 2), float(rank)), dim=1)
    results["order"] = {"order": order, "count": torch.tensor(process_count())}
    flags = [any_process(rank == 1, "cpu"), any_process(False, "cpu")]
    results["order"]["flags"] = torch.tensor(flags)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    """What each of two processes found."""
    folder: Path = tmp_path_factory.mktemp("processes")
    spawn(work, args=(str(folder),), nprocs=PROCESSES)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.ddp
@pytest.mark.parametrize("name", METHODS)
def test_training_is_that_of_one_process(two: list[Results], name: str) -> None:
    whole = trained(name)
    for result in two:
        assert list(result[name]) == list(whole)
        for key, value in whole.items():
            scale = max(1.0, float(value.abs().max()))
            assert_allclose(result[name][key], value, rtol=0, atol=1e-10 * scale, err_msg=key)


@pytest.mark.ddp
def test_both_processes_hold_the_same_state(two: list[Results]) -> None:
    for name in METHODS:
        for key, value in two[0][name].items():
            assert torch.equal(value, two[1][name][key]), f"{name} {key}"


@pytest.mark.ddp
def test_parts_of_different_size_are_parts_of_the_whole(two: list[Results]) -> None:
    whole = uneven()
    for key, value in whole.items():
        parts = [result["uneven"][key] for result in two]
        split = value.ndim > 0 and parts[0].shape[0] + parts[1].shape[0] == BATCH == value.shape[0]
        for found in [torch.cat(parts)] if split else parts:
            assert_allclose(found, value, rtol=1e-10, atol=1e-12, err_msg=key)


@pytest.mark.ddp
def test_gathering_keeps_the_order_of_ranks(two: list[Results]) -> None:
    for result in two:
        assert result["order"]["order"].tolist() == [[0.0, 0.0, 1.0, 1.0]] and int(result["order"]["count"]) == 2
        assert result["order"]["flags"].tolist() == [True, False]


def test_one_process_needs_no_group() -> None:
    x = torch.randn(3, 2)
    assert process_count() == 1 and process_rank() == 0
    assert process_sum(x) is x and process_cat(x) is x
    plain, turned = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    use_process_batch_norm(turned)
    assert isinstance(turned, nn.BatchNorm1d) and list(turned.state_dict()) == list(plain.state_dict())
    assert torch.equal(plain(x), turned(x)) and torch.equal(plain.running_var, turned.running_var)  # type: ignore[arg-type]
