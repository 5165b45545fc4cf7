"""Views made on the device, as the trainer and the bundles use them."""

import logging
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events

from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.pretrain import PretrainTrainer
from medssl_monai.engines.slices_on_device import SlicesOnDevice
from medssl_monai.errors import ConfigError
from medssl_monai.handlers.run_checkpoint import RunCheckpoint
from medssl_monai.ingest import SliceStore
from medssl_monai.transforms import DeviceViews
from tests.bundles.runs import pretrain
from tests.engines.test_pretrain import Points, Slices, final_state, parts, same


def trainer(folder: Path, name: str, on_device: bool = True, workers: int = 0, **kwargs: Any) -> PretrainTrainer:
    torch.manual_seed(0)
    method, optimizer, views = parts(name)
    loader = StepLoader(Slices(views), 4, seed=1, num_workers=workers, views_on_device=on_device)
    handlers = [RunCheckpoint(folder, {"method": method, "optimizer": optimizer}, signature={"seed": 1})]
    return PretrainTrainer("cpu", 2, loader, method, optimizer, train_handlers=handlers, **kwargs)


@pytest.mark.parametrize("name", ["spark", "moco"])
def test_stopped_it_carries_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", name)
    whole.run()
    first = trainer(tmp_path / "parts", name)
    first.add_event_handler(Events.ITERATION_STARTED(once=4), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        first.run()
    second = trainer(tmp_path / "parts", name, workers=1 if name == "moco" else 0)
    second.run()
    assert same(final_state(second), final_state(whole))


def test_the_first_loss_is_that_of_views_from_the_workers(tmp_path: Path) -> None:
    losses = []
    for on_device in (False, True):
        run = trainer(tmp_path / str(on_device), "spark", on_device, accumulation_steps=2, epoch_length=1)
        batches: list[Any] = []
        run.add_event_handler(Events.ITERATION_COMPLETED(once=1), lambda e, b=batches: b.append(e.state.output["loss"]))
        run.run()
        losses.append(batches[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-4, atol=1e-5)


def test_the_dataset_is_left_as_it_is() -> None:
    data = Slices(parts("moco")[2])
    loader = StepLoader(data, 4, seed=1, views_on_device=True)
    batch = next(iter(loader))
    assert batch["slices"][0].shape == (4, 64, 64) and "views" not in batch
    assert data.transform is not loader.dataset.transform  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="views_on_device"):
        StepLoader(Points(), 4, 0, views_on_device=True)


@pytest.mark.parametrize(("key", "kind"), [("views_on_device", DeviceViews), ("slices_on_device", SlicesOnDevice)])
def test_one_key_of_a_bundle_selects_it(
    key: str, kind: type, phantom_store: SliceStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    workflow = pretrain(phantom_store, tmp_path, "moco", queue_length=12, **{key: True})
    loader = workflow.parser.get_parsed_content("train::dataloader")
    assert type(loader.device_views) is kind
    assert ("slices lie on the device and take" in caplog.text) == (kind is SlicesOnDevice)
    assert (tmp_path / "models" / "encoder.safetensors").is_file()
    assert (tmp_path / "logs" / "collapse.jsonl").is_file(), "handlers still see views of the dataset"
