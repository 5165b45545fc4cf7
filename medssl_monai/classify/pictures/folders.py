"""Pictures in folders named by class, with or without a folder for each split."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import KINDS, PICTURES, ImageFiles
from medssl_monai.errors import LabelError, suggestion
from medssl_monai.labels.names import SPLITS, check_class_name, class_named, split_named, split_suggestion, two_forms
from medssl_monai.labels.subsets import grouped_split, reference_split

Classes = dict[str, list[Path]]  # folders of each class; several where they differ in their Unicode form


def folder_classes(
    root: str | Path,
    *,
    as_reference: bool = False,
    classes: Sequence[str] | None = None,
    validation: float = 0.15,
    test: float = 0.2,
    seed: int = 42,
) -> ImageData:
    """Folders named by class, as the reference's brain haemorrhage data: ``[train|val|test/]CLASS/[PATIENT/]*.png``.

    Folders of splits are known by `split_named` and must have the same classes. Parts that have no folder are drawn:
    ``test`` of all, then ``validation`` of the rest. They keep patients apart where there is a folder a patient; the
    reference drew validation slices at random (``as_reference``).

    Args:
        root: the folder.
        as_reference: the reference's draw of validation slices, over files sorted by class and name.
        classes: of a run that is judged: with them a folder ``test`` needs none for training beside it.
        validation: share held out for validation.
        test: share held out for testing, where there is no ``test`` folder.
        seed: of the draws.

    Raises:
        LabelError: there are fewer than two classes with pictures, a split lacks a class that another has, there are
            folders of splits and none for training, or a class has a name that a configuration would run.
    """
    folder = Path(root)
    parts, left_out = _parts(folder, classes)
    found = {split: _classes(place, left_out) for split, place in parts.items()}
    names = sorted(found["train"]) if "train" in found else list(classes or ())
    _check_classes(folder, found, names)
    paths: list[Path] = []
    labels: list[int] = []
    patients: list[str] = []
    splits: dict[str, list[int]] = {}
    for split, held in found.items():
        start = len(paths)
        for label, name in enumerate(names):
            for place in held[name]:
                pictures = _pictures(place, left_out)
                inner = [path.relative_to(place).parts for path in pictures]
                paths += pictures
                labels += [label] * len(pictures)
                patients += [one[0] if len(one) > 1 else "" for one in inner]
        splits[split] = list(range(start, len(paths)))
    # Only the order of the names leaves this function: a folder may be called after a person.
    numbers = {name: f"patient-{i + 1:04d}" for i, name in enumerate(sorted(set(patients) - {""}))}
    hidden = [numbers.get(name, "") for name in patients]
    truth = np.array(labels, dtype=np.int64)
    _check_pictures(folder, splits, truth, names)
    if "test" not in splits:
        splits["train"], splits["test"] = _held_out(splits["train"], truth, hidden, test, seed)
    if "train" in splits and not splits.get("validation"):
        if as_reference:
            rest, held_out = reference_split(len(splits["train"]), seed=seed, share=validation)
            splits["train"], splits["validation"] = (
                [splits["train"][i] for i in rest],
                [splits["train"][i] for i in held_out],
            )
        else:
            splits["train"], splits["validation"] = _held_out(splits["train"], truth, hidden, validation, seed + 1)
    known = all(hidden)
    note = "patients kept apart in what was drawn" if known and not as_reference else "patients may be on both sides"
    spelt = two_forms(place.name for held in found.values() for places in held.values() for place in places)
    return ImageData(
        "folders",
        names,
        ImageFiles(paths, folder),
        truth,
        hidden,
        {split: splits.get(split, []) for split in SPLITS},
        (note, *spelt),
        dict(left_out),
    )


def _parts(folder: Path, classes: Sequence[str] | None) -> tuple[dict[str, Path], Counter[str]]:
    """The folder of each split, train first, or the whole as ``train``; and what lies beside them."""
    inside = _folders(folder)
    parts: dict[str, Path] = {}
    for place in inside:
        split = split_named(place.name)
        if split in parts:
            raise LabelError(
                f"folders: {parts[split].name!r} and {place.name!r} are both folders of the split {split!r}; keep one"
            )
        if split:
            parts[split] = place
    if not parts:
        return {"train": folder}, Counter()
    if "train" not in parts and classes is None:
        raise LabelError(
            f"folders: {', '.join(place.name for place in parts.values())} in {folder.name!r} are folders of splits, "
            "and there is none for training; add a folder 'train', or rename them if they are classes"
        )
    beside = Counter[str]()
    for place in set(inside) - set(parts.values()):
        if files := _files(place):
            if hint := split_suggestion(place.name):
                raise LabelError(
                    f"folders: {place.name!r} in {folder.name!r} is no split{hint}; rename it, or take it out"
                )
            beside[f"in the folder {place.name!r}, which is no split"] = len(files)
    return {split: parts[split] for split in SPLITS if split in parts}, beside


def _classes(part: Path, left_out: Counter[str]) -> Classes:
    found: Classes = {}
    for place in _folders(part):
        check_class_name(class_named(place.name), "folders")
        found.setdefault(class_named(place.name), []).append(place)
    beside = [path for path in _files(part, deep=False) if path.suffix.lower() in PICTURES]
    if beside:
        left_out["pictures beside the folders of classes"] += len(beside)
    return found


def _check_classes(folder: Path, found: Mapping[str, Classes], names: Sequence[str]) -> None:
    """Every split must have folders of the same classes: what one lacks would not be seen, or not be judged."""
    for split, held in found.items():
        lacking, more = sorted(set(names) - set(held)), sorted(set(held) - set(names))
        if not lacking and not more:
            continue
        first = "train" if "train" in found else "the network"
        meant = ", ".join(f"{one!r}{_meant(one, lacking)}" for one in more)
        differences = [f"lacks {', '.join(map(repr, lacking))}"] * bool(lacking) + [f"also has {meant}"] * bool(more)
        raise LabelError(
            f"folders: the class folders of {split!r} differ from those of {first!r}: it "
            f"{' and '.join(differences)}. {first!r} has {', '.join(names)}; {split!r} has "
            f"{', '.join(sorted(held))}; rename the folders so that every class has the same name in all splits"
        )
    if len(names) < 2:
        raise LabelError(
            f"folders: needs two or more folders named by class under {folder.name!r}, found {len(names)}; "
            "lay pictures out as [train/]CLASS/*.png"
        )


def _meant(name: str, among: Sequence[str]) -> str:
    for other in among:
        if other.startswith(name) or name.startswith(other):
            return suggestion(other, among)
    return suggestion(name, among)


def _check_pictures(folder: Path, splits: Mapping[str, Sequence[int]], truth: np.ndarray, names: Sequence[str]) -> None:
    """Every class needs a picture in every split that has folders."""
    for split, positions in splits.items():
        empty = sorted(set(names) - {names[i] for i in truth[list(positions)]})
        if empty:
            raise LabelError(
                f"folders: the class {empty[0]!r} has no picture ({KINDS}) in {split!r} of {folder.name!r}; fill its "
                "folder, or take the class out of every split"
            )


def _folders(place: Path) -> list[Path]:
    if not place.is_dir():
        return []
    return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith((".", "__MACOSX")))


def _files(place: Path, *, deep: bool = True) -> list[Path]:
    """Files, without hidden ones."""
    return sorted(p for p in place.glob("**/*" if deep else "*") if p.is_file() and not p.name.startswith("."))


def _pictures(place: Path, left_out: Counter[str]) -> list[Path]:
    files = _files(place)
    for path in files:
        if path.suffix.lower() not in PICTURES:
            left_out[f"{path.suffix.lower() or 'no ending'}: no picture ({KINDS})"] += 1
    return [path for path in files if path.suffix.lower() in PICTURES]


def _held_out(
    positions: Sequence[int], labels: np.ndarray, patients: Sequence[str], share: float, seed: int
) -> tuple[list[int], list[int]]:
    rest, held = grouped_split(labels[list(positions)], [patients[i] for i in positions], share, seed=seed)
    return [positions[i] for i in rest], [positions[i] for i in held]
