"""What a study compares: encoders, heads, shares of the labels, seeds; read from a YAML file."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from medssl_monai.checkpoints.preprocessing import IMAGENET
from medssl_monai.errors import ConfigError
from medssl_monai.resources import resource_dir

Head = Literal["finetune", "linear", "knn", "facts"]
HEADS = {
    "finetune": "fine-tuned",
    "linear": "linear probe, encoder frozen",
    "knn": "nearest neighbours, encoder frozen",
    "facts": "random forest, no network",
}
FILE_FACTS = "file facts"
"""Name of the row that sees no anatomy: size, format, colour mode and grey values of the files."""
METRICS = {
    "balanced_accuracy": "balanced accuracy",
    "accuracy": "accuracy",
    "auc": "AUC, one class against the rest",
    "f1_macro": "F1, mean over classes",
}
GIVEN_HEADS = ("finetune", "linear", "knn")
PREPARATION = {"window", "mean", "std", "channel_spacing_mm"}
SEEN = ("archive", "task", "both")
KEYS = {
    "data",
    "pretrain_on",
    "pretrain_with",
    "file_facts",
    "neighbours",
    "published",
    "settings",
    "overlays",
    "encoders",
    "heads",
    "fractions",
    "seeds",
    "metric",
    "baseline",
    "workers",
    "title",
    "wanted",
}


@dataclass(frozen=True)
class EncoderSource:
    """Where an encoder comes from: weights of a file or run, a bundle that the study pre-trains, or neither (scratch).

    Attributes:
        weights: what `classifier` takes, or None.
        bundle: such as ``ct_ssl_spark``, or None.
        settings: top-level keys of that bundle; of weights keys of ``ct_classification`` that say how their images must
            be prepared (`PREPARATION`), where the file does not tell.
        overlays: names or paths, given after the bundle's own file.
        seeds: how often the study pre-trains it, each time with another seed; label draws take them in turn.
        on: what it is pre-trained on: ``archive`` (the study's ``pretrain_on``), ``task`` (the training images of the
            task, without their labels) or ``both``; None is the archive where there is one.
    """

    weights: str | None = None
    bundle: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlays: Sequence[str] = ()
    seeds: int = 1
    on: Literal["archive", "task", "both"] | None = None


@dataclass(frozen=True)
class Cell:
    """One training and its evaluation."""

    encoder: str
    head: Head
    fraction: float
    seed: int

    @property
    def folder(self) -> str:
        """Name of its folder in ``OUT/cells``."""
        return f"{slug(self.encoder)}-{self.head}-{self.fraction:g}-seed{self.seed}"


@dataclass(frozen=True)
class StudyPlan:
    """A checked study configuration.

    Attributes:
        title: over the report.
        data: ``phantom: {…}`` of `write_phantom`; or ``labels`` (a label table) with ``store`` or not; or ``images``, a
            name of `image_task`, with ``root``, and ``patients`` (a table) where there is one. Of a data set without
            splits the seeds are folds of a cross-validation, see `fold_splits`.
        settings: top-level keys of ``ct_classification``, the same for all cells: the budget.
        overlays: names or paths, given after its ``train.yaml``.
        encoders: by name.
        heads: how the encoders are judged.
        fractions: shares of the training labels, ascending.
        seeds: each with its own draw of the subset, start of the head, and order of the slices.
        metric: the figure that is drawn and compared in the table.
        baseline: name of the encoder that the others are tested against.
        workers: processes that pre-train and train side by side.
        pretrain_on: a slice store, or a folder of unlabelled images, that encoders are pre-trained on; None takes the
            training images of the task.
        pretrain_with: how a folder of unlabelled images is read: ``patient_from``, ``patients``.
        file_facts: whether a classifier on facts of the files alone, see `file_facts`, is a row of its own.
        neighbours: whether the networks of the epochs before and after the chosen one are judged too, which shows how
            far a figure moves between neighbouring checkpoints.
        published: figures of others for the report, each with ``name``, any of `METRICS`, and ``note``.
        wanted: a value of the metric; the report says how many labels are expected to reach it.
    """

    title: str
    data: Mapping[str, Any]
    encoders: Mapping[str, EncoderSource]
    settings: Mapping[str, Any] = field(default_factory=dict)
    overlays: Sequence[str] = ()
    heads: Sequence[Head] = ("finetune",)
    fractions: Sequence[float] = (0.1, 0.25, 0.5, 1.0)
    seeds: Sequence[int] = (0, 1, 2)
    metric: str = "balanced_accuracy"
    baseline: str = ""
    workers: int = 1
    pretrain_on: str | None = None
    pretrain_with: Mapping[str, Any] = field(default_factory=dict)
    file_facts: bool = False
    neighbours: bool = False
    published: Sequence[Mapping[str, Any]] = ()
    wanted: float | None = None

    @property
    def rows(self) -> list[tuple[Head, str]]:
        """Head and encoder of each row of the tables."""
        rows: list[tuple[Head, str]] = [(head, encoder) for head in self.heads for encoder in self.encoders]
        return [*rows, ("facts", FILE_FACTS)] if self.file_facts else rows

    def row_name(self, head: str, encoder: str) -> str:
        """An encoder's name in tables: one that was never trained gives random features to a head that freezes it."""
        source = self.encoders.get(encoder)
        untrained = source is not None and source.weights is None and source.bundle is None
        return "random features" if untrained and head in ("linear", "knn") else encoder

    @property
    def shown_heads(self) -> list[Head]:
        """Heads in the order of the tables."""
        return list(dict.fromkeys(head for head, _ in self.rows))

    @property
    def cells(self) -> list[Cell]:
        """All trainings, the seeds innermost."""
        return [
            Cell(encoder, head, fraction, seed)
            for head, encoder in self.rows
            for fraction in self.fractions
            for seed in self.seeds
        ]

    def seen(self, encoder: str) -> str:
        """What an encoder is pre-trained on: ``archive``, ``task`` or ``both``."""
        return self.encoders[encoder].on or ("archive" if self.pretrain_on else "task")


def read_plan(path: str | Path, **changes: Any) -> StudyPlan:
    """Read a study: a YAML file, or the name of one in ``configs/`` such as ``study_demo``.

    Args:
        path: file or name.
        changes: attributes of the plan that replace the file's; None leaves the file's. ``encoders`` maps names to
            weights, or to what the file may hold for an encoder, and joins those of the file; ``root`` and ``patients``
            are put into the file's ``data``.

    Raises:
        ConfigError: the file is missing, or a key or value is not one of a study.
    """
    file = Path(path)
    if file.suffix not in {".yaml", ".yml"}:
        file = resource_dir("configs") / f"{path}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(p.stem for p in resource_dir("configs").glob("study_*.yaml")))
        raise ConfigError(f"study {str(path)!r} is neither a YAML file nor one of {known}; check the path")
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or set(content) - KEYS:
        wrong = sorted(set(content) - KEYS) if isinstance(content, dict) else "no mapping"
        raise ConfigError(f"{file.name}: {wrong} not known in a study; the keys are {', '.join(sorted(KEYS))}")
    encoders = {
        str(name): _encoder(file, name, source) for name, source in (content.pop("encoders", None) or {}).items()
    }
    encoders |= {name: _encoder(file, name, source) for name, source in (changes.pop("encoders", None) or {}).items()}
    places = {key: changes.pop(key, None) for key in ("root", "patients")}
    values = {"title": file.stem, **content, **{k: v for k, v in changes.items() if v is not None}}
    values["data"] = {**(values.get("data") or {}), **{key: str(v) for key, v in places.items() if v is not None}}
    values["fractions"] = sorted(float(f) for f in values.get("fractions", StudyPlan.fractions))
    values["baseline"] = values.get("baseline") or next(iter(encoders), "")
    plan = StudyPlan(**values, encoders=encoders)
    _check(file, plan)
    return plan


def _encoder(file: Path, name: str, source: Any) -> EncoderSource:
    if source is None or isinstance(source, str):
        return EncoderSource(weights=source)
    settings = dict(source.get("settings") or {}) if isinstance(source, dict) else {}
    if isinstance(source, dict) and {"imagenet"} <= set(source) <= {"imagenet", "settings"}:
        constants = {"mean": list(IMAGENET.mean), "std": list(IMAGENET.std)}  # type: ignore[arg-type]
        source, settings = {"weights": source["imagenet"]}, constants | settings
    if isinstance(source, dict) and {"weights"} <= set(source) <= {"weights", "settings"}:
        if set(settings) - PREPARATION:
            raise ConfigError(
                f"{file.name}: the encoder {name!r} may set {', '.join(sorted(PREPARATION))} of its own, for all else "
                f"is the same for all, found {', '.join(sorted(set(settings) - PREPARATION))}; take it out"
            )
        return EncoderSource(str(source["weights"]), None, settings)
    known = {"pretrain", "settings", "overlays", "seeds", "on"}
    if not isinstance(source, dict) or "pretrain" not in source or set(source) - known:
        raise ConfigError(
            f"{file.name}: the encoder {name!r} must be null (scratch), a path of weights, or a mapping with "
            f"'pretrain' (a bundle), 'settings', 'overlays', 'seeds' and 'on', or with 'imagenet' or 'weights' (a "
            f"file), found {source!r}; correct it"
        )
    seeds, on = source.get("seeds", 1), source.get("on")
    if not isinstance(seeds, int) or seeds < 1 or on not in (None, *SEEN):
        raise ConfigError(
            f"{file.name}: the encoder {name!r}: seeds must be 1 or more and on one of {', '.join(SEEN)}, found "
            f"{seeds!r} and {on!r}; correct it"
        )
    return EncoderSource(None, source["pretrain"], settings, tuple(source.get("overlays") or ()), seeds, on)


def _check(file: Path, plan: StudyPlan) -> None:
    kinds = [kind for kind in ("phantom", "labels", "images") if plan.data.get(kind)]
    rules = {
        "data: give one of phantom, labels (--data) or images": len(kinds) == 1,
        "encoders: give one or more (--encoder NAME=FILE)": bool(plan.encoders),
        f"heads: each one of {', '.join(GIVEN_HEADS)}": bool(plan.heads) and set(plan.heads) <= set(GIVEN_HEADS),
        "fractions: each above 0 and at most 1": bool(plan.fractions) and all(0 < f <= 1 for f in plan.fractions),
        "seeds: one or more different whole numbers": bool(plan.seeds) and len(set(plan.seeds)) == len(plan.seeds),
        f"metric: one of {', '.join(METRICS)}": plan.metric in METRICS,
        f"baseline: one of the encoders, found {plan.baseline!r}": plan.baseline in plan.encoders,
        "workers: 1 or more": plan.workers >= 1,
        f"wanted: a value of the metric between 0 and 1 (--wanted), found {plan.wanted}": plan.wanted is None
        or 0 < plan.wanted < 1,
        "data: images need root, the folder of the pictures (--root)": "images" not in kinds
        or bool(plan.data.get("root")),
        "file_facts: only of pictures (data: images)": not plan.file_facts or "images" in kinds,
        "pretrain_on: an encoder that is pre-trained on the archive needs one (--pretrain-on)": bool(plan.pretrain_on)
        or all(plan.seen(name) == "task" for name, source in plan.encoders.items() if source.bundle),
        "pretrain_with: patient_from and patients": set(plan.pretrain_with) <= {"patient_from", "patients"},
        f"encoders: {FILE_FACTS!r} is the name of file_facts, take another": FILE_FACTS not in plan.encoders,
        f"published: each with name, note or some of {', '.join(METRICS)}": all(
            isinstance(one, dict) and {"name"} <= set(one) <= {"name", "note", *METRICS} for one in plan.published
        ),
        "encoders: names that differ in letters and digits": len({slug(e) for e in plan.encoders})
        == len(plan.encoders),
    }
    for rule, kept in rules.items():
        if not kept:
            raise ConfigError(f"{file.name}: {rule}; correct the study's configuration")


def slug(name: str) -> str:
    """An encoder's name as part of a folder's."""
    return "".join(c if c.isalnum() else "_" for c in name.lower())


def digest(content: Any) -> str:
    """SHA-256 of JSON-ready content: what a finished cell is recognised by."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
