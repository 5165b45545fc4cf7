"""The whole job in minutes on two cores, by the calls that a user makes: ``make demo``.

Ingest, pre-train SparK, remap, fine-tune, predict an unseen series, evaluate by patient, compare with few labels.
"""

import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medssl_monai.atomic import write_json
from medssl_monai.checkpoints.run_export import export_run
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.finetune import finetune
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.predict import predict
from medssl_monai.experiment.plan import read_plan
from medssl_monai.experiment.results import StudyResults
from medssl_monai.experiment.run import study
from medssl_monai.ingest import SliceStore, build_store
from medssl_monai.labels.labelled_slices import write_labelled_slices
from medssl_monai.labels.table import read_labels
from medssl_monai.runs.pretrain import pretrain
from medssl_monai.samples.phantom import write_phantom
from medssl_monai.samples.real import fetch
from medssl_monai.store.contact_sheet import contact_sheet
from medssl_monai.terminal import metrics_table, studies_table, study_table, verdict_table

console = Console()

# The images are public. One key for everyone gives the same order of slices, and so the same figures, everywhere.
PUBLIC_KEY = b"medssl-monai demo: public images only"

# As in configs/study_few_labels.yaml, which trains thirty of them.
NETWORK: dict[str, Any] = {"arch": "resnet18", "image_size": 64}


@dataclass
class DemoData:
    """Paths of the images: for training, for the test, and a series that no earlier step reads."""

    labels: Path
    train: list[Path]
    test: list[Path]
    unseen: Path


def run_demo(out: Path, *, offline: bool = False, seed: int = 0) -> StudyResults:
    """Run the whole job and print its closing table: how few labelled slices do, with and without pre-training.

    Args:
        out: folder to fill; a stopped demo continues there.
        offline: work on the phantom; otherwise on the sample CTs, which are downloaded once.
        seed: of pre-training and fine-tuning; the closing study has its own.

    Returns:
        Of the closing study (``OUT/study``); its figures are also in ``OUT/results.json``.
    """
    started = time.monotonic()
    out.mkdir(parents=True, exist_ok=True)
    with _step("1. Images"):
        data = _phantom(out / "phantom") if offline else _samples(out / "samples")
    with _step("2. Ingest the training patients"):
        store = out / "stores" / "train"
        console.print(verdict_table(build_store(data.train, store, key=PUBLIC_KEY, modality="CT", workers=2).verdicts))
        contact_sheet(SliceStore(store), out / "figures" / "store.png")
        learned = _by_series(data.labels, store, ["train"], out / "labels" / "train.csv")
    with _step("3. Pre-train SparK on them, without labels"):
        pretrain("spark", store, out / "pretrain", config="demo", seed=seed, max_epochs=30, **NETWORK)
    with _step("4. Remap the encoder to torchvision's names"):
        report = export_run(out / "pretrain", out / "encoder.safetensors")
        console.print(f"{len(report.matched)} tensors, fingerprint {report.fingerprint[:16]}")
    encoder = out / "encoder.safetensors"
    with _step("5. Fine-tune it on their labels"):
        finetune(learned, out / "finetune", encoder=encoder, store=store, config="demo_finetune", seed=seed, **NETWORK)
    with _step("6. Predict a series that nothing has read so far"):
        cache = out / "stores"
        prediction = predict(out / "finetune", data.unseen, out / "prediction", cache_dir=str(cache))
        console.print(studies_table(prediction.studies))
        console.print(_right_or_wrong(data, prediction.slices.to_pylist()))
    with _step("7. Evaluate on the test patients"):
        all_patients = out / "stores" / "all"
        build_store([*data.train, *data.test, data.unseen], all_patients, key=PUBLIC_KEY, modality="CT")
        labels = _by_series(data.labels, all_patients, ["train", "test"], out / "labels" / "all.csv")
        evaluation = evaluate(out / "finetune", labels, out / "evaluation", store=all_patients)
        console.print(metrics_table(evaluation.metrics))
    with _step("8. With fewer labels: from SparK's encoder, from scratch, and on random features"):
        places = {"labels": str(labels), "store": str(all_patients)}
        plan = read_plan("study_few_labels", data=places, encoders={"SparK": str(encoder)})
        results = study(plan, out / "study")
    _close(out, results, offline, time.monotonic() - started)
    return results


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


def _by_series(labels: Path, store: Path, splits: Sequence[str], out: Path) -> Path:
    """The labels of some splits by series ids: what follows needs no key."""
    data = LabelledData(labels, store, key=PUBLIC_KEY)
    return write_labelled_slices(out, [row for split in splits for row in data.rows(split)])


def _close(out: Path, results: StudyResults, offline: bool, seconds: float) -> None:
    """The closing table, the pictures in one place, and where they are."""
    console.print(study_table(results))
    pictures = {
        "pretrain/figures/reconstruction.png": "spark_reconstruction.png",
        "pretrain/figures/loss.png": "spark_loss.png",
        "finetune/figures/loss.png": "finetune_loss.png",
        "evaluation/figures/confusion_matrix.png": "confusion_matrix.png",
        "evaluation/figures/roc.png": "roc.png",
        "study/figures/study.png": "few_labels.png",
    }
    for source, target in pictures.items():
        shutil.copyfile(out / source, out / "figures" / target)
    images = "the phantom" if offline else "real sample CTs"
    rows = [
        {
            "encoder": results.plan.row_name(point.head, point.encoder),
            "head": point.head,
            "slices": round(point.train_slices),
            "balanced_accuracy": point.mean,
            "lowest": point.lowest,
            "highest": point.highest,
        }
        for point in results.points
    ]
    write_json(out / "results.json", {"images": images, "seconds": round(seconds), "few_labels": rows})
    console.print(_verdict(results))
    console.print(f"Done in {seconds / 60:.1f} minutes. Table: {out / 'results.json'}; pictures: {out / 'figures'}")


def _verdict(results: StudyResults) -> str:
    """What the closing study says of pre-training where labels are fewest."""
    share = results.plan.fractions[0]
    found = {(p.encoder, p.head): p for p in results.points if p.fraction == share}
    ours, scratch, random = (
        found[row] for row in (("SparK", "finetune"), ("scratch", "finetune"), ("scratch", "linear"))
    )
    return (
        f"With {ours.train_slices:.0f} labelled slices balanced accuracy is {ours.mean:.3f} from SparK's encoder, "
        f"{scratch.mean:.3f} from scratch and {random.mean:.3f} on random features, mean of {ours.seeds} draws."
    )


@contextmanager
def _step(title: str) -> Iterator[None]:
    console.rule(f"[bold]{title}", align="left")
    started = time.monotonic()
    yield
    console.print(f"[dim]{time.monotonic() - started:.0f} s[/dim]")
