"""The server's record of each image: one JSON file, written atomically because tasks write it too."""

import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from medssl_monai.atomic import write_atomically, write_json
from medssl_monai.errors import LabelError
from medssl_monai.label_server.class_labels import ClassLabel, parse_class_label
from medssl_monai.label_server.workspace import Workspace, locked

FINAL = "final"
"""The tag of finished labels, which are used for training."""
FINAL_CLASS = f"{FINAL}-class"
PREDICTED = "original"
"""MONAI Label's tag for predictions."""

_TAG = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SUFFIX = re.compile(r"\.nii\.gz|(\.[A-Za-z0-9]{1,8})?")


class Records:
    """Labels and notes by the name of an image's record (never a patient's identifier).

    Args:
        workspace: has the folders ``records`` and ``labels``.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace

    def read(self, name: str) -> dict[str, Any]:
        """``{"info": {...}, "labels": {tag: {"ext": ..., "info": {...}}}}``; empty without a record."""
        path = self._path(name)
        if not path.is_file():
            return {"info": {}, "labels": {}}
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def note(self, name: str, info: dict[str, Any]) -> None:
        """Add to the record of an image."""
        self._change(name, lambda record: record["info"].update(info))

    def note_label(self, name: str, tag: str, info: dict[str, Any]) -> None:
        """Add to the record of a label.

        Raises:
            LabelError: the label does not exist, or the class in `info` is malformed.
        """
        self.label(name, tag)
        parse_class_label(info)
        self._change(name, lambda record: record["labels"][tag]["info"].update(info))

    def save_label(self, name: str, file: Path, tag: str, info: dict[str, Any]) -> None:
        """Keep a label file and its description.

        It replaces what has its tag. A class does not replace a segmentation, and a segmentation no class: the earlier
        one moves to the tag ``TAG-segmentation`` or ``TAG-class``.

        Raises:
            LabelError: the tag or the file's suffix has other characters, or a class label is malformed.
        """
        suffix = self._suffix(file)
        content = _json(file) if suffix == ".json" else None
        is_class = parse_class_label(content if content is not None else info) is not None
        target = self._label_path(name, tag, suffix)
        known = {**info, **(content if isinstance(content, dict) else {}), "ts": int(time.time()), "name": target.name}

        def keep(record: dict[str, Any]) -> None:
            labels = record["labels"]
            if tag in labels and _is_class(labels[tag]) != is_class:
                beside = f"{tag}-{'segmentation' if is_class else 'class'}"
                before = self._label_path(name, tag, labels[tag]["ext"])
                moved = self._label_path(name, beside, labels[tag]["ext"])
                moved.parent.mkdir(mode=0o700, exist_ok=True)
                if before.is_file():
                    before.replace(moved)
                labels[beside] = labels[tag]
            if is_class and tag == FINAL and (old := labels.pop(FINAL_CLASS, None)) is not None:
                self._label_path(name, FINAL_CLASS, old["ext"]).unlink(missing_ok=True)
            target.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomically(target, lambda draft: shutil.copyfile(file, draft))
            labels[tag] = {"ext": suffix, "info": known}

        self._change(name, keep)

    def remove_label(self, name: str, tag: str) -> None:
        """Forget a label.

        Raises:
            LabelError: the image has no label of this tag.
        """
        self.label_file(name, tag).unlink(missing_ok=True)
        self._change(name, lambda record: record["labels"].pop(tag, None))

    def label(self, name: str, tag: str) -> dict[str, Any]:
        """The record of a label.

        Raises:
            LabelError: the image has no label of this tag.
        """
        labels = self.read(name)["labels"]
        if tag not in labels:
            raise LabelError(f"label {tag!r}: the image has none of this tag; it has {', '.join(labels) or 'none'}")
        found: dict[str, Any] = labels[tag]
        return found

    def label_file(self, name: str, tag: str) -> Path:
        """Path of a label's file.

        Raises:
            LabelError: the image has no label of this tag.
        """
        return self._label_path(name, tag, str(self.label(name, tag)["ext"]))

    def class_label(self, name: str) -> ClassLabel | None:
        """The class that a user gave, or None."""
        labels = self.read(name)["labels"]
        return parse_class_label(labels[tag]["info"]) if (tag := self.class_tag(name)) in labels else None

    def class_tag(self, name: str) -> str:
        """The tag of the class that a user gave: ``final``, or ``final-class`` where a segmentation came after it."""
        labels = self.read(name)["labels"]
        return FINAL_CLASS if FINAL_CLASS in labels and not _is_class(labels.get(FINAL)) else FINAL

    def _change(self, name: str, change: Callable[[dict[str, Any]], object]) -> None:
        with locked(self.workspace.root / ".records.lock"):
            record = self.read(name)
            change(record)
            write_json(self._path(name), record)

    def _path(self, name: str) -> Path:
        return self.workspace.records / f"{name}.json"

    def _label_path(self, name: str, tag: str, suffix: str) -> Path:
        if not _TAG.fullmatch(tag):
            raise LabelError(f"tag {tag[:40]!r}: must have at most 64 letters, digits, _ and -; use for instance final")
        return self.workspace.labels / tag / f"{name}{suffix}"

    def _suffix(self, file: Path) -> str:
        suffix = ".nii.gz" if file.name.endswith(".nii.gz") else file.suffix
        if not _SUFFIX.fullmatch(suffix):
            raise LabelError(f"label file: the suffix {suffix[:40]!r} is not allowed; send label.json or label.nii.gz")
        return suffix


def _is_class(label: Mapping[str, Any] | None) -> bool:
    return label is not None and parse_class_label(label["info"]) is not None


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabelError(
            f'label.json: is not JSON ({type(error).__name__}); send for instance {{"label": "thorax"}}'
        ) from error
