"""The time that a training will take is logged once, and a smaller recipe is named to those who wait long on a CPU."""

import logging
import time
from typing import Any

import pytest
import torch
from ignite.engine import Engine

from medssl_monai.handlers.time_estimate import TimeEstimate


@pytest.mark.parametrize(
    ("device", "step", "epochs", "told"),
    [
        ("cpu", 0.5, 100, ["a step takes 0.5 s: about 8 min for the 978 steps that remain"]),
        (
            "cpu",
            16.0,
            1000,
            [
                "a step takes 16 s: about 44 h for the 9996 steps that remain",
                "this is long without a GPU: --config small is a recipe for small machines",
            ],
        ),
        ("cuda", 16.0, 1000, ["a step takes 16 s: about 44 h for the 9996 steps that remain"]),
        ("cpu", 0.5, 2, []),  # over before it is measured
    ],
)
def test_the_time_that_remains_is_logged_once(
    device: str,
    step: float,
    epochs: int,
    told: list[str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])

    def train(engine: Engine, batch: Any) -> None:
        clock[0] += 60.0 if engine.state.iteration <= 2 else step  # workers start, caches are filled

    engine = Engine(train)
    engine.state.device = torch.device(device)  # type: ignore[attr-defined]
    TimeEstimate("small").attach(engine)
    with caplog.at_level(logging.INFO, "medssl_monai"):
        engine.run(range(10), max_epochs=epochs)
    # Ignite logs too, where an earlier test has left the root logger at INFO.
    assert [one.getMessage() for one in caplog.records if one.name.startswith("medssl_monai")] == told
