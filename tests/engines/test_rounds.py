"""A training in rounds, as `monai.fl` runs it: other weights before each round, one schedule over all of them."""

import os
import signal
from pathlib import Path

import pytest
from ignite.engine import Events
from monai.engines import SupervisedTrainer
from monai.networks.utils import copy_model_state
from torch import Tensor

from medssl_monai.engines import captured_step
from medssl_monai.engines.pretrain import PretrainTrainer
from medssl_monai.errors import ConfigError
from tests.engines.test_captured_step import captured_trainer
from tests.engines.test_pretrain import final_state, make_trainer, same


def shared(trainer: PretrainTrainer) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in trainer.network.state_dict().items()}


def run_round(trainer: PretrainTrainer, weights: dict[str, Tensor], epochs: int = 1) -> dict[str, Tensor]:
    """What ``MonaiAlgo.train`` does with a trainer; gives the weights that its first step began with."""
    begun: dict[str, Tensor] = {}
    trainer.state.max_epochs = trainer.state.epoch + epochs
    first = trainer.state.iteration + 1
    copy_model_state(src=weights, dst=trainer.network)
    with trainer.add_event_handler(Events.ITERATION_STARTED(once=first), lambda: begun.update(shared(trainer))):
        trainer.run()
    return begun


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.handlers.history.draw_history", lambda *_: None)


@pytest.mark.parametrize(
    "name", ["moco_of_series", "swav", *(pytest.param(n, marks=pytest.mark.slow) for n in ("spark", "byol"))]
)
def test_rounds_with_the_trainer_s_own_weights_are_one_training(name: str, tmp_path: Path) -> None:
    whole = make_trainer(tmp_path / "whole", 2, name=name)
    whole.run()
    trainer = make_trainer(tmp_path / "rounds", 1, name=name, total_epochs=2)
    assert isinstance(trainer, SupervisedTrainer)
    for _ in range(2):
        run_round(trainer, shared(trainer))
    assert same(final_state(trainer), final_state(whole))
    logs = [(tmp_path / run / "logs" / "history.jsonl").read_text() for run in ("whole", "rounds")]
    assert logs[0] == logs[1]


def test_more_rounds_than_the_schedules_span_are_refused(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, 1, total_epochs=1)
    trainer.state.epoch, trainer.state.iteration = 1, 3
    with pytest.raises(ConfigError, match=r"end after 1 epochs, and 2 are asked for; set max_epochs to the epochs of"):
        run_round(trainer, shared(trainer))
    with pytest.raises(ConfigError, match="end after 1 epochs, and 2 are asked for"):
        make_trainer(tmp_path, 2, total_epochs=1)


def test_a_site_that_is_started_again_goes_on_with_the_next_round(tmp_path: Path) -> None:
    """It begins with the weights it is given, and ends as a site that kept running, with its optimizer and queue."""
    first = make_trainer(tmp_path / "one", 1, name="moco", total_epochs=3)
    start = shared(first)
    run_round(first, start)
    again = make_trainer(tmp_path / "one", 1, name="moco", check=True, total_epochs=3)
    assert (again.state.epoch, again.state.iteration) == (1, 3)
    assert same(run_round(again, start), start)
    assert same(run_round(first, start), start)  # the checkpoint of the first round does not replace them
    assert same(final_state(again), final_state(first))
    finished = make_trainer(tmp_path / "one", 2, name="moco", check=True, total_epochs=2)
    finished.add_event_handler(Events.ITERATION_STARTED, lambda: pytest.fail("a step was run"))
    finished.run()
    finished.run()  # Ignite counts from 0 again


def test_a_site_that_is_stopped_within_a_round_begins_it_again(tmp_path: Path) -> None:
    first = make_trainer(tmp_path, 2, name="moco", total_epochs=4)
    start = shared(first)
    run_round(first, start, epochs=2)
    first.add_event_handler(Events.ITERATION_STARTED(once=10), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="step 10"):
        run_round(first, start, epochs=2)
    again = make_trainer(tmp_path, 2, name="moco", check=True, total_epochs=4)
    assert (again.state.epoch, again.state.iteration) == (2, 6)
    assert same(run_round(again, start, epochs=2), start)
    assert again.state.iteration == 12
    assert len((tmp_path / "logs" / "history.jsonl").read_text().splitlines()) == 12


def test_a_step_is_recorded_once_a_round_in_any_number_of_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(captured_step, "MOST_RECORDINGS", 1)
    trainer = captured_trainer(tmp_path, "moco_of_series", 1, total_epochs=3)
    assert trainer.captured is not None
    for done in (1, 2, 3):
        run_round(trainer, shared(trainer))
        assert trainer.captured.replays == 2 * done
