"""The bundles under a stock ``monai.fl.client.MonaiAlgo``: two sites, and a coordinator that averages their weights."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from ignite.engine import Events
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems, FlStatistics
from monai.fl.utils.exchange_object import ExchangeObject
from torch import Tensor

from medssl_monai.checkpoints.import_weights import import_weights
from medssl_monai.checkpoints.load import load_encoder, load_into_resnet
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.errors import CheckpointError, ConfigError
from medssl_monai.ingest import SliceStore, build_store, load_key
from medssl_monai.resources import bundle_dir, config_file
from medssl_monai.runs.bundle import cause_of
from medssl_monai.samples.phantom import write_phantom
from tests.bundles.runs import SMALL, finetune, pretrain

pytestmark = pytest.mark.filterwarnings("ignore:executing the bundle config:UserWarning")

SHORT: dict[str, Any] = {"epoch_length": 2, "warmup_epochs": 0, "probe_interval": 9, "guard_interval": 9}
CLASSES = ["abdomen_pelvis", "head", "thorax"]
Weights = Mapping[str, Tensor]


@pytest.fixture(autouse=True)
def nothing_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medssl_monai.handlers.history.draw_history", lambda *_: None)
    monkeypatch.setattr("medssl_monai.handlers.embedding_probe.draw_embeddings", lambda *_: None)


@pytest.fixture(scope="module")
def other_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Patients of a second hospital."""
    return write_phantom(tmp_path_factory.mktemp("other"), patients=4, seed=7, size=64, slices=4)


@pytest.fixture(scope="module")
def other_store(other_labels: Path, tmp_path_factory: pytest.TempPathFactory) -> SliceStore:
    out = tmp_path_factory.mktemp("stores") / "other"
    build_store([other_labels.parent], out, key=load_key(), modality="CT", progress=False)
    return SliceStore(out)


def site(bundle: str, out: Path, local_epochs: int = 1, differences: bool = False, **settings: Any) -> MonaiAlgo:
    """A hospital's client, ready for the first round."""
    classifies = bundle == "ct_classification"
    own = {"decoder_width": 32} if bundle == "ct_ssl_spark" else {}
    kwargs = {**SMALL, **own, "output_dir": str(out), **settings}
    overlay = str(config_file("demo_finetune" if classifies else "demo"))
    files = ["configs/train.yaml", overlay]
    algo = MonaiAlgo(
        bundle_root=str(bundle_dir(bundle)),
        local_epochs=local_epochs,
        send_weight_diff=differences,
        config_train_filename=files,
        train_kwargs=kwargs,
        config_evaluate_filename=[*files, "configs/evaluate.yaml"] if classifies else None,
        eval_kwargs={**kwargs, "output_dir": f"{out}-evaluation", "model_file": None},
    )
    algo.initialize({ExtraItems.CLIENT_NAME: out.name})  # type: ignore[no-untyped-call]
    return algo


def trainer_of(algo: MonaiAlgo) -> Any:
    return algo.trainer


def exchanged(algo: MonaiAlgo) -> Any:
    return algo.get_weights()  # type: ignore[no-untyped-call]


def weights_of(algo: MonaiAlgo) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in exchanged(algo).weights.items()}


def average(updates: Sequence[Weights]) -> dict[str, Tensor]:
    return {
        name: torch.stack([update[name].double() for update in updates]).mean(0).to(value.dtype)
        for name, value in updates[0].items()
    }


def same(a: Weights, b: Weights) -> bool:
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


def train(algo: MonaiAlgo, weights: Weights) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A round of a site: what its first step began with, and what it gives back."""
    begun: dict[str, Tensor] = {}
    trainer = trainer_of(algo)
    note = trainer.add_event_handler(
        Events.ITERATION_STARTED(once=trainer.state.iteration + 1), lambda: begun.update(weights_of(algo))
    )
    with note:
        algo.train(ExchangeObject(weights=dict(weights)))
    return begun, weights_of(algo)


@pytest.mark.parametrize(
    "method", ["moco", *(pytest.param(m, marks=pytest.mark.slow) for m in ("spark", "swav", "byol"))]
)
def test_two_sites_pre_train_one_encoder(
    method: str, phantom_store: SliceStore, other_store: SliceStore, tmp_path: Path
) -> None:
    stores = {"a": phantom_store, "b": other_store}
    sites = [
        site(f"ct_ssl_{method}", tmp_path / name, dataset_dir=str(store.path), **SHORT)
        for name, store in stores.items()
    ]
    shared = weights_of(sites[0])
    assert not any("queue" in name for name in shared)
    for _ in range(2):
        begun, given = zip(*(train(algo, shared) for algo in sites), strict=True)
        assert same(begun[0], shared) and same(begun[1], shared)
        shared = average(given)
        assert not any(same(shared, own) for own in given)
    for algo in sites:
        assert exchanged(algo).statistics[FlStatistics.NUM_EXECUTED_ITERATIONS] == 2
        algo.finalize()
    rates = []
    for name in stores:
        history = [json.loads(line) for line in (tmp_path / name / "logs" / "history.jsonl").read_text().splitlines()]
        assert [row["step"] for row in history] == [1, 2, 3, 4]
        rates.append([row["learning_rate"] for row in history])
    assert rates[0] == rates[1] == sorted(rates[0], reverse=True) and len(set(rates[0])) == 4, "one schedule"
    torch.save(shared, tmp_path / "average.pt")
    import_weights(tmp_path / "average.pt", tmp_path / "encoder.safetensors")
    network = torchvision.models.resnet18()
    report = load_into_resnet(network, tmp_path / "encoder.safetensors")
    assert report.missing == ("fc.weight", "fc.bias")
    assert torch.equal(network.conv1.weight, shared["encoder.conv1.weight"])
    torch.save({"model": shared, "train_conf": {}}, tmp_path / "flare.pt")
    assert load_encoder(tmp_path / "flare.pt")[1].fingerprint == report.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize("method", ["spark", "swav", "moco", "byol"])
def test_one_site_alone_trains_as_without_a_federation(method: str, phantom_store: SliceStore, tmp_path: Path) -> None:
    pretrain(phantom_store, tmp_path / "plain", method, **SHORT)
    algo = site(f"ct_ssl_{method}", tmp_path / "alone", dataset_dir=str(phantom_store.path), **SHORT)
    for _ in range(2):
        train(algo, average([weights_of(algo)]))
    plain, alone = (checkpoint(tmp_path / name)["method"] for name in ("plain", "alone"))
    assert same(plain, alone)
    probes = [(tmp_path / name / "logs" / "probes.jsonl").read_text() for name in ("plain", "alone")]
    assert probes[0] == probes[1]


def checkpoint(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.pt", weights_only=True)
    return content


@pytest.mark.slow
def test_two_sites_train_and_evaluate_one_classifier(
    phantom_labels: Path, phantom_store: SliceStore, other_labels: Path, other_store: SliceStore, tmp_path: Path
) -> None:
    tables = {"a": (phantom_labels, phantom_store), "b": (other_labels, other_store)}
    sites = [
        site(
            "ct_classification",
            tmp_path / name,
            dataset_dir=str(labels),
            store_dir=str(store.path),
            classes=CLASSES,
            epoch_length=2,
        )
        for name, (labels, store) in tables.items()
    ]
    shared = weights_of(sites[0])
    for _ in range(2):
        begun, given = zip(*(train(algo, shared) for algo in sites), strict=True)
        assert same(begun[0], shared) and same(begun[1], shared)
        shared = average(given)
        assert not any(same(shared, own) for own in given)
    metrics = [algo.evaluate(ExchangeObject(weights=shared)).metrics for algo in sites]
    # The averaged network in the place of a site's own gives the same figure.
    torch.save(shared, tmp_path / "a" / "models" / "model.pt")
    assert not (tmp_path / "a" / "models" / "confidence.json").is_file()
    judged = evaluate(
        tmp_path / "a", phantom_labels, tmp_path / "judged", store=phantom_store.path, calibrate=True
    ).metrics
    assert (tmp_path / "a" / "models" / "confidence.json").is_file()
    assert judged["all_slices"]["balanced_accuracy"] == pytest.approx(metrics[0]["balanced_accuracy"])


@pytest.mark.slow
def test_one_site_alone_fine_tunes_as_without_a_federation(
    phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"store_dir": str(phantom_store.path), "epoch_length": 2, "classes": CLASSES}
    finetune(phantom_labels, tmp_path / "plain", **settings)
    algo = site("ct_classification", tmp_path / "alone", dataset_dir=str(phantom_labels), **settings)
    for _ in range(2):
        train(algo, average([weights_of(algo)]))
    plain, alone = (checkpoint(tmp_path / name)["network"] for name in ("plain", "alone"))
    assert same(plain, alone)


@pytest.mark.slow
def test_a_site_that_is_started_again_joins_the_next_round_and_sends_differences(
    phantom_store: SliceStore, other_store: SliceStore, tmp_path: Path
) -> None:
    settings = {**SHORT, "dataset_dir": str(phantom_store.path)}
    first = site("ct_ssl_moco", tmp_path, differences=True, **settings)
    shared = {name: value.clone() for name, value in trainer_of(first).network.state_dict().items()}
    first.train(ExchangeObject(weights=shared))
    shared = average([shared, {name: shared[name] + change for name, change in exchanged(first).weights.items()}])
    again = site("ct_ssl_moco", tmp_path, differences=True, **settings)
    for algo in (first, again):
        assert trainer_of(algo).state.epoch == 1
        algo.train(ExchangeObject(weights=dict(shared)))
    changes = [exchanged(algo).weights for algo in (first, again)]
    assert changes[0].keys() == shared.keys() and same(*changes)
    with pytest.raises(RuntimeError) as raised:
        site("ct_ssl_moco", tmp_path, **{**settings, "dataset_dir": str(other_store.path)})
    assert isinstance(cause := cause_of(raised.value), CheckpointError) and "(other data)" in str(cause)


def test_a_site_names_its_classes(phantom_labels: Path, phantom_store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        site("ct_classification", tmp_path, dataset_dir=str(phantom_labels), store_dir=str(phantom_store.path))
    cause = cause_of(raised.value)
    assert isinstance(cause, ConfigError)
    assert str(cause).startswith("classes: all sites of a federation need the same classes in the same order")


def test_a_round_longer_than_the_training_is_refused(phantom_store: SliceStore, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as raised:
        site("ct_ssl_byol", tmp_path, local_epochs=3, dataset_dir=str(phantom_store.path), **SHORT)
    assert "end after 2 epochs, and 3 are asked for" in str(cause_of(raised.value))
