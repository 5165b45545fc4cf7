"""The server's studies and labels behind MONAI Label's interface. Needs MONAI Label.

MONAI Label's own stores treat each file at the top of a folder as an image, keep all labels in one file that processes
overwrite for each other, and accept only DICOM SEG as a finished label of a PACS. Here an image is a series of any
format, and a finished label may be a class.
"""

import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

from monailabel.interfaces.datastore import Datastore

from medssl_monai.errors import InputError
from medssl_monai.label_server.records import Records
from medssl_monai.label_server.studies import Studies


class StudiesDatastore(Datastore):  # type: ignore[misc]  # MONAI Label has no type hints
    """Studies and records behind MONAI Label's interface.

    Args:
        studies: of the server.
        records: of the server.
    """

    def __init__(self, studies: Studies, records: Records) -> None:
        self.studies, self.records = studies, records

    def name(self) -> str:
        """What is served."""
        return f"{self.studies.settings.modality} series"

    def set_name(self, name: str) -> None:
        """Ignored."""

    def description(self) -> str:
        """What an image is."""
        return "An image is a series; labels are classes of series or slices."

    def set_description(self, description: str) -> None:
        """Ignored."""

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Labelled images: id and class label. Files are not named: training reads the store."""
        found = []
        for image_id in self.studies.ids():
            label = self.records.class_label(self._record(image_id))
            if label is not None:
                slices = {str(number): name for number, name in label.slices.items()}
                found.append({"image": image_id, "label": {"label": label.study, "slices": slices}})
        return found

    def get_image(self, image_id: str, params: Any = None) -> Any:
        """The NIfTI file as bytes."""
        return io.BytesIO(self.studies.image_file(image_id).read_bytes())

    def get_image_uri(self, image_id: str) -> str:
        """Path of the NIfTI file."""
        return str(self.studies.image_file(image_id))

    def get_image_info(self, image_id: str) -> dict[str, Any]:
        """The image's record; with slices and modality once it is in the store."""
        return {**self.records.read(self._record(image_id))["info"], "name": image_id}

    def update_image_info(self, image_id: str, info: dict[str, Any]) -> None:
        """Add to it."""
        self.records.note(self._record(image_id), info)

    def get_labels_by_image_id(self, image_id: str) -> dict[str, str]:
        """Tags of the image's labels, each with the label's id, which is that of its image."""
        return dict.fromkeys(self.records.read(self._record(image_id))["labels"], image_id)

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """The label's id; empty without a label."""
        return self.get_labels_by_image_id(image_id).get(tag, "")

    def get_label(self, label_id: str, label_tag: str, params: Any = None) -> Any:
        """A label file as bytes."""
        return io.BytesIO(self.records.label_file(self._record(label_id), label_tag).read_bytes())

    def get_label_uri(self, label_id: str, label_tag: str) -> str:
        """Path of a label file."""
        return str(self.records.label_file(self._record(label_id), label_tag))

    def get_label_info(self, label_id: str, label_tag: str) -> dict[str, Any]:
        """The record of a label, with its class."""
        found: dict[str, Any] = self.records.label(self._record(label_id), label_tag)["info"]
        return found

    def update_label_info(self, label_id: str, label_tag: str, info: dict[str, Any]) -> None:
        """Add to it."""
        self.records.note_label(self._record(label_id), label_tag, info)

    def save_label(self, image_id: str, label_filename: str, label_tag: str, label_info: dict[str, Any]) -> str:
        """Keep a label."""
        file = Path(label_filename)
        try:
            self.records.save_label(self._record(image_id), file, label_tag, label_info or {})
        finally:
            self._forget(file)
        return image_id

    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Forget a label."""
        self.records.remove_label(self._record(label_id), label_tag)

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """Images with a final class."""
        return [one for one in self.studies.ids() if self.records.class_label(self._record(one)) is not None]

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """All others."""
        labelled = set(self.get_labeled_images())
        return [one for one in self.studies.ids() if one not in labelled]

    def list_images(self) -> list[str]:
        """All."""
        return self.studies.ids()

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Ingest an uploaded file; its id is the pseudonym of the series."""
        file = Path(image_filename)
        try:
            added = self.studies.add(file, image_id or "")
        finally:
            self._forget(file)
        if image_info:
            self.records.note(self._record(added), image_info)
        return added

    def remove_image(self, image_id: str) -> None:
        """Refused."""
        raise InputError("the label server does not delete images; delete them at their source")

    def get_dataset_archive(self, limit_cases: int | None) -> str:
        """Refused."""
        raise InputError(
            "the label server does not send the whole data set; GET /datastore/?output=train lists the labels"
        )

    def refresh(self) -> None:
        """Nothing to do: files are read when they are requested."""

    def status(self) -> dict[str, Any]:
        """Counts of images and labels."""
        tags: dict[str, int] = {}
        ids = self.studies.ids()
        for image_id in ids:
            for tag in self.records.read(self._record(image_id))["labels"]:
                tags[tag] = tags.get(tag, 0) + 1
        return {"total": len(ids), "completed": len(self.get_labeled_images()), "label_tags": tags}

    def json(self) -> dict[str, Any]:
        """Every image with its record."""
        objects = {}
        for image_id in self.studies.ids():
            record = self.records.read(self._record(image_id))
            objects[image_id] = {"image": {"ext": ".nii.gz", "info": record["info"]}, "labels": record["labels"]}
        return {"name": self.name(), "description": self.description(), "objects": objects}

    def _forget(self, upload: Path) -> None:
        """Delete an upload; MONAI Label does so only after a success."""
        if upload.resolve().is_relative_to(self.studies.workspace.tmp.resolve()):
            upload.unlink(missing_ok=True)

    def _record(self, image_id: str) -> str:
        return self.studies.record_name(image_id)


class SkippingDatastore(StudiesDatastore):
    """The datastore for a reader who has skipped some images: strategies do not choose these.

    Args:
        studies: of the server.
        records: of the server.
        skipped: images.
    """

    def __init__(self, studies: Studies, records: Records, skipped: Collection[str]) -> None:
        super().__init__(studies, records)
        self.skipped = frozenset(skipped)

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """All others without the skipped ones."""
        return [one for one in super().get_unlabeled_images(label_tag, labels) if one not in self.skipped]
