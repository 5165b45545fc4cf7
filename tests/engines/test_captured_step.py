"""Recorded steps train as eager ones do, to the last bit: on CPUs with a stand-in, on GPUs with CUDA graphs."""

import logging
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn

from medssl_monai.engines.captured_step import CapturedStep, captured_step
from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.pretrain import PretrainTrainer
from medssl_monai.errors import ConfigError, DivergedError
from medssl_monai.handlers.collapse_guard import CollapseGuard
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK
from medssl_monai.processes import leave_processes, start_processes
from tests.engines.graph_stand_in import StandIn
from tests.engines.test_pretrain import Points, final_state, make_trainer, same

METHODS = ("spark", "moco_of_series", "byol", "swav")
CPU = torch.device("cpu")


def captured_trainer(folder: Path, name: str, epochs: int = 4, **settings: Any) -> PretrainTrainer:
    """As `make_trainer`, with recorded steps (after one eager step each) and a look at the embeddings every epoch."""
    trainer = make_trainer(folder, epochs, name=name, **settings)
    trainer.captured = CapturedStep(trainer.method, trainer._compute, StandIn(trainer.method), warm_up=1)
    watch(trainer, folder)
    return trainer


def watch(trainer: PretrainTrainer, folder: Path) -> None:
    """A collapse guard, which runs the method in evaluation mode between two epochs."""
    loader = trainer.data_loader
    assert isinstance(loader, StepLoader)
    CollapseGuard(trainer.method, loader.dataset, folder, count=4).attach(trainer)


def logs(folder: Path) -> list[str]:
    return [(folder / "logs" / f"{name}.jsonl").read_text() for name in ("history", "collapse")]


@pytest.fixture(scope="module")
def eager(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[dict[str, Tensor], list[str]]]:
    """Final state and logs of each method's eager run."""
    found: dict[str, tuple[dict[str, Tensor], list[str]]] = {}

    def of(name: str) -> tuple[dict[str, Tensor], list[str]]:
        if name not in found:
            folder = tmp_path_factory.mktemp(name)
            trainer = make_trainer(folder, 4, name=name)
            watch(trainer, folder)
            trainer.run()
            found[name] = final_state(trainer), logs(folder)
        return found[name]

    return of


@pytest.mark.parametrize(
    "name", [name if name in ("spark", "swav") else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_recorded_steps_are_eager_ones(name: str, tmp_path: Path, eager: Any) -> None:
    state, history = eager(name)
    trainer = captured_trainer(tmp_path, name)
    trainer.run()
    assert same(final_state(trainer), state)
    assert logs(tmp_path) == history
    # SwAV records again when its queue begins to count, in the second or third epoch.
    assert trainer.captured is not None
    recordings = 2 if name == "swav" else 1
    assert (trainer.captured.recordings, trainer.captured.replays) == (recordings, 12 - recordings)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("spark", 4),
        pytest.param("moco_of_series", 7, marks=pytest.mark.slow),
        pytest.param("byol", 2, marks=pytest.mark.slow),
        ("swav", 8),
    ],
)
def test_stopped_and_carried_on(name: str, step: int, tmp_path: Path, eager: Any) -> None:
    first = captured_trainer(tmp_path, name)
    first.add_event_handler(Events.ITERATION_STARTED(once=step), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = captured_trainer(tmp_path, name)
    second.run()
    state, history = eager(name)
    assert same(final_state(second), state)
    assert logs(tmp_path) == history


def test_run_again_in_the_same_process(tmp_path: Path) -> None:
    trainers = [make_trainer(tmp_path / "eager", 1, name="moco"), captured_trainer(tmp_path / "again", "moco", 1)]
    for trainer in trainers:
        trainer.run()
        trainer.state.max_epochs = 3
        trainer.run()
    assert same(*map(final_state, trainers))


def test_a_loss_that_is_not_finite_is_noticed(tmp_path: Path) -> None:
    trainer = captured_trainer(tmp_path, "spark")

    def poison() -> None:
        with torch.no_grad():
            trainer.method.encoder.conv1.weight.fill_(torch.nan)

    trainer.add_event_handler(Events.ITERATION_STARTED(once=5), poison)
    with pytest.raises(DivergedError, match="step 5"):
        trainer.run()


def test_gradients_are_clipped_as_eagerly(tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "eager", 3, name="byol", clip_norm=0.01)
    plain.run()
    trainer = captured_trainer(tmp_path / "captured", "byol", epochs=3, clip_norm=0.01)
    trainer.run()
    assert same(final_state(trainer), final_state(plain))


def test_masks_with_another_number_of_cells_are_recorded_again() -> None:
    torch.manual_seed(0)
    method = SparK("resnet18", decoder_width=32, image_channels=1)
    views = [torch.randn(2, 1, 64, 64)]

    def compute(batch: dict[str, Any], progress: Progress) -> dict[str, Tensor]:
        loss = method(batch, progress)["loss"]
        loss.backward()
        return {"loss": loss.detach()}

    step = CapturedStep(method, compute, StandIn(method), warm_up=1)
    for ratio in (0.25, 0.25, 0.25, 0.5, 0.5, 0.5):
        method.mask_ratio = ratio
        batch = dict(method.prepare({"views": views, "mask": method.draw_mask(2, 64, 64)}))
        method.zero_grad()
        assert torch.equal(step(batch, Progress(0, 1, 0, 1))["loss"], method(batch)["loss"].detach())
    assert (step.recordings, step.replays) == (2, 4)


class Weight(Method):
    """A loss of one weight, which depends on the position of the run."""

    capturable = True

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.seen: list[float] = []

    def forward(self, batch: Mapping[str, Any], progress: Progress) -> dict[str, Tensor]:
        self.seen.append(progress.fraction)
        return {"loss": self.weight * batch["views"][0].mean() * self.factor(progress)}

    def factor(self, progress: Progress) -> float:
        return 1.0


class ByEpoch(Weight):
    """Says so."""

    def factor(self, progress: Progress) -> float:
        return float(progress.epoch)

    def capture_key(self, progress: Progress) -> int:
        return progress.epoch


class ByEpochSecretly(ByEpoch):
    def capture_key(self, progress: Progress) -> int:
        return 0


class Seen(Weight):
    """Keeps something in Python between forward and the hook after backward."""

    def after_backward(self, progress: Progress) -> None:
        assert self.weight.grad is not None
        self.weight.grad *= len(self.seen)


def trained(method: Weight, capture: bool, epochs: int = 3) -> Tensor:
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    trainer = PretrainTrainer("cpu", epochs, StepLoader(Points(), 2, 0), method, optimizer)
    if capture:
        trainer.captured = CapturedStep(method, trainer._compute, StandIn(method), warm_up=1)
    trainer.run()
    return method.weight.detach()


def test_a_method_that_says_when_it_changes_is_recorded_again() -> None:
    assert torch.equal(trained(ByEpoch(), True), trained(ByEpoch(), False))


@pytest.mark.parametrize("make", [ByEpochSecretly, Seen])
def test_the_stand_in_shows_a_broken_promise(make: Callable[[], Weight]) -> None:
    assert not torch.equal(trained(make(), True), trained(make(), False))


def test_a_computation_that_keeps_changing_is_run_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    assert torch.equal(trained(ByEpoch(), True, epochs=25), trained(ByEpoch(), False, epochs=25))
    assert caplog.text.count("its computation has changed 20 times") == 1


@pytest.mark.parametrize("required", [False, True])
def test_a_recording_that_fails(required: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(StandIn):
        def record(self, compute: Callable[[], Any]) -> Any:
            super().record(compute)
            compute()  # leaves gradients
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

    method = Weight()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    trainer = PretrainTrainer("cpu", 2, StepLoader(Points(), 2, 0), method, optimizer)
    trainer.captured = CapturedStep(method, trainer._compute, Failing(method), required=required)
    if required:
        with pytest.raises(ConfigError, match=r"Weight cannot be recorded \(operation not permitted .*cuda_graph=auto"):
            trainer.run()
        return
    trainer.run()
    assert torch.equal(method.weight.detach(), trained(Weight(), False, epochs=2))
    assert caplog.text.count("recording it failed (operation not permitted when stream is capturing)") == 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, "the device is a cpu"),
        ({"accumulation_steps": 2}, r"a batch is computed in 2 parts \(accumulation_steps\)"),
        ({"recompute": True}, "blocks that are computed again"),
        ({"capturable": False}, "MoCo does not say that it can be recorded"),
    ],
)
def test_what_cannot_be_recorded_is_told(change: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture) -> None:
    method = MoCo("resnet18", 8, 16)
    method.encoder.recompute = change.pop("recompute", False)
    method.capturable = change.pop("capturable", True)
    with caplog.at_level(logging.INFO), pytest.raises(ConfigError, match=f"{reason}.*set cuda_graph=auto or false"):
        captured_step(method, method.forward, CPU, cuda_graph=True, **change)
    assert captured_step(method, method.forward, CPU, cuda_graph=False, **change) is None
    assert not caplog.records
    with caplog.at_level(logging.INFO):
        assert captured_step(method, method.forward, CPU, **change) is None
    assert len(caplog.records) == 1 and "runs without a CUDA graph" in caplog.text


def test_other_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="must be auto, true or false, found 'yes'"):
        captured_step(Weight(), Weight().forward, CPU, cuda_graph="yes")  # type: ignore[arg-type]


def of_two(rank: int, folder: str) -> None:
    """Train in one of two processes; leave the state and the log."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "localhost"}
    logging.basicConfig(filename=f"{folder}/{rank}.log", level=logging.INFO)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    start_processes()
    trainer = make_trainer(Path(folder) / str(rank), 2, name="byol")
    assert trainer.captured is None
    trainer.run()
    torch.save(final_state(trainer), f"{folder}/{rank}.pt")
    with pytest.raises(ConfigError, match="2 processes share it"):
        make_trainer(Path(folder) / "required", 1, name="byol", cuda_graph=True)
    leave_processes()


@pytest.mark.ddp
@pytest.mark.slow
def test_several_processes_run_eagerly_and_say_so(tmp_path: Path) -> None:
    spawn(of_two, args=(str(tmp_path),), nprocs=2)  # type: ignore[no-untyped-call]
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert same(one, two)
    assert "without a CUDA graph, because 2 processes share it" in (tmp_path / "0.log").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("amp", [False, True])
@pytest.mark.parametrize("name", METHODS)
def test_on_a_gpu(name: str, amp: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the real graph: final weights, losses and embeddings, also of a run that was stopped."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)

    def run(folder: Path, cuda_graph: bool, stop: int | None = None) -> PretrainTrainer:
        trainer = make_trainer(folder, 5, name=name, device="cuda", amp=amp, cuda_graph=cuda_graph)
        watch(trainer, folder)
        if stop is not None:
            trainer.add_event_handler(Events.ITERATION_STARTED(once=stop), lambda: os.kill(os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                trainer.run()
            return trainer
        trainer.run()
        return trainer

    wanted = final_state(run(tmp_path / "eager", False))
    trainer = run(tmp_path / "captured", True)
    assert trainer.captured is not None and trainer.captured.replays > 0
    assert same(final_state(trainer), wanted)
    assert logs(tmp_path / "captured") == logs(tmp_path / "eager")
    run(tmp_path / "stopped", True, stop=8)
    assert same(final_state(run(tmp_path / "stopped", True)), wanted)
    assert logs(tmp_path / "stopped") == logs(tmp_path / "eager")
