"""One cell of a study: train on a share of the labels, judge on the test patients, write the predictions."""

import json
import multiprocessing
import shutil
import time
from collections.abc import Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.utils import set_determinism
from torch.utils.data import Dataset

from medssl_monai.atomic import write_json, write_text
from medssl_monai.classify.evaluate import evaluate
from medssl_monai.classify.finetune import finetune
from medssl_monai.classify.forward import forward
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.file_facts import facts_forest, file_facts
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.predictions import Predictions
from medssl_monai.classify.probes import Floats, linear_probe, nearest_votes
from medssl_monai.experiment.encoders import weights_fingerprint
from medssl_monai.experiment.inputs import StudyInputs
from medssl_monai.experiment.made_by import made_by, settings_of
from medssl_monai.experiment.plan import METRICS, Cell, StudyPlan, digest
from medssl_monai.experiment.set_aside import set_aside
from medssl_monai.experiment.side_by_side import into_log
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.runs.folder import epoch_model


def cell_done(plan: StudyPlan, inputs: StudyInputs, cell: Cell, out: Path) -> bool:
    """Whether the cell's folder holds the results of exactly this cell."""
    path = out / "cells" / cell.folder / "cell.json"
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8"))["signature"] == _signature(plan, inputs, cell))


def cell_made_by(cell: Cell, out: Path) -> dict[str, str]:
    """Versions and code that made a finished cell, see `made_by`; empty where it was not noted."""
    content = json.loads((out / "cells" / cell.folder / "cell.json").read_text(encoding="utf-8"))
    return dict(content.get("made_by", {}))


def maker(inputs: StudyInputs) -> dict[str, str]:
    """Versions and code that make a cell now."""
    return made_by(__name__, _configurations(inputs))


def make_room(plan: StudyPlan, inputs: StudyInputs, cell: Cell, out: Path) -> None:
    """Set aside what the cell's folder holds, except for a stopped training of exactly this cell: that carries on."""
    folder = out / "cells" / cell.folder
    if not folder.exists():
        return
    mark = folder / "signature.txt"
    same = mark.is_file() and mark.read_text(encoding="utf-8") == _signature(plan, inputs, cell)
    if not same:
        set_aside(folder, out, "is of other settings, labels, images or weights")
    elif (folder / "cell.json").is_file():
        set_aside(folder, out, "was made by other code or libraries")


def run_cell(plan: StudyPlan, inputs: StudyInputs, cell: Cell, out: Path, threads: int | None = None) -> None:
    """Fill ``OUT/cells/<cell>``: ``evaluation/``, ``cell.json`` (last) and ``log.txt``.

    A fine-tuning that was stopped carries on. `make_room` has seen to it that the folder holds nothing else.

    Args:
        plan: of the study.
        inputs: from `prepare`.
        cell: which.
        out: the study's folder.
        threads: of torch in this process; None leaves them.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    folder, signature = out / "cells" / cell.folder, _signature(plan, inputs, cell)
    write_text(folder / "signature.txt", signature)
    started = time.monotonic()
    with into_log(folder / "log.txt"):
        judge = {"finetune": _finetune, "facts": _facts}.get(cell.head, _frozen)
        learned = judge(plan, inputs, cell, folder)
    seconds = round(time.monotonic() - started, 1)
    content = {"signature": signature, **vars(cell), **learned, "seconds": seconds, "made_by": maker(inputs)}
    write_json(folder / "cell.json", content)


def _signature(plan: StudyPlan, inputs: StudyInputs, cell: Cell) -> str:
    """What decides a cell's result: its settings with all defaults, the labels, the images, the weights.

    The code and its names take no part, see `made_by` and `settings_of`: a study would forget days of training when a
    line of it changes.
    """
    configs = settings_of(_configurations(inputs))
    weights = weights_fingerprint(inputs.weights(cell.encoder, cell.seed))
    data: list[Any] = [inputs.unit, inputs.fingerprint]
    data += [sorted(inputs.contradicting)] if inputs.contradicting else []
    return digest([vars(cell), dict(plan.settings), configs, *data, weights, _prepared(plan, cell)])


def _prepared(plan: StudyPlan, cell: Cell) -> dict[str, Any]:
    """Settings that say how the images of an encoder's weights must be prepared."""
    source = plan.encoders.get(cell.encoder)
    return {} if source is None or source.bundle else dict(source.settings)


def _configurations(inputs: StudyInputs) -> list[Path]:
    return [*inputs.files, inputs.files[0].parent / "evaluate.yaml"]


def _overrides(plan: StudyPlan, inputs: StudyInputs, cell: Cell) -> dict[str, Any]:
    content = ConfigParser.load_config_files([str(file) for file in inputs.files])
    # Cells are compared: what would follow each encoder is the same for all.
    alike = {key: value for key, value in (("arch", "resnet50"), ("image_size", 224)) if content.get(key) is None}
    return {
        **alike,
        **inputs.overrides,
        **plan.settings,
        **_prepared(plan, cell),
        # A cluster's workers may not start processes of their own; the batches are the same whoever loads them.
        **({"num_workers": 0} if multiprocessing.current_process().daemon else {}),
        "overlays": [str(p) for p in inputs.overlays],
        "encoder_weights": inputs.weights(cell.encoder, cell.seed),
        **({"fold": cell.seed} if inputs.folds else {}),
        "label_fraction": cell.fraction,
        "subset_unit": inputs.unit,
        "subset_seed": cell.seed,
        "seed": cell.seed,
        "keep_epochs": plan.neighbours,
        "confidence": False,  # a cell is judged, and its weights are dropped
        "audit": False,  # the study looks for leaks once
    }


def _finetune(plan: StudyPlan, inputs: StudyInputs, cell: Cell, folder: Path) -> dict[str, Any]:
    """As a user fine-tunes."""
    place = inputs.overrides
    run = finetune(place["dataset_dir"], folder / "run", config=inputs.overlays, **_overrides(plan, inputs, cell))
    store = place.get("store_dir")
    quiet: dict[str, Any] = {"explanations": 0, "figures": False, "audit": False}
    quiet |= {"patients": place["patients"]} if "patients" in place else {}
    evaluate(run.folder, place["dataset_dir"], folder / "evaluation", store=store, **quiet)
    for step in (-1, 1) if run.best_epoch else ():
        beside = epoch_model(run.folder, run.best_epoch + step)  # type: ignore[operator]
        if beside.is_file():
            target = folder / "neighbours" / f"{step:+d}"
            evaluate(run.folder, place["dataset_dir"], target, store=store, model_file=str(beside), **quiet)
    for heavy in ("checkpoints", "models"):
        shutil.rmtree(run.folder / heavy, ignore_errors=True)
    validation = None if run.validation is None else run.validation["all_slices"]
    return {
        "steps": run.steps,
        "train_slices": run.train_slices,
        "train_patients": run.train_patients,
        "best_epoch": run.best_epoch,
        "validation": validation and {name: validation.get(name) for name in METRICS},
    }


def _frozen(plan: StudyPlan, inputs: StudyInputs, cell: Cell, folder: Path) -> dict[str, Any]:
    """A classifier on features of the frozen encoder, of views that nothing is drawn for."""
    parser = _parser(plan, inputs, cell)
    data = parser.get_parsed_content("data")
    everything = _encoded(plan, inputs, replace(cell, fraction=1.0))
    place = {key: i for i, key in enumerate(everything.keys)}
    learned = [place[key] for key in _training_keys(data)]
    judge = linear_probe if cell.head == "linear" else nearest_votes
    predictions = Predictions(inputs.classes, parser["task"], parser["thresholds"])
    labels = np.asarray([everything.labels[i] for i in learned])
    found = judge(everything.train[learned], labels, everything.test, len(inputs.classes))
    for probabilities, item in zip(found, everything.tested, strict=True):
        predictions.add(probabilities, *item)
    predictions.write(folder / "evaluation", figures=False)
    patients = data.patients_of("train")
    known = len(set(patients)) if all(patients) else None
    return {"steps": 0, "train_slices": len(patients), "train_patients": known}


def _facts(plan: StudyPlan, inputs: StudyInputs, cell: Cell, folder: Path) -> dict[str, Any]:
    """A classifier on what the files tell without anatomy."""
    data = _parser(plan, inputs, cell).get_parsed_content("data")
    facts = _facts_of(data)
    train, test = (list(data.splits[split]) for split in ("train", "test"))
    predictions = Predictions(inputs.classes)
    found = facts_forest(facts[train], data.labels[train], facts[test], len(inputs.classes), seed=cell.seed)
    for probabilities, place in zip(found, test, strict=True):
        series, number = data.key(place)
        predictions.add(probabilities, series, number, data.patients[place], data.label(place))
    predictions.write(folder / "evaluation", figures=False)
    patients = data.patients_of("train")
    return {"steps": 0, "train_slices": len(train), "train_patients": len(set(patients)) if all(patients) else None}


def _facts_of(data: ImageData) -> Floats:
    """Of all pictures, read once for all cells of a process."""
    key = data.images.state() if isinstance(data.images, ImageFiles) else data.fingerprint
    if key not in _FACTS:
        _FACTS[key] = file_facts(data)
    return _FACTS[key]


_FACTS: dict[Hashable, Floats] = {}


def _parser(plan: StudyPlan, inputs: StudyInputs, cell: Cell) -> ConfigParser:
    parser = ConfigParser(ConfigParser.load_config_files([str(f) for f in inputs.files]))
    parser.update(_overrides(plan, inputs, cell))
    return parser


@dataclass(frozen=True)
class _Encoded:
    """Features of all training slices (M, D) and test slices (N, D), and the slices they belong to."""

    train: Floats
    keys: list[tuple[str, int]]
    labels: list[Any]
    test: Floats
    tested: list[tuple[str, int, str, Any]]


_KEPT: dict[str, _Encoded] = {}
KEPT = 32  # the seeds of a few encoders: from scratch each has other features, of a few megabytes


def _encoded(plan: StudyPlan, inputs: StudyInputs, whole: Cell) -> _Encoded:
    """Features of a frozen encoder: shares of the labels and heads have them in common, so the last few are kept."""
    runs = inputs.encoders[whole.encoder]
    alike = bool(runs) and not inputs.folds
    same = replace(whole, head="linear", seed=whole.seed % len(runs) if alike else whole.seed)
    key = _signature(plan, inputs, same)
    if key not in _KEPT:
        parser = _parser(plan, inputs, whole)
        data, view = (parser.get_parsed_content(name) for name in ("data", "validate::preprocessing"))
        set_determinism(seed=whole.seed)  # of an encoder from scratch
        encoder = resnet_encoder(parser["arch"], encoder_weights=inputs.weights(whole.encoder, whole.seed))
        encoder.to(parser.get_parsed_content("device"))
        train, learned = _features(encoder, data.dataset("train", view))
        test, tested = _features(encoder, data.dataset("test", view))
        while len(_KEPT) >= KEPT:
            _KEPT.pop(next(iter(_KEPT)))
        _KEPT[key] = _Encoded(train, [item[:2] for item in learned], [item[3] for item in learned], test, tested)
    return _KEPT[key]


def _training_keys(data: Any) -> list[tuple[str, int]]:
    """(series, slice) of what a cell learns from."""
    if hasattr(data, "rows"):
        return [(row["series_id"], row["slice"]) for row in data.rows("train")]
    return [data.key(i) for i in data.splits["train"]]


def _features(
    encoder: torch.nn.Module, dataset: Dataset[dict[str, Any]]
) -> tuple[Floats, list[tuple[str, int, str, Any]]]:
    """Features (N, D), and of each slice (series, slice, patient, label)."""
    parts, items = [], []
    for batch, features in forward(encoder, dataset):
        parts.append(features)
        columns = (batch["series_id"], batch["slice"].tolist(), batch["patient"], batch["label"].tolist())
        items += list(zip(*columns, strict=True))
    return np.concatenate(parts), items
