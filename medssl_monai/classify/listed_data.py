"""Images and labels given as a list, as MONAI Label's stock app gives them: ``[{"image": path, "label": label}, …]``.

The images are read by the transforms of the bundle's ``inference.yaml``, each file by itself and without ingestion, so
that a network is trained on what it will be shown there. Files are not grouped into series, and no patient is known.
"""

import copy
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import blosc2
import numpy as np
import numpy.typing as npt
import torch
from monai.transforms.compose import Compose
from monai.transforms.io.array import LoadImage
from monai.transforms.spatial.array import Orientation
from monai.transforms.utility.array import EnsureChannelFirst, Lambda
from torch.utils.data import Dataset

from medssl_monai.classify.classes import balanced_positions, named_classes
from medssl_monai.classify.labelled_data import LabelledData
from medssl_monai.errors import ConfigError, InputError, LabelError
from medssl_monai.labels.names import class_named
from medssl_monai.store.epochs import EpochDataset, SampleKey

Listed = Sequence[Mapping[str, Any]]


def training_data(labels: str | Path | None, **settings: Any) -> "LabelledData | ListedData":
    """What a training is on: a label table's slices (`LabelledData`), or, without a table, lists to come.

    Raises:
        LabelError: there is no table, nor are classes named; or the table does not fit.
    """
    if labels is not None:
        return LabelledData(labels, **settings)
    return ListedData(settings["classes"], settings.get("task", "multiclass"))


def leave_out_missing(source: Any) -> None:
    """Let a label table do without rows whose source is not in the store; other data are left as they are.

    An evaluation calls it: `labelled_slices` warns with their number, and refuses a split of which nothing is there.
    """
    if isinstance(source, LabelledData):
        source.without_missing = True


def labelled_dataset(
    source: "LabelledData | ListedData",
    split: str,
    transform: Callable[[dict[str, Any]], Any],
    data: Listed | None = None,
    optional: bool = False,
    balanced: bool = False,
) -> Dataset[dict[str, Any]]:
    """The slices of a split of `source`, or those of the list `data`.

    Args:
        source: from `training_data`.
        split: train, validation or test.
        transform: applied to each item.
        data: ``[{"image": path, "label": label}, …]``; needs a source without a table.
        optional: nothing there gives an empty data set.
        balanced: the slices of rare classes come again until all classes are as common.

    Raises:
        LabelError: there are no slices and `optional` is False; both a table and a list are given; or a label is no
            class.
        InputError: an image cannot be read.
        ConfigError: a list, and a transform with a spacing of channels.
    """
    if isinstance(source, ListedData):
        return source.dataset(split, transform, optional=optional, balanced=balanced, data=data)
    if data is not None:
        raise LabelError(
            f"{split}#dataset#data: a list of images takes the place of a label table, found both; leave one out"
        )
    return source.dataset(split, transform, optional=optional, balanced=balanced)


class ListedData:
    """What `LabelledData` is for a table, for lists of images.

    Args:
        classes: names in the order of the network's outputs.
        task: ``multiclass`` or ``multilabel``.

    Raises:
        LabelError: no classes are named, as where a label table was forgotten.
        ConfigError: see `named_classes`.
    """

    def __init__(self, classes: Sequence[str] | None, task: str = "multiclass") -> None:
        if not classes:
            raise LabelError(
                "dataset_dir: training needs a label table (CSV or JSON), found null; give --dataset_dir labels.csv "
                "(only lists of images, as MONAI Label gives them, do without, and then classes=[…] is needed)"
            )
        self.classes, self.task = named_classes(classes) or [], task
        self._digest = hashlib.sha256()
        self._slices: dict[str, ListedSlices] = {}

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the pixels and labels of the data sets made so far."""
        return self._digest.hexdigest()

    @property
    def statements(self) -> tuple[str, ...]:
        """What the lists leave unknown."""
        return ("patient unknown of listed images",)

    def labels_of(self, split: str) -> list[Any]:
        """Class index (multilabel: vector) of each slice of a split whose data set was made."""
        return self._slices[split].labels if split in self._slices else []

    def patients_of(self, split: str) -> list[str]:
        """Of each slice of a split "": the patients are unknown."""
        return [""] * len(self.labels_of(split))

    def dataset(
        self,
        split: str,
        transform: Callable[[dict[str, Any]], Any],
        optional: bool = False,
        balanced: bool = False,
        data: Listed | None = None,
    ) -> Dataset[dict[str, Any]]:
        """See `labelled_dataset`; without a list, of the slices that were listed for the split before."""
        if getattr(transform, "channel_spacing_mm", 0):
            raise ConfigError(
                "channel_spacing_mm: listed images are read without ingestion, which finds neighbouring slices; give a "
                "label table as dataset_dir, or channel_spacing_mm=0"
            )
        if data:
            self._slices[split] = ListedSlices(data, self.classes, task=self.task)
            self._digest.update(self._slices[split].fingerprint.encode())
        slices = self._slices.get(split)
        if slices is None:
            if not optional:
                raise LabelError(
                    f"{split}: no labelled image is listed, and there is no label table; label some images, or give "
                    "--dataset_dir labels.csv"
                )
            return cast("Dataset[dict[str, Any]]", [])
        order = balanced_positions(slices.labels, len(self.classes)) if balanced else slices.order
        return slices.arranged(order, transform)


class ListedSlices(EpochDataset):
    """Every axial slice of the listed images, with its image's label; kept compressed in memory.

    Items are those of `SliceDataset`. ``series_id`` is the image's place in the list, and ``patient`` empty: a file's
    name may be a patient's.

    Args:
        data: ``[{"image": path, "label": label}, …]``; for labels see `class_numbers`.
        classes: names in the order of the network's outputs.
        transform: applied to each item.
        task: ``multiclass`` or ``multilabel``.

    Raises:
        LabelError: a label is none of the classes.
        InputError: an image cannot be read.
    """

    def __init__(
        self,
        data: Listed,
        classes: Sequence[str],
        transform: Callable[[dict[str, Any]], Any] | None = None,
        task: str = "multiclass",
    ) -> None:
        self.transform = transform
        self.labels: list[Any] = []
        self._slices: list[tuple[int, int, tuple[int, int], bytes]] = []
        digest = hashlib.sha256()
        numbers = [class_numbers(item["label"], classes, task) for item in data]  # before the images are read
        for place, (item, held) in enumerate(zip(data, numbers, strict=True)):
            volume = read_volume(item["image"])
            digest.update(np.asarray([*volume.shape, *held], dtype=np.int64).tobytes() + volume.tobytes())
            for number, image in enumerate(volume):
                packed = blosc2.compress2(image.tobytes(), typesize=2)
                self._slices.append((place, number, image.shape, packed))
                self.labels.append(_vector(held, len(classes)) if task == "multilabel" else held[0])
        self.fingerprint = digest.hexdigest()
        self.order: Sequence[int] = range(len(self._slices))
        super().__init__(len(self.order))

    def arranged(self, order: Sequence[int], transform: Callable[[dict[str, Any]], Any] | None) -> "ListedSlices":
        """The same slices in another order, in which some may be repeated, with another transform."""
        other = copy.copy(self)
        other.order, other.transform = order, transform
        EpochDataset.__init__(other, len(order))
        return other

    def __getitem__(self, key: SampleKey | int) -> Any:
        epoch, index = self.sample_key(key)
        position = self.order[index]
        place, number, shape, packed = self._slices[position]
        image = np.frombuffer(blosc2.decompress2(packed), dtype=np.int16).reshape(1, *shape)
        item: dict[str, Any] = {
            "image": torch.from_numpy(image.copy()),
            "index": index,
            "epoch": epoch,
            "spacing_mm": torch.full((2,), torch.nan),
            "window_level": float("nan"),
            "window_width": float("nan"),
            "modality": "CT",
            "series_id": f"listed-{place:05d}",
            "patient": "",
            "slice": number,
            "label": self.labels[position],
        }
        return item if self.transform is None else self.transform(item)


def read_volume(path: str | Path) -> npt.NDArray[np.int16]:
    """HU (slices, rows, columns) of a NIfTI file, a DICOM file or a folder of one DICOM series.

    Rows run towards posterior, columns towards the patient's left, slices towards the head; below air is air.

    Raises:
        InputError: MONAI cannot read it.
    """
    chain = Compose(
        [
            LoadImage(image_only=True),
            EnsureChannelFirst(),
            Lambda(lambda x: x if x.ndim == 4 else x[..., None]),
            Orientation(axcodes="LPS", labels=None),
        ]
    )
    try:
        image = torch.as_tensor(chain(str(path)))
    except Exception as error:
        raise InputError(
            f"image {Path(path).name}: not readable as NIfTI or DICOM ({type(error).__name__}); list files that are"
        ) from error
    volume: npt.NDArray[np.int16] = image[0].permute(2, 1, 0).clamp(-1024, 32767).round().to(torch.int16).numpy()
    return volume


def class_numbers(label: Any, classes: Sequence[str], task: str = "multiclass") -> list[int]:
    """Places in `classes` of what a label says: one for ``multiclass``, any number for ``multilabel``.

    Args:
        label: a place, a name (``a|b`` for several), a list of these, ``{"label": …}``, the answer of a classifier
            (``{"prediction": [{"label": …, "score": …}, …]}``, whose largest score holds), or the path of a file that
            says one of these as JSON or as plain text.
        classes: names in the order of the network's outputs.
        task: ``multiclass`` or ``multilabel``.

    Raises:
        LabelError: it is none of the classes, or not exactly one where one is needed.
    """
    said = _said(label)
    parts = said if isinstance(said, (list, tuple)) else str(said).split("|") if isinstance(said, str) else [said]
    found = sorted({_place(part, classes) for part in parts if part != ""})
    if task == "multiclass" and len(found) != 1:
        raise LabelError(f"label {said!r}: must name one class of {', '.join(classes)}, found {len(found)}; correct it")
    return found


def _said(label: Any) -> Any:
    """What a label says, out of its file and its wrapping."""
    if isinstance(label, Path) or (isinstance(label, str) and Path(label).is_file()):
        try:
            text = Path(label).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise LabelError(
                f"label file {Path(label).name}: must hold a class as text or JSON, found something else; label again"
            ) from error
        try:
            return _said(json.loads(text))
        except ValueError:
            return text
    if isinstance(label, Mapping):
        if "label" in label:
            return label["label"]
        scores = label.get("prediction")
        if isinstance(scores, list) and scores:
            return max(scores, key=lambda one: float(one["score"]))["label"]
    return label


def _place(part: Any, classes: Sequence[str]) -> int:
    lowered = [name.lower() for name in classes]  # MONAI Label lowers the names it serves
    if isinstance(part, str) and (name := class_named(part).strip().lower()) in lowered:
        return lowered.index(name)
    number = int(part) if isinstance(part, str) and part.strip().isdecimal() else part
    if isinstance(number, int) and not isinstance(number, bool) and 0 <= number < len(classes):
        return number
    raise LabelError(
        f"label {str(part)[:64]!r}: must be a class of {', '.join(classes)} or its place, found another; correct it"
    )


def _vector(held: Sequence[int], count: int) -> npt.NDArray[np.float32]:
    vector = np.zeros(count, dtype=np.float32)
    vector[list(held)] = 1
    return vector
