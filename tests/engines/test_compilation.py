"""Blocks that are compiled one by one compute what eager ones do; whether a run compiles, and what it says about it."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from medssl_monai.engines.captured_step import CapturedStep
from medssl_monai.engines.compilation import MEASURED, SETTLED, Compilation, compile_method
from medssl_monai.engines.pretrain import PretrainTrainer
from medssl_monai.errors import ConfigError
from medssl_monai.methods.spark import SparK
from medssl_monai.networks.resnet import resnet_encoder
from tests.engines.graph_stand_in import StandIn
from tests.engines.test_pretrain import final_state, make_trainer, same


@pytest.fixture(autouse=True)
def compiler() -> Iterator[None]:
    """Nothing that another test compiled."""
    torch.compiler.reset()
    limit = torch._dynamo.config.recompile_limit
    yield
    torch._dynamo.config.recompile_limit = limit
    watch = logging.getLogger("torch._dynamo.convert_frame")
    for handler in [one for one in watch.handlers if type(one).__name__ == "_LimitWatch"]:
        watch.removeHandler(handler)
    torch.compiler.reset()


class Counting:
    """torch.compile's backend "eager", with a count of graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kinds"), [("spark", 8 + 5), ("moco", 2 * 7)])
def test_a_run_with_compiled_blocks(name: str, kinds: int, tmp_path: Path) -> None:
    """ResNet-18: seven or eight kinds of blocks, for MoCo also without gradients; recorded steps compile nothing."""
    plain = make_trainer(tmp_path / "eager", 2, name=name)
    plain.run()
    trainer = make_trainer(tmp_path / "compiled", 2, name=name)
    backend = Counting()
    compile_method(trainer.method, backend)
    trainer.captured = CapturedStep(trainer.method, trainer._compute, StandIn(trainer.method), warm_up=1)
    trainer.run()
    assert same(final_state(trainer), final_state(plain))
    assert list(trainer.method.state_dict()) == list(plain.method.state_dict())
    assert 0 < backend.graphs <= kinds


def test_blocks_of_one_kind_share_a_graph_and_evaluation_is_eager() -> None:
    encoder, backend = resnet_encoder("resnet50"), Counting()
    encoder.compile_parts(backend)
    image = torch.randn(2, 1, 64, 64)
    with torch.no_grad():
        encoder.eval()(image)
        assert backend.graphs == 0
        encoder.train()(image)
        assert backend.graphs == 8  # of 16 blocks: the first of each stage, and the others
        encoder(image)
        encoder.eval()(torch.cat([image, image]))
    assert backend.graphs == 8


def test_the_limit_is_raised_and_reaching_it_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    method = SparK("resnet18", decoder_width=32, image_channels=1)
    compile_method(method, "eager")
    assert torch._dynamo.config.recompile_limit >= 64
    torch._dynamo.config.recompile_limit = 1
    method.decoder([torch.randn(1, 32 // 2**i, 2**i, 2**i) for i in range(4)])
    assert caplog.text.count("has reached its limit of 1 kinds of one block") == 1


class Clock(StandIn):
    """A stand-in with a device time."""

    def __init__(self, device: float) -> None:
        self.device = device

    def seconds(self) -> float:
        return self.device

    def reset(self) -> None:
        self.was_reset = True


def decided(device: float, wall: float, left: int, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, Compilation]:
    """Whether a run with these seconds a step compiles."""
    method = SparK("resnet18", decoder_width=32, image_channels=1)
    graph = Clock(device)
    captured = CapturedStep(method, lambda batch, progress: {}, graph)
    compilation = Compilation(method, captured, "auto", backend="eager")
    now = 0.0
    monkeypatch.setattr("medssl_monai.engines.compilation.time.perf_counter", lambda: now)
    for step in range(SETTLED + MEASURED + 5):
        captured.replays, now = step, step * wall
        compilation.after_step(left)
    compiled = method.encoder._compilation is not None
    assert hasattr(graph, "was_reset") is compiled and not compilation.undecided
    return compiled, compilation


@pytest.mark.parametrize(
    ("device", "wall", "left", "deterministic", "line"),
    [
        (0.026, 0.027, 60_000, False, "compiling the blocks, which saves about 5 min"),
        (0.026, 0.027, 2_000, False, "it would save about 10 s and take about 60 s"),
        (0.026, 0.066, 60_000, False, "computes for 26 of 66 ms a step: the loader is slower"),
        (0.026, 0.027, 60_000, True, "deterministic=true; compile=true compiles at the first step"),
    ],
)
def test_auto_compiles_what_earns_it(
    device: float,
    wall: float,
    left: int,
    deterministic: bool,
    line: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", deterministic)
    with caplog.at_level(logging.INFO):
        compiled, _ = decided(device, wall, left, monkeypatch)
    assert compiled is line.startswith("compiling")
    assert [record.name for record in caplog.records] == ["medssl_monai.engines.compilation"]
    assert line in caplog.text


def test_without_a_recorded_step_auto_does_nothing(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1, name="spark")
    assert not trainer.compilation.undecided and trainer.method.encoder._compilation is None
    assert make_trainer(tmp_path, 1, compile_blocks=True).method.encoder._compilation is not None
    with pytest.raises(ConfigError, match="compile: must be auto, true or false, found 3"):
        make_trainer(tmp_path, 1, compile_blocks=3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["spark", "moco", "byol", "swav"])
def test_compiled_and_recorded_on_a_gpu(name: str, tmp_path: Path) -> None:
    """By inductor, within a CUDA graph; the first loss is the eager one up to rounding."""
    losses = []
    for compiled in (False, True):
        trainer: PretrainTrainer = make_trainer(
            tmp_path / str(compiled), 3, name=name, device="cuda", compile_blocks=compiled
        )
        first: list[Tensor] = []
        trainer.add_event_handler("iteration_completed", lambda engine, f=first: f.append(engine.state.output["loss"]))
        trainer.run()
        assert trainer.captured is not None and trainer.captured.replays > 0
        assert all(loss.isfinite() for loss in first)
        losses.append(first[0].cpu())
    torch.testing.assert_close(losses[1], losses[0], rtol=2e-2, atol=2e-2)
