"""Slices that lie on the device give the run that the loader's slices give, bit for bit."""

import itertools
import logging
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ignite.engine import Events

from medssl_monai.engines import slices_on_device
from medssl_monai.engines.loader import StepLoader
from medssl_monai.engines.pretrain import PretrainTrainer
from medssl_monai.engines.slices_on_device import SlicesOnDevice, place_slices
from medssl_monai.errors import ConfigError, NotHounsfieldError, StoreError
from medssl_monai.handlers.run_checkpoint import RunCheckpoint
from medssl_monai.ingest import SliceStore, build_store, load_key
from medssl_monai.methods.positives import positive_partners
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.epochs import SampleKey
from medssl_monai.transforms import LabelledViewd, TwoViewsd
from tests.engines.test_pretrain import final_state, parts, same
from tests.transforms.test_device_views import DEVICES

VIEWS = TwoViewsd(seed=3, image_size=32)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    """Twelve slices of two sizes."""
    folder = tmp_path_factory.mktemp("sizes")
    for size in (64, 80):
        write_phantom(folder / str(size), patients=1, seed=size, size=size, slices=6)
    build_store([folder], folder / "store", key=load_key(), modality="CT", progress=False)
    return SliceStore(folder / "store")


def trainer(store: SliceStore, folder: Path, name: str, there: bool, workers: int = 0) -> PretrainTrainer:
    torch.manual_seed(0)
    method, optimizer, views = parts(name)
    partners = positive_partners("neighbour-200mm", store, seed=5) if name in ("byol", "swav") else None
    data = SliceDataset(store, transform=views, partners=partners)
    loader = StepLoader(data, 5, 1, num_workers=workers, views_on_device=True, slices_on_device=there)
    handlers = [RunCheckpoint(folder, {"method": method, "optimizer": optimizer}, signature={"seed": 1})]
    return PretrainTrainer("cpu", 3, loader, method, optimizer, train_handlers=handlers)


@pytest.mark.parametrize(
    "name", ["moco", *(pytest.param(name, marks=pytest.mark.slow) for name in ("spark", "byol", "swav"))]
)
def test_a_run_is_the_loaders_bit_for_bit_also_resumed(store: SliceStore, name: str, tmp_path: Path) -> None:
    wanted = trainer(store, tmp_path / "loader", name, there=False, workers=2)
    wanted.run()
    first = trainer(store, tmp_path / "there", name, there=True)
    first.add_event_handler(Events.ITERATION_STARTED(once=5), lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt, match="step 5"):
        first.run()
    second = trainer(store, tmp_path / "there", name, there=True, workers=1 if name == "moco" else 0)
    second.run()
    assert second.state.iteration == wanted.state.iteration == 9
    assert same(final_state(second), final_state(wanted))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    ("window", "spacing"),
    [*((window, 0.0) for window in ("wide", "minmax", "tags", ["lung", "soft_tissue", "bone"])), ("minmax", 150.0)],
)
def test_views_are_the_loaders_and_nothing_is_read_again(
    store: SliceStore, window: Any, spacing: float, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = TwoViewsd(seed=3, image_size=32, window=window, window_fallback="lung", channel_spacing_mm=spacing)
    data = SliceDataset(store, transform=views, kept=np.delete(np.arange(12), [4, 7]) if spacing else None)
    plain = StepLoader(data, 5, seed=2, views_on_device=True)
    there = StepLoader(data, 5, seed=2, slices_on_device=True, device=device)
    there.start_at(2)
    coming = iter(there)
    begun = next(coming)
    monkeypatch.setattr(SliceStore, "read", None)
    later = [begun, *itertools.islice(coming, 3)]
    monkeypatch.undo()
    for wanted, found in zip(itertools.islice(plain, 2, 6), later, strict=True):
        assert plain.device_views is not None and there.device_views is not None
        one, other = plain.device_views.apply(wanted, device), there.device_views.apply(found, device)
        assert set(other) == {"index", "epoch", "views"}
        assert torch.equal(one["index"], other["index"]) and torch.equal(one["epoch"], other["epoch"])
        assert all(torch.equal(a, b) for a, b in zip(one["views"], other["views"], strict=True))
    assert isinstance(data[SampleKey(0, 1)]["views"], list), "the data set is left as it is"


def test_pixels_ask_nothing_of_the_device(store: SliceStore) -> None:
    views = SlicesOnDevice(SliceDataset(store, transform=VIEWS), "meta")
    views.load()
    batch = views.collate([views[SampleKey(1, index)] for index in range(4)])
    padded = views._padded(batch["index"].numpy())
    assert padded.device.type == "meta" and padded.dtype == torch.int16


def test_auto_takes_what_fits_on_a_gpu_alone(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    data = SliceDataset(store, transform=VIEWS)
    size = 2 * 6 * (64**2 + 80**2)
    assert data.pixel_count() * 2 == size
    assert place_slices(data, "cpu", "auto") is None and place_slices(data, "cuda", False) is None
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(slices_on_device, "_free_bytes", lambda device: 4.0 * size)
    assert place_slices(data, "cuda", "auto") is not None and not caplog.records
    monkeypatch.setattr(slices_on_device, "MOST_BYTES", size - 1)
    assert place_slices(data, "cuda", "auto") is None
    assert "the loader reads the slices in every pass, because 12 slices take 0.000126 GB" in caplog.text
    assert place_slices(data, "cuda", True) is not None, "true takes more than auto does"
    monkeypatch.setattr(slices_on_device, "_free_bytes", lambda device: 1.3 * size)
    told = r"they may take 0\.000123 GB of the .* GB that are free there; leave fewer by filters, or set .*=false"
    with pytest.raises(ConfigError, match=told):
        place_slices(data, "cuda", True)


def test_what_cannot_lie_there_is_refused(store: SliceStore, caplog: pytest.LogCaptureFixture) -> None:
    labelled = SliceDataset(store, transform=LabelledViewd("image", image_size=32, augment=False))
    caplog.set_level(logging.INFO)
    assert place_slices(labelled, "cuda", "auto") is None
    assert "LabelledViewd makes its views on the CPU alone" in caplog.text
    with pytest.raises(ConfigError, match=r"on the CPU alone; take another transform, or set slices_on_device=false"):
        place_slices(labelled, "cpu", True)
    with pytest.raises(ConfigError, match="a list does not say how large"):
        place_slices([], "cpu", True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="must be auto, true or false, found 'yes'"):
        place_slices(labelled, "cpu", "yes")  # type: ignore[arg-type]


def test_what_is_wrong_with_slices_shows_before_the_first_step(
    store: SliceStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = SliceDataset(store, transform=TwoViewsd(seed=3, image_size=32, window="picture"))
    with pytest.raises(NotHounsfieldError, match="picture"):
        next(iter(StepLoader(data, 5, 0, slices_on_device=True)))

    def damaged(*_: Any) -> None:
        raise StoreError("the array is damaged")

    monkeypatch.setattr(SliceStore, "read", damaged)
    with pytest.raises(StoreError, match="damaged"):
        iter(StepLoader(SliceDataset(store, transform=VIEWS), 5, 0, slices_on_device=True))
