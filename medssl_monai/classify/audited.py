"""An audit of whatever a user has: stores, label tables, tables and folders of pictures, published data sets."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from medssl_monai.classify.pictures.files import PICTURES
from medssl_monai.classify.pictures.leaks import picture_sets
from medssl_monai.classify.pictures.published import TaskName, image_task
from medssl_monai.errors import ContradictionError, InputError, suggestion
from medssl_monai.labels.audit import DISTANCE, compare
from medssl_monai.labels.audit_report import AuditReport
from medssl_monai.labels.audit_sets import AuditSet, store_set, table_sets
from medssl_monai.labels.passport import Passport, read_passport
from medssl_monai.labels.table import read_any_labels
from medssl_monai.resources import encoder_path, shipped_encoders
from medssl_monai.store.places import is_store

WEIGHTS = frozenset({".safetensors", ".pt", ".pth", ".ts", ".onnx"})
"""Files of networks. Only the first kind has a header for a passport."""


def audit(
    inputs: Sequence[Path], *, store: Path | None = None, key: bytes | None = None, distance: int = DISTANCE
) -> AuditReport:
    """Compare stores and the splits of labelled data, every pair of them; look for contradictions and telltale files.

    Args:
        inputs: stores, label tables (CSV or JSON) of slices or of pictures, folders of pictures by class, the folder of
            COVID-CT, and ``organsmnist.npz``; and weights (.safetensors, or a shipped encoder's name) with a passport,
            which says what they have seen. A store beside weights is data that is asked about.
        store: the store of the tables' sources. By default the first store among the inputs; without one the sources
            are ingested into the cache.
        key: of the pseudonyms; None loads the user's own.
        distance: number of bits, of 64, in which the perceptual hashes of near-duplicates may differ; at most 15.

    Raises:
        InputError: there is no input, or the distance is out of range. What cannot be read is in the report.

    Example:
        >>> report = audit([Path("store"), Path("labels.csv")])  # doctest: +SKIP
        >>> report.leaks, report.sentences()  # doctest: +SKIP
    """
    if not inputs:
        raise InputError("audit: needs stores, label tables or pictures, found none; give at least one")
    paths = [encoder_path(path) for path in inputs]
    home = store or next((path for path in paths if is_store(path)), None)
    sets: list[AuditSet] = []
    passports: dict[str, Passport] = {}
    refusals: list[str] = []
    unchecked: list[str] = []
    statements: list[str] = []
    for path in paths:
        try:
            if path.suffix.lower() in WEIGHTS:
                passports[str(path) if path.name in passports else path.name] = read_passport(path)
                continue
            found, sentences = _sets(path, home, key)
            sets += found
            statements += sentences
        except ContradictionError as error:
            refusals.append(str(error))
        except InputError as error:
            unchecked.append(str(error))
    if passports:  # the question is what the weights have seen, also of a whole store
        sets = [replace(one, kind="" if one.kind == "pre-training" else one.kind) for one in sets]
    report = compare(sets, distance, passports)
    return replace(
        report,
        refusals=tuple(refusals),
        unchecked=tuple(unchecked),
        statements=(*statements, *report.statements),
    )


def _sets(path: Path, home: Path | None, key: bytes | None) -> tuple[list[AuditSet], list[str]]:
    if is_store(path):
        return [store_set(path)], []
    if not path.exists():
        raise InputError(
            f"{path}: no such file or folder{suggestion(path, shipped_encoders())}; give a store, a label table, "
            "pictures in folders by class, or weights"
        )
    task = _pictures(path)
    if task is None:
        return table_sets(path, home, key)
    multilabel = task == "table" and read_any_labels(path).multilabel
    data = image_task(task, path, task="multilabel" if multilabel else "multiclass")
    left_out = [f"{number} file{'s' * (number != 1)} left out, {why}" for why, number in data.left_out.items()]
    return picture_sets(data, path.stem), [f"{path.name}: {one}" for one in (*data.statements, *left_out)]


def _pictures(path: Path) -> TaskName | None:
    """Which data set of pictures a file or folder is; None of a table of slices."""
    if path.suffix.lower() == ".npz" or (path / "organsmnist.npz").is_file():
        return "organ_s_mnist"
    if path.is_dir():
        named: dict[str, TaskName] = {"trainCT_COVID.txt": "covid_ct", "head_ct/000.png": "head_ct"}
        return next((task for file, task in named.items() if next(path.rglob(file), None)), "folders")
    sources = (Path(row.source) for row in read_any_labels(path).rows)
    return "table" if any(source.suffix.lower() in PICTURES for source in sources) else None
