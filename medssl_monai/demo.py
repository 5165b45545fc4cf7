"""The whole job in minutes on two cores, by the calls that a user makes: ``make demo``.

Ingest, pre-train SparK, remap, fine-tune, predict an unseen series, evaluate by patient, compare.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.finetune import finetune
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.predict import predict
from medssl_monai.classify.probes import Floats, encoder_features, linear_probe, pixel_forest
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.labels.labelled_slices import write_labelled_slices
from medssl_monai.labels.table import read_labels
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.folder import run_settings
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.samples.real import fetch
from medssl_monai.statistics.metrics import per_patient
from medssl_monai.store.contact_sheet import contact_sheet
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.terminal import comparison_table, metrics_table, studies_table, verdict_table
from medssl_monai.transforms import LabelledViewd

console = Console()

# The images are public. One key for everyone gives the same order of slices, and so the same figures, everywhere.
PUBLIC_KEY = b"medssl-monai demo: public images only"


@dataclass
class DemoData:
    """Paths of the images: for training, for the test, and a series that no earlier step reads."""

    labels: Path
    train: list[Path]
    test: list[Path]
    unseen: Path


def run_demo(out: Path, *, offline: bool = False, seed: int = 0) -> dict[str, dict[str, float]]:
    """Run the whole job and print its closing table.

    Args:
        out: folder to fill; a stopped demo continues there.
        offline: work on the phantom; otherwise on the sample CTs, which are downloaded once.
        seed: of all runs.

    Returns:
        Method -> test patient -> balanced accuracy; also written to ``OUT/results.json``.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with _step("1. Images"):
        data = _phantom(out / "phantom") if offline else _samples(out / "samples")
    with _step("2. Ingest the training patients"):
        store = out / "stores" / "train"
        console.print(verdict_table(build_store(data.train, store, key=PUBLIC_KEY, modality="CT", workers=2).verdicts))
        contact_sheet(SliceStore(store), out / "figures" / "store.png")
        learned = _by_series(data.labels, store, "train", out / "labels" / "train.csv")
    with _step("3. Pre-train SparK on them, without labels"):
        pretrain("spark", store, out / "pretrain", config="demo", seed=seed)
    with _step("4. Remap the encoder to torchvision's names"):
        report = export_run(out / "pretrain", out / "encoder.safetensors")
        console.print(f"{len(report.matched)} tensors, fingerprint {report.fingerprint[:16]}")
    with _step("5. Fine-tune on their labels: from SparK's encoder, and from scratch"):
        for name, encoder in (("finetune", out / "encoder.safetensors"), ("scratch", None)):
            finetune(learned, out / name, encoder=encoder, store=store, config="demo_finetune", seed=seed)
    with _step("6. Predict a series that nothing has read so far"):
        cache = out / "stores"
        prediction = predict(out / "finetune", data.unseen, out / "prediction", cache_dir=str(cache))
        console.print(studies_table(prediction.studies))
        console.print(_right_or_wrong(data, prediction.slices.to_pylist()))
    with _step("7. Evaluate on the test patients"):
        test_store = out / "stores" / "test"
        build_store([*data.test, data.unseen], test_store, key=PUBLIC_KEY, modality="CT")
        judged = _by_series(data.labels, test_store, "test", out / "labels" / "test.csv")
        runs = {"SparK, fine-tuned": out / "finetune", "from scratch": out / "scratch"}
        metrics = {
            name: evaluate(run, judged, out / "evaluation" / run.name, store=test_store).metrics
            for name, run in runs.items()
        }
        console.print(metrics_table(metrics["SparK, fine-tuned"]))
    with _step("8. Compare with what needs no training of a network"):
        rows = {name: _by_patient(m["per_patient"]) for name, m in metrics.items()}
        rows |= _baselines((learned, store), (judged, test_store), out / "finetune", seed)
    _close(out, rows, offline, time.monotonic() - started)
    return rows


def _samples(folder: Path) -> DemoData:
    sample = fetch(folder)
    return DemoData(sample.labels, [sample.train], [sample.test], sample.unseen)


def _phantom(folder: Path) -> DemoData:
    labels = write_phantom(folder, patients=10, seed=0, size=128, slices=32)
    rows = read_labels(labels).rows
    train, test = (list(dict.fromkeys(Path(r.source) for r in rows if r.split == s)) for s in ("train", "test"))
    return DemoData(labels, train, test[:-1], test[-1])


def _right_or_wrong(data: DemoData, slices: Sequence[Mapping[str, Any]]) -> str:
    """What the label table says of the unseen series, beside what was predicted of its slices."""
    truth = {
        row.slice: row.label for row in read_labels(data.labels).rows if Path(row.source).is_relative_to(data.unseen)
    }
    said = {number: row["predicted"] for row in slices if (number := row["slice"]) in truth}
    right = sum(label == truth[number] for number, label in said.items())
    wrong = Counter(
        f"{truth[n]} as {label or 'unlike the training slices'}" for n, label in said.items() if label != truth[n]
    )
    mistakes = "".join(f"; {count} {mistake}" for mistake, count in wrong.most_common())
    return f"By its labels {right} of {len(said)} slices are right{mistakes}."


def _by_series(labels: Path, store: Path, split: str, out: Path) -> Path:
    """The labels of one split by series ids: what follows needs no key."""
    return write_labelled_slices(out, LabelledData(labels, store, key=PUBLIC_KEY).rows(split))


def _baselines(train: tuple[Path, Path], test: tuple[Path, Path], run: Path, seed: int) -> dict[str, dict[str, float]]:
    """A linear probe on a frozen random encoder, and a random forest on 32 × 32 pixels, on the same slices."""
    settings = run_settings(run)
    learn, judge = (LabelledData(*place, settings["classes"]) for place in (train, test))
    learn_rows, judge_rows = learn.rows("train"), judge.rows("test")
    truth = [row["label"] for row in learn_rows]
    view = LabelledViewd(
        "image",
        image_size=settings["image_size"],
        window=settings["window"],  # as the fine-tuned run recorded it
        mean=settings["mean"],
        std=settings["std"],
        augment=False,
    )
    torch.manual_seed(seed)
    encoder = resnet_encoder(settings["arch"])
    features = [
        encoder_features(encoder, SliceDataset(data.store, rows=rows, transform=view))
        for data, rows in ((learn, learn_rows), (judge, judge_rows))
    ]
    classes = settings["classes"]
    probe = linear_probe(features[0], truth, features[1], len(classes), seed=seed)
    forest = pixel_forest((learn.store, learn_rows), (judge.store, judge_rows), len(classes), seed=seed)
    return {
        "frozen random encoder, linear": _judge(judge_rows, probe, classes),
        "random forest on 32² pixels": _judge(judge_rows, forest, classes),
    }


def _judge(rows: Sequence[dict[str, Any]], probabilities: Floats, classes: Sequence[str]) -> dict[str, float]:
    truth = np.array([row["label"] for row in rows])
    return _by_patient(per_patient(truth, probabilities, [row["patient"] for row in rows], classes))


def _by_patient(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    return {patient: values["balanced_accuracy"] for patient, values in figures.items()}


def _close(out: Path, rows: dict[str, dict[str, float]], offline: bool, seconds: float) -> None:
    """The closing table, the pictures in one place, and where they are."""
    patients = sorted(next(iter(rows.values())))
    images = "the phantom" if offline else "real sample CTs"
    console.print(comparison_table(f"Balanced accuracy by test patient, on {images}", patients, rows))
    pictures = {
        "pretrain/figures/reconstruction.png": "spark_reconstruction.png",
        "pretrain/figures/loss.png": "spark_loss.png",
        "finetune/figures/loss.png": "finetune_loss.png",
        "evaluation/finetune/figures/confusion_matrix.png": "confusion_matrix.png",
        "evaluation/finetune/figures/roc.png": "roc.png",
    }
    for source, target in pictures.items():
        shutil.copyfile(out / source, out / "figures" / target)
    write_json(out / "results.json", {"images": images, "seconds": round(seconds), "balanced_accuracy": rows})
    network, forest = rows["SparK, fine-tuned"], rows["random forest on 32² pixels"]
    verdict = "beats" if _mean(network) > _mean(forest) else "does not beat"
    lost = [patient for patient in patients if network[patient] < forest[patient]]
    where = f", but not on {', '.join(lost)}" if lost and verdict == "beats" else ""
    console.print(f"The fine-tuned network {verdict} the forest on the mean of these patients{where}.")
    console.print(f"Done in {seconds / 60:.1f} minutes. Table: {out / 'results.json'}; pictures: {out / 'figures'}")


def _mean(values: dict[str, float]) -> float:
    return sum(values.values()) / len(values)


@contextmanager
def _step(title: str) -> Iterator[None]:
    console.rule(f"[bold]{title}", align="left")
    started = time.monotonic()
    yield
    console.print(f"[dim]{time.monotonic() - started:.0f} s[/dim]")
