"""The pictures that Wolf et al. 2023 classified, read as they are published: COVID-CT, OrganSMNIST, folders of classes.

With ``as_reference`` splits and subsets are those that the reference drew; otherwise they are stratified, seeded, and
keep patients apart where patients are known.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medssl_monai.classify.pictures.data import PICTURES, ImageData, ImageFiles
from medssl_monai.classify.pictures.table import image_table
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.labels.names import check_class_name
from medssl_monai.labels.subsets import Unit, grouped_split, reference_split, reference_subset

logger = logging.getLogger(__name__)

TaskName = Literal["covid_ct", "organ_s_mnist", "folders", "table"]
# Names in the order of MedMNIST's labels.
ORGANS = [
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right"),
    *("liver", "lung-left", "lung-right", "pancreas", "spleen"),
]
# Pictures in train, val, test of organsmnist.npz: MedMNIST 2.0 to 2.2 (Zenodo 6496656), and 3.0 (Zenodo 10519652).
ORGAN_VERSIONS = {(13940, 2452, 8829): "2", (13932, 2452, 8827): "3"}


def image_task(
    name: TaskName,
    root: str | Path,
    *,
    fraction: float = 1.0,
    subset_unit: Unit = "slices",
    subset_seed: int = 0,
    as_reference: bool = False,
    task: str = "multiclass",
    classes: Sequence[str] | None = None,
) -> ImageData:
    """A data set by name, with a share of its training pictures.

    Args:
        name: ``covid_ct``, ``organ_s_mnist``, ``folders`` or ``table``.
        root: folder or file.
        fraction: of the training pictures, in (0, 1].
        subset_unit: see `nested_subset`.
        subset_seed: likewise.
        as_reference: splits and subsets as the reference drew them.
        task: ``multiclass``, or for a table also ``multilabel``.
        classes: names in the order of the network's outputs, for a table; the others have their own.

    Raises:
        ConfigError: the name is unknown, or does not have what is asked for.
        LabelError: the data are not laid out as published.
    """
    if name not in get_args(TaskName):
        raise ConfigError(f"image task {name!r} is unknown; choose one of {', '.join(get_args(TaskName))}")
    if task not in ("multiclass", "multilabel") or (task == "multilabel" and name != "table"):
        raise ConfigError(f"task: the pictures of {name} have one class each, found {task!r}; set task=multiclass")
    if as_reference and name == "table":
        raise ConfigError("as_reference: the reference had no table of pictures; leave it false")
    data = (
        image_table(root, multilabel=task == "multilabel", classes=classes)
        if name == "table"
        else folder_classes(root, as_reference=as_reference)
        if name == "folders"
        else covid_ct(root)
        if name == "covid_ct"
        else organ_s_mnist(root)
    )
    for sentence in data.statements:
        logger.warning("%s: %s", name, sentence)
    if not as_reference:
        return data if fraction == 1 else data.subset(fraction, unit=subset_unit, seed=subset_seed)
    train = list(data.splits["train"])
    kept = reference_subset(len(train), fraction, shuffle=name != "organ_s_mnist")
    return ImageData(**{**vars(data), "splits": {**data.splits, "train": [train[i] for i in kept]}})


def covid_ct(root: str | Path) -> ImageData:
    """COVID-CT (Zhao et al. 2020, arXiv 2003.13865): 349 + 397 pictures and the official split lists.

    Layout of github.com/UCSD-AI4H/COVID-CT with its two zip files unpacked: ``CT_COVID/*`` and ``CT_NonCOVID/*`` (or
    under ``Images-processed``, or all pictures in one folder, as the reference had them), and
    ``Data-split/{COVID,NonCOVID}/{train,val,test}CT_{COVID,NonCOVID}.txt``, one file name a line. Class 0 is COVID: the
    reference's F1, precision and AUC are therefore those of NonCOVID. Patients are not given.

    Raises:
        LabelError: a list or a listed picture is missing, or a picture is listed twice.
    """
    folder = Path(root)
    classes = ["COVID", "NonCOVID"]
    paths: list[Path] = []
    labels: list[int] = []
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    seen: set[Path] = set()
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
        for label, name in enumerate(classes):
            text = _first(
                [folder / place / f"{short}CT_{name}.txt" for place in (f"Data-split/{name}", name, ".")],
                f"the official list {short}CT_{name}.txt",
            )
            for line in text.read_text(encoding="utf-8").splitlines():
                if not line.strip():
                    continue
                places = (f"CT_{name}", f"Images-processed/CT_{name}", ".")
                path = _first(
                    [folder / place / line.strip() for place in places],
                    f"a picture of {text.name} (number {len(paths)})",
                )
                if path in seen:
                    raise LabelError(f"{text.name}: line {line.strip()!r} is listed twice; correct the lists")
                seen.add(path)
                splits[split].append(len(paths))
                paths.append(path)
                labels.append(label)
    unknown = ("patient unknown: the official split is taken as it is", *_unlisted(folder, classes, seen))
    return ImageData("covid_ct", classes, ImageFiles(paths), np.array(labels), [""] * len(paths), splits, unknown)


def organ_s_mnist(path: str | Path) -> ImageData:
    """OrganSMNIST (Yang et al. 2023, MedMNIST v2): 11 organs on sagittal crops of 28² pixels, official splits.

    Args:
        path: ``organsmnist.npz``, or the folder that holds it. Version 2 is the reference's; 3 differs by ten pictures.

    Raises:
        LabelError: the file is missing, or holds no arrays of that layout.
    """
    file = Path(path)
    file = file / "organsmnist.npz" if file.is_dir() else file
    if not file.is_file():
        raise LabelError(f"{file.name} is missing; give organsmnist.npz of MedMNIST, or the folder that holds it")
    parts = ("train", "val", "test")
    try:
        with np.load(file, allow_pickle=False) as content:
            images = [np.asarray(content[f"{part}_images"]) for part in parts]
            labels = [np.asarray(content[f"{part}_labels"]).reshape(-1).astype(np.int64) for part in parts]
    except (KeyError, ValueError, OSError) as error:
        raise LabelError(f"{file.name}: no MedMNIST file ({type(error).__name__}); fetch it again") from error
    joined = np.concatenate(labels)
    if any(i.ndim != 3 or i.dtype != np.uint8 for i in images) or joined.min() < 0 or joined.max() >= len(ORGANS):
        raise LabelError(f"{file.name}: pictures must be (N, H, W) uint8 with labels 0 to 10; give organsmnist.npz")
    ends = np.cumsum([len(part) for part in labels])
    splits = {
        name: list(range(end - len(part), end))
        for name, end, part in zip(("train", "validation", "test"), ends.tolist(), labels, strict=True)
    }
    version = ORGAN_VERSIONS.get((len(labels[0]), len(labels[1]), len(labels[2])))
    note = f"MedMNIST version {version}" if version else "not the size of a published version"
    return ImageData(
        "organ_s_mnist",
        ORGANS,
        np.concatenate(images),
        joined,
        [""] * len(joined),
        splits,
        (note, "patient unknown; the official splits keep scans apart"),
    )


def folder_classes(
    root: str | Path, *, as_reference: bool = False, validation: float = 0.15, test: float = 0.2, seed: int = 42
) -> ImageData:
    """Folders named by class, as the reference's brain haemorrhage data: ``[train|val|test/]CLASS/[PATIENT/]*.png``.

    Parts that have no folder are drawn: ``test`` of all, then ``validation`` of the rest. They keep patients apart
    where there is a folder a patient; the reference drew validation slices at random (``as_reference``).

    Args:
        root: the folder.
        as_reference: the reference's draw of validation slices, over files sorted by class and name.
        validation: share held out for validation.
        test: share held out for testing, where there is no ``test`` folder.
        seed: of the draws.

    Raises:
        LabelError: there are fewer than two classes with pictures, or one has a name that a configuration would run.
    """
    folder = Path(root)
    parts = {name: folder / short for name, short in (("train", "train"), ("validation", "val"), ("test", "test"))}
    if not parts["train"].is_dir():
        parts = {"train": folder}
    classes = sorted(p.name for p in parts["train"].iterdir() if p.is_dir()) if folder.is_dir() else []
    if len(classes) < 2:
        raise LabelError(
            f"folders: needs two or more folders named by class under the given one, found {len(classes)}; "
            "lay pictures out as [train/]CLASS/*.png"
        )
    for name in classes:
        check_class_name(name, "folders")
    paths: list[Path] = []
    labels: list[int] = []
    patients: list[str] = []
    splits: dict[str, list[int]] = {}
    for split, part in parts.items():
        start = len(paths)
        for label, name in enumerate(classes):
            for path in sorted(p for p in (part / name).rglob("*") if p.suffix.lower() in PICTURES):
                inner = path.relative_to(part / name).parts
                paths.append(path)
                labels.append(label)
                patients.append(inner[0] if len(inner) > 1 else "")
        splits[split] = list(range(start, len(paths)))
    # Only the order of the names leaves this function: a folder may be called after a person.
    numbers = {name: f"patient-{i + 1:04d}" for i, name in enumerate(sorted(set(patients) - {""}))}
    hidden = [numbers.get(name, "") for name in patients]
    truth = np.array(labels, dtype=np.int64)
    if len(set(labels)) < 2:
        raise LabelError("folders: needs pictures (PNG, JPEG, BMP) of two or more classes; fill the folders")
    if "test" not in splits:
        splits["train"], splits["test"] = _held_out(splits["train"], truth, hidden, test, seed)
    if not splits.get("validation"):
        if as_reference:
            rest, held = reference_split(len(splits["train"]), seed=seed, share=validation)
            splits["train"], splits["validation"] = (
                [splits["train"][i] for i in rest],
                [splits["train"][i] for i in held],
            )
        else:
            splits["train"], splits["validation"] = _held_out(splits["train"], truth, hidden, validation, seed + 1)
    known = all(hidden)
    note = "patients kept apart in what was drawn" if known and not as_reference else "patients may be on both sides"
    return ImageData("folders", classes, ImageFiles(paths), truth, hidden, splits, (note,))


def _held_out(
    positions: Sequence[int], labels: np.ndarray, patients: Sequence[str], share: float, seed: int
) -> tuple[list[int], list[int]]:
    rest, held = grouped_split(labels[list(positions)], [patients[i] for i in positions], share, seed=seed)
    return [positions[i] for i in rest], [positions[i] for i in held]


def _first(candidates: Sequence[Path], what: str) -> Path:
    for path in candidates:
        if path.is_file():
            return path
    raise LabelError(f"covid_ct: {what} is missing; unpack the data set as published, with its Data-split folder")


def _unlisted(folder: Path, classes: Sequence[str], seen: set[Path]) -> tuple[str, ...]:
    there = {p for name in classes for p in (folder / f"CT_{name}").glob("*") if p.suffix.lower() in PICTURES}
    extra = len(there - seen)
    return (f"{extra} pictures are in no official list and are left out",) if extra else ()
