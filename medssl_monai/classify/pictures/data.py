"""Labelled pictures as published, ready for a dataset: what `LabelledData` is for the slices of a store.

Shapes: N pictures, each (H, W), (H, W, 3) or (H, W, 4), uint8.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import Dataset

from medssl_monai.classify.classes import balanced_positions
from medssl_monai.classify.pictures.files import Bytes, ImageFiles
from medssl_monai.classify.pictures.kept_views import KEPT_VIEWS
from medssl_monai.classify.pictures.view import ImageViewd
from medssl_monai.errors import LabelError
from medssl_monai.labels.subsets import Unit, nested_subset
from medssl_monai.store.epochs import EpochDataset, SampleKey


class ImageDataset(EpochDataset):
    """Pictures as items like those of `SliceDataset`.

    ``image`` uint8 (3, H, W), ``label`` int (float32 (C,) of several labels), ``patient`` ("" where unknown),
    ``series_id`` (``image-000012``), ``slice`` 0, ``index``, ``epoch``; then ``transform``. What an `ImageViewd`
    makes of a file before it draws anything is kept in memory, see `KeptViews`.
    """

    def __init__(
        self, data: "ImageData", positions: Sequence[int], transform: Callable[[dict[str, Any]], Any] | None = None
    ) -> None:
        self.data, self.positions, self.transform = data, list(positions), transform
        super().__init__(len(self.positions))

    def __getitem__(self, key: int | SampleKey) -> Any:
        epoch, index = self.sample_key(key)
        place = self.positions[index]
        item = {
            "label": self.data.label(place),
            "patient": self.data.patients[place],
            **dict(zip(("series_id", "slice"), self.data.key(place), strict=True)),
            "index": index,
            "epoch": epoch,
        }
        if type(self.transform) is ImageViewd and isinstance(self.data.images, ImageFiles):  # a subclass may do more
            return self.transform.drawn(item, self._view(self.data.images, place, self.transform))
        item["image"] = self._picture(place)
        return item if self.transform is None else self.transform(item)

    def _picture(self, place: int) -> torch.Tensor:
        picture = np.atleast_3d(self.data.images[place])[:, :, :3]
        return torch.from_numpy(np.array(picture.transpose(2, 0, 1))).expand(3, -1, -1)

    def _view(self, files: ImageFiles, place: int, view: ImageViewd) -> torch.Tensor:
        return KEPT_VIEWS.get(
            (files.root, *view.settings), files.state_of(place), lambda: view.view(self._picture(place))
        )


@dataclass(frozen=True)
class ImageData:
    """A published data set of labelled pictures.

    Attributes:
        name: of the data set.
        classes: in the order of the network's outputs.
        images: N pictures.
        labels: (N,) class indices, or (N, C) float32 with 1 where a class holds; several may.
        patients: per picture, "" where unknown.
        splits: positions of the pictures of ``train``, ``validation`` and ``test``, in order.
        statements: what is unknown or was chosen, as sentences.
        left_out: number of files that are in no split, by the reason.
        folds: parts of the cross-validation that the splits are one fold of; 0 where the splits are the data set's own.
    """

    name: str
    classes: list[str]
    images: Sequence[Bytes] | Bytes
    labels: npt.NDArray[Any]
    patients: Sequence[str]
    splits: Mapping[str, Sequence[int]]
    statements: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    folds: int = 0

    @property
    def fingerprint(self) -> str:
        """SHA-256 over names, labels and splits; of the pixels only their number takes part."""
        digest = hashlib.sha256(f"{self.name} {self.classes} {len(self.images)}".encode())
        digest.update(np.asarray(self.labels, dtype=np.int64).tobytes())  # several labels: 0 and 1
        for split in sorted(self.splits):
            digest.update(split.encode() + np.asarray(self.splits[split], dtype=np.int64).tobytes())
        return digest.hexdigest()

    def key(self, place: int) -> tuple[str, int]:
        """What a picture is called where series and slices are: a number and 0."""
        return f"image-{place:06d}", 0

    def files_by_key(self) -> dict[str, str]:
        """`file_of` of every picture, by what it is called instead of a series."""
        return {self.key(place)[0]: self.file_of(place) for place in range(len(self.images))}

    def file_of(self, place: int) -> str:
        """Path of a picture from the data set's folder; of arrays the place in them."""
        return self.images.name(place) if isinstance(self.images, ImageFiles) else f"{self.name}[{place}]"

    def label(self, place: int) -> Any:
        """Class index of a picture, or the vector (C,) of several labels."""
        return int(self.labels[place]) if self.labels.ndim == 1 else self.labels[place]

    def labels_of(self, split: str) -> list[Any]:
        """Class index (several labels: vector) of each picture of a split, in the order of its dataset."""
        return [self.label(i) for i in self.splits.get(split, ())]

    def patients_of(self, split: str) -> list[str]:
        """Patient of each picture of a split, "" where unknown."""
        return [self.patients[i] for i in self.splits.get(split, ())]

    def subset(self, fraction: float, *, unit: Unit = "slices", seed: int = 0) -> "ImageData":
        """The same with a share of the training pictures, see `nested_subset`."""
        train = list(self.splits["train"])
        chosen = nested_subset(self.labels[train], [self.patients[i] for i in train], fraction, unit=unit, seed=seed)
        return replace(self, splits={**self.splits, "train": [train[i] for i in chosen]})

    def dataset(
        self,
        split: str,
        transform: Callable[[dict[str, Any]], Any] | None = None,
        optional: bool = False,
        balanced: bool = False,
    ) -> Dataset[dict[str, Any]]:
        """A split as a dataset.

        Args:
            split: train, validation or test.
            transform: applied to each item.
            optional: an empty split gives an empty dataset.
            balanced: the pictures of rare classes come again until all classes are as common.

        Raises:
            LabelError: the split is empty and not optional.
        """
        positions = self.splits.get(split, ())
        if balanced and len(positions):
            positions = [positions[i] for i in balanced_positions(self.labels_of(split), len(self.classes))]
        if len(positions):
            return ImageDataset(self, positions, transform)
        if not optional:
            raise LabelError(f"{self.name}: the split {split!r} holds no picture; it has {', '.join(self.splits)}")
        return cast("Dataset[dict[str, Any]]", [])
