"""A label table with pictures (PNG, JPEG, BMP, TIFF) as sources rather than slices in HU."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medssl_monai.classify.classes import network_classes
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import PICTURES, ImageFiles
from medssl_monai.errors import LabelError
from medssl_monai.labels.names import SPLITS
from medssl_monai.labels.subsets import grouped_split
from medssl_monai.labels.table import LabelTable, read_labels

TEST_SHARE, VALIDATION_SHARE, SEED = 0.2, 0.15, 42  # of what is drawn where the table has no split, as for folders


def image_table(path: str | Path, *, multilabel: bool = False, classes: Sequence[str] | None = None) -> ImageData:
    """The pictures of a table ``source,label,patient,split``, each labelled once.

    Without a column ``split`` a fifth of the patients is held out for testing and 15 % of the rest for validation; each
    picture without a patient counts as a patient of its own.

    Args:
        path: CSV or JSON table, see `read_labels`.
        multilabel: whether a picture may have several labels, or none.
        classes: names in the order of the network's outputs; None takes the table's own, sorted.

    Raises:
        ConfigError: see `network_classes`.
        LabelError: the table does not fit (see `read_labels` and `network_classes`), a source is no picture or is
            missing, or a picture is named twice.
    """
    table = read_labels(Path(path), multilabel=multilabel)
    paths = _pictures(table)
    names = network_classes(table, classes, task="multilabel" if multilabel else "multiclass")
    if multilabel:
        held = np.zeros((len(paths), len(names)), dtype=np.float32)
        for row, vector in zip(table.rows, held, strict=True):
            vector[[names.index(name) for name in row.names]] = 1
        labels: np.ndarray = held
    else:
        labels = np.array([names.index(row.label) for row in table.rows], dtype=np.int64)
    patients = [row.patient for row in table.rows]
    splits = _splits(table, labels)
    statements = [] if table.has_patient else ["patient unknown for some pictures: they may be on both sides"]
    statements += table.spellings
    without = len(paths) - sum(map(len, splits.values()))
    left_out = {"rows without a split": without} if without else {}
    shown = {name for i in splits["train"] for name in table.rows[i].names}
    never = [name for name in table.classes if name not in shown]
    if never and not table.has_split:  # by chance, which a table with splits decides instead
        statements.append(f"nothing can learn what no picture drawn for training shows: {', '.join(never)}")
    images = ImageFiles(paths, table.path.parent)
    return ImageData("table", names, images, labels, patients, splits, tuple(statements), left_out)


def _pictures(table: LabelTable) -> list[Path]:
    seen: dict[Path, int] = {}
    for row in table.rows:
        file = Path(row.source)
        rules = {
            f"must be a picture ({', '.join(sorted(PICTURES))}); give DICOM and NIfTI in a table of their own, without "
            "this overlay": file.suffix.lower() in PICTURES,
            "does not exist; correct the path, relative ones are taken from the table's folder": file.is_file(),
            f"is labelled in row {seen.get(file)} already; keep one row a picture": file not in seen,
            "is one picture, which has no slice but 0; leave the column 'slice' empty": row.slice in (None, 0),
        }
        for rule, kept in rules.items():
            if not kept:
                raise LabelError(f"{table.path}, row {row.number}: the source {rule}")
        seen[file] = row.number
    return list(seen)


def _splits(table: LabelTable, labels: np.ndarray) -> dict[str, list[int]]:
    if table.has_split:
        return {split: [i for i, row in enumerate(table.rows) if row.split == split] for split in SPLITS}
    patients = [row.patient for row in table.rows]
    rest, test = grouped_split(labels, patients, TEST_SHARE, seed=SEED)
    inner = grouped_split(labels[rest], [patients[i] for i in rest], VALIDATION_SHARE, seed=SEED + 1)
    train, validation = ([rest[i] for i in side] for side in inner)
    return {"train": train, "validation": validation, "test": test}
