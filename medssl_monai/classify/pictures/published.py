"""The pictures that Wolf et al. 2023 classified, as they are published: COVID-CT, OrganSMNIST, and folders of classes.

Their brain haemorrhages were internal. The published head CT pictures of that kind stand beside them.

With ``as_reference`` splits and subsets are those that the reference drew; otherwise they are stratified, seeded, and
keep patients apart where patients are known.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from medssl_monai.atomic import file_sha256
from medssl_monai.classify.classes import named_classes
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.folders import folder_classes
from medssl_monai.classify.pictures.folds import FOLDS, fold_splits
from medssl_monai.classify.pictures.patients import look_alike_groups, with_patients
from medssl_monai.classify.pictures.table import image_table
from medssl_monai.errors import ConfigError, LabelError
from medssl_monai.labels.names import class_named
from medssl_monai.labels.subsets import Unit, reference_subset

logger = logging.getLogger(__name__)

TaskName = Literal["covid_ct", "organ_s_mnist", "head_ct", "folders", "table"]
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
    patients: str | Path | None = None,
    leave_out: Sequence[str] = (),
    fold: int = 0,
) -> ImageData:
    """A data set by name, with a share of its training pictures.

    Args:
        name: ``covid_ct``, ``organ_s_mnist``, ``head_ct``, ``folders`` or ``table``.
        root: folder or file.
        fraction: of the training pictures, in (0, 1].
        subset_unit: see `nested_subset`.
        subset_seed: see `nested_subset`.
        as_reference: splits and subsets as the reference drew them.
        task: ``multiclass``, or for a table also ``multilabel``.
        classes: names in the order of the network's outputs; None takes the data set's own.
        patients: of ``covid_ct``, a table of them, see `with_patients`.
        leave_out: paths from ``root`` of pictures that are taken out of the training and the validation part, because
            they contradict others for instance; the test part stays whole.
        fold: of ``head_ct``, see `fold_splits`.

    Raises:
        ConfigError: the name is unknown, or does not have what is asked for.
        LabelError: the data are not laid out as published, have other classes, or pictures that cannot be used.
    """
    if name not in get_args(TaskName):
        raise ConfigError(f"image task {name!r} is unknown; choose one of {', '.join(get_args(TaskName))}")
    if task not in ("multiclass", "multilabel") or (task == "multilabel" and name != "table"):
        raise ConfigError(f"task: the pictures of {name} have one class each, found {task!r}; set task=multiclass")
    if as_reference and name in ("table", "head_ct"):
        raise ConfigError(f"as_reference: the reference did not have the pictures of {name}; leave it false")
    if not Path(root).exists():
        raise LabelError(f"{name}: {root} does not exist; give the folder or file of the data set")
    given = named_classes(classes)
    if patients is not None and name != "covid_ct":
        raise ConfigError(f"patients: a table of them is for covid_ct, found it with {name}; leave it out")
    if name == "table":
        data = image_table(root, multilabel=task == "multilabel", classes=given)
    elif name == "folders":
        data = folder_classes(root, as_reference=as_reference, classes=given)
    elif name == "head_ct":
        data = head_ct(root, fold)
    else:
        data = covid_ct(root) if name == "covid_ct" else organ_s_mnist(root)
    data = with_patients(data, patients) if patients is not None else data
    data = _without(_in_order(data, given), leave_out)
    if isinstance(data.images, ImageFiles):
        data.images.headers()  # refuses what cannot be read before anything is trained
    for sentence in data.statements:
        logger.warning("%s: %s", name, sentence)
    if not as_reference:
        return data if fraction == 1 else data.subset(fraction, unit=subset_unit, seed=subset_seed)
    train = list(data.splits["train"])
    kept = reference_subset(len(train), fraction, shuffle=name != "organ_s_mnist")
    return replace(data, splits={**data.splits, "train": [train[i] for i in kept]})


def _without(data: ImageData, names: Sequence[str]) -> ImageData:
    """The same without some pictures in the parts that are learned and chosen by."""
    if not names:
        return data
    unknown = set(names) - {data.file_of(place) for place in range(len(data.images))}
    if unknown:
        raise LabelError(f"leave_out: {data.name} has no picture {sorted(unknown)[0]!r}; give paths from its folder")
    splits = {
        split: places if split == "test" else [place for place in places if data.file_of(place) not in names]
        for split, places in data.splits.items()
    }
    return replace(data, splits=splits)


def _in_order(data: ImageData, classes: list[str] | None) -> ImageData:
    """The same with the classes in the order of a network's outputs."""
    if classes is None or classes == data.classes:
        return data
    if sorted(classes) != sorted(data.classes):
        raise LabelError(
            f"{data.name}: the classes must be those of the network, {', '.join(classes)}, found "
            f"{', '.join(data.classes)}; give the data that it was fine-tuned for, or fine-tune another"
        )
    places = np.array([classes.index(name) for name in data.classes])
    return replace(data, classes=classes, labels=places[data.labels])


def covid_ct(root: str | Path) -> ImageData:
    """COVID-CT (Zhao et al. 2020, arXiv 2003.13865): 349 + 397 pictures and the official split lists.

    Pictures of github.com/UCSD-AI4H/COVID-CT are found by name at any depth, first in folders called ``CT_COVID`` and
    ``CT_NonCOVID``, then anywhere (the reference had all in one folder); so are the official lists
    ``{train,val,test}CT_{COVID,NonCOVID}.txt``, one file name a line. Class 0 is COVID: the reference's F1, precision
    and AUC are therefore those of NonCOVID. Patients are not given.

    Raises:
        LabelError: a list or a listed picture is missing, is there in different versions, or a picture is listed twice.
    """
    folder = Path(root)
    classes = ["COVID", "NonCOVID"]
    there = _by_name(folder)
    seen: set[Path] = set()
    paths: list[Path] = []
    labels: list[int] = []
    splits: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
    for split, short in (("train", "train"), ("validation", "val"), ("test", "test")):
        for label, name in enumerate(classes):
            title = f"{short}CT_{name}.txt"
            text = _one(there.get(title, []), name, f"covid_ct: the official list {title}")
            for line in filter(None, map(str.strip, text.read_text(encoding="utf-8").splitlines())):
                places = there.get(class_named(line), [])
                path = _one(places, f"CT_{name}", f"covid_ct: a picture of {title} (number {len(paths)})")
                if path in seen:
                    raise LabelError(f"{title}: line {line!r} is listed twice; correct the lists")
                seen.add(path)
                splits[split].append(len(paths))
                paths.append(path)
                labels.append(label)
    listed = {class_named(path.name) for path in paths}
    extra = {
        name
        for name, places in there.items()
        if name not in listed and {f"CT_{one}" for one in classes} & {place.parent.name for place in places}
    }
    left_out = {"in no official list": len(extra)} if extra else {}
    unknown = ("patient unknown: the official split is taken as it is",)
    images, truth = ImageFiles(paths, folder), np.array(labels)
    return ImageData("covid_ct", classes, images, truth, [""] * len(paths), splits, unknown, left_out)


def _by_name(folder: Path) -> dict[str, list[Path]]:
    """Files under a folder by their names, those that lie less deep first; not what macOS adds to archives."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*"), key=lambda path: (len(path.parts), path)):
        if "__MACOSX" not in path.parts and not path.name.startswith(".") and path.is_file():
            found.setdefault(class_named(path.name), []).append(path)
    return found


def _one(candidates: Sequence[Path], parent: str, what: str) -> Path:
    """The file in a folder of that name, or else anywhere; copies must be equal."""
    wanted = [path for path in candidates if path.parent.name == parent] or list(candidates)
    if not wanted:
        raise LabelError(f"{what} is missing; unpack the data set as published, with its lists or labels")
    if len(wanted) > 1 and len({file_sha256(path) for path in wanted}) > 1:
        raise LabelError(f"{what} is there {len(wanted)} times with different content; keep one version")
    return wanted[0]


def head_ct(root: str | Path, fold: int = 0) -> ImageData:
    """Head CT hemorrhage (Kitamura 2018, kaggle.com/datasets/felipekitamura/head-ct-hemorrhage): 100 + 100 pictures.

    ``labels.csv`` (id, hemorrhage) and the pictures ``000.png`` … are found by name at any depth, pictures first in a
    folder called ``head_ct``. There is no official split: a fifth is tested on, see `fold_splits`, and 15 % of the rest
    are for validation. Patients are not known: each picture counts as one, and pictures that look alike as the same
    one, so that they are on one side.

    Raises:
        ConfigError: the fold is negative, or a class has fewer pictures than there are folds.
        LabelError: the labels or a labelled picture are missing, or there in different versions; a row is no number and
            0 or 1.
    """
    folder = Path(root)
    there = _by_name(folder)
    table = _one(there.get("labels.csv", []), "head_ct", "head_ct: labels.csv")
    labels: dict[Path, int] = {}
    for line in table.read_text(encoding="utf-8-sig").splitlines()[1:]:
        number, _, label = (cell.strip() for cell in line.partition(","))
        if not (number.isdecimal() and label in ("0", "1")):
            raise LabelError(f"{table.name}: a row must be a number and 0 or 1, found {line[:40]!r}; correct it")
        name = f"{int(number):03d}.png"
        labels[_one(there.get(name, []), "head_ct", f"head_ct: the picture {name}")] = int(label)
    truth = np.array(list(labels.values()), dtype=np.int64)
    notes = ("patient unknown: a picture counts as one, and pictures that look alike as the same one",)
    everything = {"train": list(range(len(truth)))}
    images = ImageFiles(list(labels), folder)
    data = ImageData("head_ct", ["normal", "hemorrhage"], images, truth, [""] * len(truth), everything, notes)
    groups = look_alike_groups(data)
    return replace(data, patients=groups, splits=fold_splits(truth, groups, fold), folds=FOLDS)


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
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as content:
            images = [np.asarray(content[f"{part}_images"]) for part in parts]
            labels = [np.asarray(content[f"{part}_labels"]).reshape(-1).astype(np.int64) for part in parts]
        joined = np.concatenate(labels)
    except Exception as error:  # whatever numpy, zipfile and zlib meet in a damaged file
        raise LabelError(f"{file.name}: no MedMNIST file ({type(error).__name__}); fetch it again") from error
    fits = all(i.ndim == 3 and i.dtype == np.uint8 and len(i) == len(k) for i, k in zip(images, labels, strict=True))
    if not fits or len({i.shape[1:] for i in images}) > 1 or not np.isin(joined, range(len(ORGANS))).all():
        raise LabelError(f"{file.name}: pictures must be (N, H, W) uint8 with N labels 0 to 10; give organsmnist.npz")
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
