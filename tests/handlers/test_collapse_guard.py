"""Each method is made to collapse, and is seen doing so; a healthy one is left alone."""

import json
import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import nn

from medssl_monai.errors import ConfigError, DivergedError
from medssl_monai.handlers.collapse_guard import CollapseGuard
from medssl_monai.methods.base import Method, Progress
from medssl_monai.methods.byol import BYOL
from medssl_monai.methods.moco import MoCo
from medssl_monai.methods.spark import SparK
from medssl_monai.methods.swav import SwAV
from medssl_monai.store.epochs import SampleKey


class Views:
    """Two noisy views of images that differ."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, key: SampleKey) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(key.index)
        image = torch.randn(3, 32, 32, generator=generator)
        return {"views": [image, image + 0.1 * torch.randn(3, 32, 32, generator=generator)], "index": key.index}


METHODS: dict[str, Callable[[], Method]] = {
    "spark": lambda: SparK("resnet18", decoder_width=32),
    "swav": lambda: SwAV("resnet18", hidden_dim=32, embedding_dim=16, prototypes=10),
    "moco": lambda: MoCo("resnet18", embedding_dim=16, queue_length=32),
    "byol": lambda: BYOL("resnet18", hidden_dim=32, embedding_dim=16),
}


def collapse(method: Method) -> None:
    """Make the last layer before the embedding give the same for every image: what a collapse looks like."""
    if isinstance(method, SparK):
        for parameter in method.encoder.layer4.parameters():
            nn.init.zeros_(parameter)
        return
    head = method.get_submodule("head" if isinstance(method, MoCo) else "projector")
    last = [m for m in head.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.zeros_(last.weight)
    bias = getattr(last, "bias", None)  # SwAV's has none
    nn.init.constant_(last.weight[0], 1e-9) if bias is None else nn.init.ones_(bias)


def run(method: Method, folder: Path, epochs: int = 3, at: int = 1, **settings: Any) -> CollapseGuard:
    """An engine whose method collapses after epoch ``at``."""
    guard = CollapseGuard(method, Views(), folder, **settings)
    engine = Engine(lambda engine, batch: None)
    engine.state.device = torch.device("cpu")  # type: ignore[attr-defined]

    @engine.on(Events.EPOCH_STARTED(once=at + 1))
    def _() -> None:
        collapse(method)

    guard.attach(engine)
    engine.run([0], max_epochs=epochs)
    return guard


@pytest.mark.parametrize("name", METHODS)
def test_a_collapse_is_seen_and_told(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    method = METHODS[name]()
    with caplog.at_level(logging.WARNING):
        guard = run(method, tmp_path)
    assert "collapsed at step 3" in caplog.text
    assert method.advice in caplog.text
    healthy, broken = guard.log.rows[0], guard.log.rows[-1]
    assert healthy["embedding_std"] > 0.05 and healthy["effective_rank"] > 3
    assert broken["embedding_std"] < 0.05 or broken["effective_rank"] < 1.5
    assert [json.loads(line)["step"] for line in (tmp_path / "logs" / "collapse.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
    ]


@pytest.mark.parametrize("name", METHODS)
def test_it_stops_on_request(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    with pytest.raises(DivergedError, match="collapsed at step 2"):
        run(METHODS[name](), tmp_path, stop=True, patience=1)


@pytest.mark.parametrize("name", METHODS)
def test_a_healthy_method_is_left_as_it_is(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    method = METHODS[name]().train()
    before = {k: v.clone() for k, v in method.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        guard = run(method, tmp_path, at=10)
    assert "collapsed" not in caplog.text
    assert method.training
    assert all(torch.equal(v, before[k]) for k, v in method.state_dict().items())
    assert guard.log.rows[0]["alignment"] < 1 if name != "spark" else True
    if name == "swav":
        assert guard.log.rows[0]["prototype_entropy"] > 0.1


@pytest.mark.parametrize(("loss", "told"), [(math.log(10), True), (0.996 * math.log(10), True), (2.0, False)])
def test_a_loss_that_stays_at_chance_is_told_once(
    loss: float, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(0)
    method = METHODS["swav"]()
    guard = CollapseGuard(method, Views(), tmp_path, patience=1)
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(loss)})
    engine.state.device = torch.device("cpu")  # type: ignore[attr-defined]
    guard.attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0], max_epochs=6)
    assert [row["at_chance"] for row in guard.log.rows] == [told] * 6
    messages = [record.getMessage() for record in caplog.records if "nothing is learned" in record.getMessage()]
    if not told:
        assert messages == []
        return
    assert messages == [
        f"the loss at step 3 is {loss:.3f}, and guessing gives 2.303: nothing is learned yet; {method.advice}"
    ]


@pytest.mark.parametrize(("total_epochs", "told"), [(20, False), (12, True)])
def test_the_half_is_that_of_all_rounds(
    total_epochs: int, told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    guard = CollapseGuard(METHODS["swav"](), Views(), tmp_path, patience=1)
    engine = Engine(lambda engine, batch: {"loss": torch.tensor(math.log(10))})
    engine.state.device = torch.device("cpu")  # type: ignore[attr-defined]
    engine.total_epochs = total_epochs  # type: ignore[attr-defined]
    guard.attach(engine)
    with caplog.at_level(logging.WARNING):
        engine.run([0], max_epochs=6)  # of the first round
    assert ("nothing is learned" in caplog.text) is told


def test_a_network_with_one_answer_has_the_loss_of_chance() -> None:
    torch.manual_seed(0)
    progress = Progress(step=0, total_steps=8, epoch=0, steps_per_epoch=8)
    batch = {"views": [torch.randn(8, 1, 32, 32), torch.randn(8, 1, 32, 32)]}
    swav, moco = METHODS["swav"](), METHODS["moco"]()
    nn.init.zeros_(swav.get_parameter("prototypes.weight"))
    assert swav.chance_loss == pytest.approx(swav(batch)["loss"].item(), rel=1e-5)
    collapse(moco)
    moco.before_step(progress)
    moco.get_submodule("key_head").load_state_dict(moco.get_submodule("head").state_dict())
    for _ in range(4):  # the queue of 32 fills with the same key
        loss = moco(batch)["loss"].item()
        moco.after_backward(progress)
    assert loss < moco.chance_loss
    assert moco.chance_loss == pytest.approx(moco(batch)["loss"].item(), rel=1e-5)
    assert METHODS["byol"]().chance_loss is None and METHODS["spark"]().chance_loss is None


def test_nothing_to_compare_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two slices"):
        CollapseGuard(METHODS["byol"](), Views(), tmp_path, count=1)
