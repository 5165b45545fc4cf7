"""The pre-training engine: hooks, accumulation, and runs that are stopped and carry on."""

import copy
import json
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.utils.data import Dataset

from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.pretrain import PretrainTrainer, split_batch
from medssl_monai.errors import CheckpointError, ConfigError, DivergedError
from medssl_monai.handlers.history import History
from medssl_monai.handlers.run_checkpoint import RunCheckpoint, check_resume, random_state, restore_random_state
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.optimizers.factories import byol_adam, moco_sgd, spark_lamb, swav_lars
from medssl_monai.optimizers.schedules import WarmupCosine
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import MultiCropViewsd, SparKViewsd, TwoViewsd


class Slices(Dataset[dict[str, Any]]):
    """Random slices in HU, seen as `SliceDataset` gives them."""

    def __init__(self, transform: Callable[[dict[str, Any]], Any], count: int = 10, size: int = 64) -> None:
        generator = torch.Generator().manual_seed(3)
        self.images = torch.randint(-1024, 1500, (count, 1, size, size), generator=generator, dtype=torch.int16)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        item = {"image": self.images[key.index], "index": key.index, "epoch": key.epoch, "modality": "CT"}
        result: dict[str, Any] = self.transform(item)
        return result


def parts(name: str) -> tuple[Method, torch.optim.Optimizer, Callable[[dict[str, Any]], Any]]:
    """A small method of each kind with its own optimizer and views; queues and frozen prototypes change on the way."""
    method: Method
    if name == "spark":
        method = SparK("resnet18", decoder_width=32, drop_path_rate=0.2, image_channels=1)
        return method, spark_lamb(method, lr=2e-3), SparKViewsd("image", image_size=64, seed=5, mean=0.25, std=0.25)
    two_views = TwoViewsd("image", image_size=32, seed=5)
    if name in ("moco", "moco_of_series"):
        origins = torch.arange(10) // 5 if name == "moco_of_series" else None
        method = MoCo("resnet18", embedding_dim=8, queue_length=10, origins=origins)
        return method, moco_sgd(method, lr=0.01), two_views
    if name == "byol":
        method = BYOL("resnet18", hidden_dim=16, embedding_dim=8)
        return method, byol_adam(method, lr=1e-3), two_views
    method = SwAV("resnet18", 16, 8, prototypes=6, queue_length=10, queue_start_epoch=1, freeze_prototypes_steps=4)
    return method, swav_lars(method, lr=0.1), MultiCropViewsd("image", counts=(2, 1), sizes=(32, 24), seed=5)


def make_trainer(
    folder: Path,
    epochs: int = 3,
    workers: int = 0,
    name: str = "spark",
    device: str = "cpu",
    check: bool = False,
    **kwargs: Any,
) -> PretrainTrainer:
    """A small run; with `check` after what a bundle's ``initialize`` does."""
    torch.manual_seed(0)
    method, optimizer, views = parts(name)
    loader = StepLoader(Slices(views), batch_size=4, seed=1, num_workers=workers)
    decay = {"weight_decay": 0.04, "final_weight_decay": 0.2} if name == "spark" else {}
    schedule = WarmupCosine(optimizer.param_groups[0]["lr"], warmup_epochs=0.5, **decay)
    saved, settings = {"method": method, "optimizer": optimizer}, {"max_epochs": kwargs.get("total_epochs", epochs)}
    handlers = [
        History(folder, optimizer),
        RunCheckpoint(folder / "checkpoints", saved, signature={"seed": 1}, settings=settings),
    ]
    trainer = PretrainTrainer(device, epochs, loader, method, optimizer, [schedule], train_handlers=handlers, **kwargs)
    if check:
        check_resume(trainer, handlers)
    return trainer


def final_state(trainer: PretrainTrainer) -> dict[str, Tensor]:
    return copy.deepcopy(trainer.method.state_dict())


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], list[str]]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    trainer = make_trainer(folder)
    trainer.run()
    assert (folder / "figures" / "loss.png").is_file()
    return final_state(trainer), (folder / "logs" / "history.jsonl").read_text().splitlines()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_stopped_by_ctrl_c_it_carries_on_bit_for_bit(
    step: int, tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list[str]]
) -> None:
    first = make_trainer(tmp_path)
    first.add_event_handler(Events.ITERATION_STARTED(once=step), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match=f"step {step}"):
        first.run()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    second = make_trainer(tmp_path, workers=1 if step == 5 else 0)
    second.run()
    state, history = uninterrupted
    assert same(final_state(second), state)
    assert (tmp_path / "logs" / "history.jsonl").read_text().splitlines() == history


def test_the_last_epochs_checkpoint_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    save = RunCheckpoint.save

    def noted(self: RunCheckpoint, engine: Any) -> None:
        steps.append(engine.state.iteration)
        save(self, engine)

    monkeypatch.setattr(RunCheckpoint, "save", noted)
    trainer = make_trainer(tmp_path)
    trainer.run()
    length = trainer.state.epoch_length
    assert steps == [length, 2 * length, 3 * length]


@pytest.mark.parametrize(
    ("name", "step"), [("swav", 5), ("moco_of_series", 4), pytest.param("byol", 2, marks=pytest.mark.slow)]
)
def test_every_method_carries_on_bit_for_bit(name: str, step: int, tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", name=name)
    whole.run()
    first = make_trainer(tmp_path / "parts", name=name)
    first.add_event_handler(Events.ITERATION_STARTED(once=step), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = make_trainer(tmp_path / "parts", name=name, workers=1 if name == "swav" else 0)
    second.run()
    assert same(final_state(second), final_state(whole))
    logs = [(tmp_path / run / "logs" / "history.jsonl").read_text() for run in ("whole", "parts")]
    assert logs[0] == logs[1]


def test_a_large_run_carries_on_and_an_old_one_keeps_its_table(
    tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(name: str) -> None:
        first = make_trainer(tmp_path / name)
        first.add_event_handler(Events.ITERATION_STARTED(once=4), lambda: os.kill(os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            first.run()

    def carried_on(name: str) -> dict[str, Tensor]:
        second = make_trainer(tmp_path / name)
        second.run()
        return final_state(second)

    stopped("old")
    monkeypatch.setattr("medssl_monai.engines.slice_order.TABLE_LIMIT", 0)
    stopped("large")
    whole = carried_on("whole")
    assert not same(whole, uninterrupted[0])
    assert same(carried_on("large"), whole)
    file = tmp_path / "old" / "checkpoints" / "last.pt"
    content = torch.load(file, weights_only=True)
    assert content["trainer"].pop("order") == "table"  # earlier versions did not write it
    torch.save(content, file)
    assert same(carried_on("old"), uninterrupted[0])


def test_killed_between_checkpoints_it_carries_on_from_the_last(
    tmp_path: Path, uninterrupted: tuple[dict[str, Tensor], list[str]]
) -> None:
    first = make_trainer(tmp_path)

    def die() -> None:
        raise RuntimeError("killed")

    first.add_event_handler(Events.ITERATION_STARTED(once=5), die)
    with pytest.raises(RuntimeError, match="killed"):
        first.run()
    assert torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)["trainer"]["iteration"] == 3
    second = make_trainer(tmp_path)
    second.run()
    assert same(final_state(second), uninterrupted[0])
    assert (tmp_path / "logs" / "history.jsonl").read_text().splitlines() == uninterrupted[1]


def test_a_finished_run_is_not_run_again(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=1).run()
    again = make_trainer(tmp_path, epochs=1)
    again.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("a step was run"))
    again.run()


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    make_trainer(tmp_path, epochs=1).run()
    other = make_trainer(tmp_path, epochs=1, epoch_length=7)
    with pytest.raises(CheckpointError, match="epoch_length: 3 then, 7 now"):
        other.run()
    with pytest.raises(CheckpointError, match=r"does not fit this run's method .* use the settings"):
        make_trainer(tmp_path, epochs=1, name="moco").run()
    (tmp_path / "checkpoints" / "last.pt").write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        make_trainer(tmp_path, epochs=1).run()


def test_settings_that_decide_the_result_must_stay(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=1)
    optimizer = trainer.optimizer
    ran = {"window": (-1000, 400), "seed": 1, "max_epochs": 1, "num_workers": 0}

    def checkpoint(resume: bool = True, data: str = "a", **settings: Any) -> RunCheckpoint:
        parts = {"optimizer": optimizer}
        return RunCheckpoint(tmp_path, parts, resume=resume, signature={"data": data}, settings={**ran, **settings})

    trainer.state.epoch_length = 3
    checkpoint().check(trainer)  # there is no file yet
    checkpoint().save(trainer)
    checkpoint(window=[-1000, 400], max_epochs=9, num_workers=2).check(trainer)
    checkpoint(brand_new_setting=1).check(trainer)  # of which an older version's checkpoint knows nothing
    checkpoint(resume=False, seed=2).check(trainer)
    with pytest.raises(CheckpointError, match=r"\(window: \[-1000, 400\] then, lung now; seed: 1 then, 2 now\)"):
        checkpoint(window="lung", seed=2).check(trainer)
    with pytest.raises(CheckpointError, match=r"\(other data\)"):
        checkpoint(data="b").check(trainer)
    trainer.state.iteration = 6
    checkpoint().save(trainer)
    with pytest.raises(CheckpointError, match="is at epoch 2, beyond max_epochs=1"):
        checkpoint().check(trainer)


def test_a_loss_that_is_not_finite_stops_before_the_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)

    def poison() -> None:
        with torch.no_grad():
            trainer.method.encoder.conv1.weight.fill_(torch.nan)

    trainer.add_event_handler(Events.ITERATION_STARTED(once=5), poison)
    with pytest.raises(DivergedError, match="step 5"):
        trainer.run()
    saved = torch.load(tmp_path / "checkpoints" / "last.pt", weights_only=True)
    assert all(v.isfinite().all() for v in saved["method"].values())


class Recorder(Method):
    """A linear method that notes which hooks are called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 1, bias=False)
        self.calls: list[tuple[str, int]] = []

    def before_step(self, progress: Progress) -> None:
        self.calls.append(("before", progress.step))

    def forward(self, batch: Any, progress: Progress) -> dict[str, Tensor]:
        self.calls.append(("forward", progress.step))
        loss = self.linear(batch["views"][0].flatten(1)).square().mean()
        return {"loss": loss, "twice": 2 * loss}

    def after_backward(self, progress: Progress) -> None:
        self.calls.append(("backward", progress.step))

    def after_step(self, progress: Progress) -> None:
        self.calls.append(("after", progress.step))


class Points(Dataset[dict[str, Any]]):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        value = torch.full((1, 2, 2), float(key.index))
        return {"views": [value], "index": key.index}


def recorded(accumulation: int, clip: float | None = None) -> tuple[Recorder, PretrainTrainer]:
    torch.manual_seed(0)
    method = Recorder()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    trainer = PretrainTrainer(
        "cpu", 2, StepLoader(Points(), 4, 0), method, optimizer, accumulation_steps=accumulation, clip_norm=clip
    )
    trainer.run()
    return method, trainer


def test_hooks_are_called_once_a_step_under_accumulation() -> None:
    method, trainer = recorded(accumulation=2)
    assert method.calls[:5] == [("before", 0), ("forward", 0), ("forward", 0), ("backward", 0), ("after", 0)]
    assert [step for name, step in method.calls if name == "after"] == [0, 1, 2, 3]
    assert trainer.progress == Progress(step=3, total_steps=4, epoch=1, steps_per_epoch=2)
    assert torch.allclose(trainer.state.output["twice"], 2 * trainer.state.output["loss"])


def test_accumulation_gives_the_gradient_of_the_whole_batch() -> None:
    whole, _ = recorded(accumulation=1)
    parts, _ = recorded(accumulation=4)
    assert torch.allclose(whole.linear.weight, parts.linear.weight, atol=1e-6)


def test_clipping_bounds_the_step() -> None:
    torch.manual_seed(0)
    start = nn.Linear(4, 1, bias=False).weight
    method, _ = recorded(accumulation=1, clip=1e-3)
    assert torch.linalg.vector_norm(method.linear.weight - start) <= 4 * 1e-3 * 0.01 * 1.01


def test_a_batch_that_cannot_be_split_evenly_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 equal parts"):
        split_batch({"index": torch.arange(4), "views": [torch.zeros(4, 1)]}, 3)


def test_a_batch_larger_than_the_data_is_told(caplog: pytest.LogCaptureFixture) -> None:
    data = Points()
    for size, told in ((len(data), False), (len(data) + 1, True)):
        method = Recorder()
        PretrainTrainer("cpu", 1, StepLoader(data, size, 0), method, torch.optim.SGD(method.parameters()))
        assert (f"batch_size {size} is larger than the data, {len(data)} slices" in caplog.text) == told


def test_a_part_of_one_slice_is_told(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, epochs=1, name="byol", accumulation_steps=4)
    with pytest.raises(ConfigError, match=r"parts of 1 slice.*accumulation_steps \(4\)"):
        trainer.run()


def test_bfloat16_on_a_cpu_that_lacks_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    method, capabilities = Recorder(), {"avx512_bf16": False, "amx_bf16": True}
    made = partial(
        PretrainTrainer, "cpu", 1, StepLoader(Points(), 4, 0), method, torch.optim.SGD(method.parameters()), amp=True
    )
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert made().autocast
    capabilities["amx_bf16"] = False
    with pytest.raises(ConfigError, match="CPU with bfloat16 instructions"):
        made()
    monkeypatch.delattr(torch.cpu, "get_capabilities")  # an older PyTorch
    with pytest.raises(ConfigError, match="amp=true needs a GPU"):
        made()


@pytest.mark.parametrize("name", ["spark", "moco", "byol", "swav"])
def test_bfloat16_on_a_cpu_begins_as_float32_and_stays_finite(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("medssl_monai.engines.precision.cpu_has_bfloat16", lambda: True)
    losses = {}
    for amp in (False, True):
        trainer = make_trainer(tmp_path / str(amp), epochs=1, name=name, amp=amp)
        trainer.run()
        assert all(p.dtype == torch.float32 for p in trainer.method.parameters())
        lines = (tmp_path / str(amp) / "logs" / "history.jsonl").read_text().splitlines()
        losses[amp] = torch.tensor([json.loads(line)["loss"] for line in lines])
    assert not torch.equal(losses[True], losses[False])
    # Norms over four slices of one position enlarge every rounding; later losses drift apart in any arithmetic.
    torch.testing.assert_close(losses[True][0], losses[False][0], rtol=0.25, atol=0.01)
    assert losses[True].isfinite().all()


def test_random_state_round_trip() -> None:
    import random

    import numpy as np

    np.random.standard_normal()  # noqa: NPY002  leaves a cached second value behind
    random.gauss(0, 1)
    state = random_state()
    json.dumps({k: v.tolist() for k, v in state.items()})
    draws = [(torch.rand(1).item(), np.random.standard_normal(), random.gauss(0, 1)) for _ in range(2)]  # noqa: NPY002
    restore_random_state(state)
    again = [(torch.rand(1).item(), np.random.standard_normal(), random.gauss(0, 1)) for _ in range(2)]  # noqa: NPY002
    assert draws == again
