"""What a training or an evaluation is on, said before it starts: slices by split and class, what is left out, leaks."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medssl_monai.atomic import write_json
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.classify.pictures.data import ImageData
from medssl_monai.classify.pictures.files import ImageFiles
from medssl_monai.classify.pictures.leaks import picture_sets
from medssl_monai.errors import LabelError
from medssl_monai.labels.audit import compare
from medssl_monai.labels.audit_report import AuditReport
from medssl_monai.labels.audit_sets import AuditSet, slice_set
from medssl_monai.labels.names import SPLITS
from medssl_monai.plain_text import plain_text
from medssl_monai.processes import process_rank

logger = logging.getLogger(__name__)

MOST_FILES, MOST_SLICES = 1000, 30_000
"""An audit within these takes seconds: files of pictures are decoded, slices of a store have their hashes in its index,
and pictures of an array are in memory."""

SHOWN = 10


def write_overview(data: Any, output_dir: str | Path, audit: bool = True, name: str = "data.json") -> dict[str, Any]:
    """Log a table of the data and what an audit finds, and write both into the run's folder.

    Args:
        data: `LabelledData`, `ImageData`, or `ListedData`, of which only the classes are counted.
        output_dir: folder for the file.
        audit: whether leaks are looked for, as `medssl audit` does; not where it would take more than seconds.
        name: of the file.

    Returns:
        ``rows`` (a split and a class each: slices, series or files, patients, formats), ``left_out`` (number by
        reason), ``statements`` and ``audit``.
    """
    if process_rank() > 0:
        return {}
    rows = _rows(data)
    left_out = dict(getattr(data, "left_out", {}))
    content = {"rows": rows, "left_out": left_out, "statements": [*data.statements, *_lacking(data, rows)]}
    logger.info("data:\n%s", table_of(rows))
    for why, number in left_out.items():
        logger.warning("left out: %d file%s, %s", number, "s" * (number != 1), plain_text(why))
    content["audit"] = _audited(data, audit)
    write_json(Path(output_dir) / name, content)
    return content


def contradicting(overview: Mapping[str, Any]) -> list[str] | None:
    """Pictures or series that stand in two classes by an overview's audit, sorted; None where it did not run."""
    if "near_duplicates" not in overview["audit"]:
        return None
    pairs = [one for one in overview["audit"]["near_duplicates"] if one["first_label"] != one["second_label"]]
    return sorted({name for one in pairs for name in (one["first_series"], one["second_series"])})


def table_of(rows: list[dict[str, Any]]) -> str:
    """The rows as aligned text."""
    lines = [["split", "class", "slices", "sources", "patients", "formats"]]
    for row in rows:
        patients = "unknown" if row["patients"] is None else str(row["patients"])
        formats = ", ".join(f"{kind} {number}" for kind, number in row["formats"].items())
        lines.append(
            [row["split"], plain_text(row["class"]), str(row["slices"]), str(row["sources"]), patients, formats]
        )
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _rows(data: Any) -> list[dict[str, Any]]:
    found = []
    for split in SPLITS:
        items = _items(data, split)
        for number, name in enumerate(data.classes):
            held = [item for item in items if (item[0][number] if np.ndim(item[0]) else item[0] == number)]
            if held:
                patients = {item[2] for item in held}
                found.append(
                    {
                        "split": split,
                        "class": name,
                        "slices": len(held),
                        "sources": len({item[1] for item in held}),
                        "patients": None if "" in patients else len(patients),
                        "formats": dict(sorted(Counter(item[3] for item in held).items())),
                    }
                )
    return found


def _items(data: Any, split: str) -> list[tuple[Any, Any, str, str]]:
    """Label, source, patient and format of each slice of a split."""
    if isinstance(data, ImageData):
        places = data.splits.get(split, ())
        files = isinstance(data.images, ImageFiles)
        headers = data.images.headers() if isinstance(data.images, ImageFiles) else []
        kinds = [f"{headers[i].format} {headers[i].mode}" if files else "array" for i in places]
        return [(data.label(i), i, data.patients[i], kind) for i, kind in zip(places, kinds, strict=True)]
    if isinstance(data, LabelledData):
        return [(row["label"], row["series_id"], row["patient"], row["modality"]) for row in _slices(data, split)]
    return [(label, i, "", "listed") for i, label in enumerate(data.labels_of(split))]


def _slices(data: LabelledData, split: str, level: int = logging.INFO) -> list[dict[str, Any]]:
    """Of a table without splits all slices, once; of an evaluation's store only what it holds."""
    if not data.table.has_split and split != "train":
        return []
    try:
        return data.rows(split)
    except LabelError as error:
        logger.log(level, "%s: not counted: %s", split, error)
        return []


def _lacking(data: Any, rows: list[dict[str, Any]]) -> list[str]:
    """Classes that a split does not show."""
    shown: dict[str, set[str]] = {}
    for row in rows:
        shown.setdefault(row["split"], set()).add(row["class"])
    lacking = {split: [name for name in data.classes if name not in held] for split, held in shown.items()}
    sentences = [f"no slice of {split} shows: {', '.join(names)}" for split, names in lacking.items() if names]
    for sentence in sentences:
        logger.warning("%s", plain_text(sentence))
    return sentences


def _audited(data: Any, wanted: bool) -> Mapping[str, Any]:
    """The audit's report, or why there is none."""
    reason = "audit=false" if not wanted else ""
    sets: list[AuditSet] = []
    if not reason and isinstance(data, ImageData):
        number, most = len(data.images), MOST_FILES if isinstance(data.images, ImageFiles) else MOST_SLICES
        reason = f"{number} pictures would take more than seconds" if number > most else ""
        sets = [] if reason else picture_sets(data)
    elif not reason and isinstance(data, LabelledData):
        rows = {split: _slices(data, split, logging.DEBUG) for split in SPLITS}  # `_rows` has said what is not counted
        number = sum(map(len, rows.values()))
        reason = f"{number} slices would take more than seconds" if number > MOST_SLICES else ""
        if not reason:
            sets = [slice_set(split, split, "data", data.store, held) for split, held in rows.items() if held]
    elif not reason:
        reason = "listed images have no store"
    if reason:
        logger.info("leaks were not looked for (%s): run `medssl audit DATA`", reason)
        return {"not_run": reason}
    report: AuditReport = compare(sets)
    sentences = report.sentences()
    for sentence in sentences[:SHOWN]:
        logger.warning("leak: %s", plain_text(sentence))
    if len(sentences) > SHOWN:
        logger.warning("leak: and %d more, see data.json", len(sentences) - SHOWN)
    return report.to_json()
