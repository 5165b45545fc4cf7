"""The network of a server: a complete classifier, or a bare encoder that only embeds.

Shapes: N slices, C classes, D features (the network's last before the classification layer).
"""

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import nn

from medssl_monai.checkpoints.load import load_encoder
from medssl_monai.checkpoints.start import start_from
from medssl_monai.classify.answers import AnswerRule
from medssl_monai.classify.features import embed
from medssl_monai.errors import CheckpointError
from medssl_monai.ingest.volumes.digest import file_digest
from medssl_monai.networks.classifier import classifier, load_classifier
from medssl_monai.statistics.temperature import probabilities_of
from medssl_monai.store.dataset import SliceDataset
from medssl_monai.store.reader import SliceStore
from medssl_monai.transforms import LabelledViewd

logger = logging.getLogger(__name__)

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ModelView:
    """A network's architecture, classes and preprocessing; ``classes`` is empty for an encoder."""

    arch: str
    image_size: int
    classes: tuple[str, ...]
    window: Any
    mean: Any
    std: Any
    task: str = "multiclass"
    channel_spacing_mm: float = 0.0


@dataclass(frozen=True)
class Look:
    """Outputs of a network for slices: probabilities (N, C), None for an encoder; and features (N, D)."""

    slices: tuple[int, ...]
    probabilities: Floats | None
    features: Floats
    task: str = "multiclass"

    @property
    def pooling(self) -> str:
        """How slices become a study, as in the bundle's ``inference.yaml``."""
        return self._rule.pooling

    @property
    def _rule(self) -> AnswerRule:
        return AnswerRule((), self.task)

    @property
    def study(self) -> Floats:
        """The study's probabilities (C,)."""
        assert self.probabilities is not None
        return self._rule.pooled(self.probabilities.astype(np.float64)).astype(np.float32)


def read_model_view(root: Path) -> ModelView:
    """The settings of a run or bundle of ct_classification, read from its ``configs/``.

    Raises:
        CheckpointError: the folder is not a complete run or bundle.
    """
    settings: dict[str, Any] = {}
    for name in ("inference", "predict"):
        file = root / "configs" / f"{name}.yaml"
        if file.is_file():
            settings |= yaml.safe_load(file.read_text(encoding="utf-8"))
    wanted = ("arch", "image_size", "classes", "window", "mean", "std")
    missing = [name for name in wanted if name not in settings]
    if missing or not (root / "models" / "model.pt").is_file():
        what = f"its configs/ lack {missing[0]}" if missing else "it has no models/model.pt"
        raise CheckpointError(
            f"{root.name}: must be the folder of a finished `medssl finetune` or of a packed ct_classification bundle, "
            f"found that {what}; an encoder alone cannot classify: give it as --encoder, and train on labels"
        )
    return ModelView(
        arch=str(settings["arch"]),
        image_size=int(settings["image_size"]),
        classes=tuple(settings["classes"]),
        window=settings["window"],
        mean=settings["mean"],
        std=settings["std"],
        task=str(settings.get("task", "multiclass")),
        channel_spacing_mm=float(settings.get("channel_spacing_mm", 0)),
    )


def check_model(root: Path) -> ModelView:
    """Load every tensor of a classifier as the server would, to check it.

    Raises:
        CheckpointError: weights are missing or do not fit, such as those of a bare encoder or of other classes.
    """
    view = read_model_view(root)
    load_classifier(classifier(view.arch, len(view.classes)), root)
    return view


class ServedNetwork:
    """A network on a device. It is read again when its file changes, and used by one thread at a time.

    Args:
        link: the run or bundle that is served (`Workspace.current_model`), or for an encoder its file or run.
        device: cpu or cuda.
        encoder: the folder or file holds an encoder alone.

    Raises:
        CheckpointError: (at its use) weights are missing or do not fit; random weights are never served.
    """

    def __init__(self, link: Path, device: str, *, encoder: bool = False) -> None:
        self.link, self.encoder = link, encoder
        self.device = torch.device(device if torch.cuda.is_available() else "cpu")
        self._lock = threading.Lock()
        self._stamp: tuple[Any, ...] | None = None
        self._loaded: tuple[ModelView, nn.Module, str] | None = None

    @property
    def exists(self) -> bool:
        """Whether the file exists."""
        return self.file.is_file() if not self.encoder else self.link.exists()

    @property
    def usable(self) -> bool:
        """Whether all of it loads."""
        try:
            return self.exists and bool(self.view.arch)
        except CheckpointError as error:
            logger.error("the classifier cannot be served: %s", error)
            return False

    @property
    def file(self) -> Path:
        """The classifier's weights."""
        return self.link.resolve() / "models" / "model.pt"

    @property
    def view(self) -> ModelView:
        """Settings of the loaded network."""
        return self._load()[0]

    @property
    def fingerprint(self) -> str:
        """Of the weights; cached outputs of other weights are not used."""
        return self._load()[2]

    def look(self, store: SliceStore, rows: Sequence[Mapping[str, Any]]) -> Look:
        """Outputs for slices of a store, in their order."""
        view, network, _ = self._load()
        dataset = SliceDataset(store, rows=rows, transform=_view_of(view))
        with self._lock:
            seen = embed(network, dataset, stages=("avgpool",))
        return Look(
            slices=tuple(seen.slices),
            probabilities=probabilities_of(seen.outputs, view.task).astype(np.float32) if view.classes else None,
            features=seen.features,
            task=view.task,
        )

    def evidence(self, store: SliceStore, rows: Sequence[Mapping[str, Any]], class_index: int) -> list[Floats]:
        """Grad-CAM of each slice for a class, on the slice's own pixels: (H, W) in [0, 1], see `grad_cam`."""
        from medssl_monai.classify.explain import grad_cam
        from medssl_monai.classify.heat_maps import on_slice

        view, network, _ = self._load()
        plain = SliceDataset(store, rows=rows, channel_spacing_mm=view.channel_spacing_mm)
        seen = _view_of(view)
        maps = []
        with self._lock:
            for i in range(len(plain)):
                item = plain[i]
                heat = grad_cam(network, seen(item)["image"], class_index)
                height, width = item["image"].shape[1:]
                maps.append(on_slice(heat, (height, width)).astype(np.float32))
        return maps

    def _load(self) -> tuple[ModelView, nn.Module, str]:
        with self._lock:
            stamp = self._file_stamp()
            if self._loaded is None or stamp != self._stamp:
                self._loaded = None  # if the new file cannot be loaded, the old one must not answer
                self._loaded = self._read_encoder() if self.encoder else self._read_classifier()
                self._stamp = stamp
            return self._loaded

    def _file_stamp(self) -> tuple[Any, ...]:
        file = self.link if self.encoder else self.file
        if not file.exists():
            raise CheckpointError(
                "no classifier is served yet: label studies and POST /train/finetuning, or start with --model"
            )
        status = file.stat()
        return file.resolve(), status.st_mtime_ns, status.st_size, status.st_ino

    def _read_classifier(self) -> tuple[ModelView, nn.Module, str]:
        root = self.link.resolve()
        view = read_model_view(root)
        network = classifier(view.arch, len(view.classes))
        load_classifier(network, root)
        return view, network.to(self.device).eval(), file_digest(self.file)

    def _read_encoder(self) -> tuple[ModelView, nn.Module, str]:
        state, report = load_encoder(self.link)
        prepared = start_from(self.link, default={"window": "wide", "mean": 0.25, "std": 0.25}).prepared
        network = classifier(report.arch, 1)
        network.load_state_dict(state, strict=False)  # all but the classification layer, as load_encoder has checked
        network.fc = nn.Identity()
        view = ModelView(
            *(report.arch, 224, (), prepared.window, prepared.mean, prepared.std),
            channel_spacing_mm=prepared.channel_spacing_mm or 0.0,
        )
        return view, network.to(self.device).eval(), report.fingerprint


def _view_of(view: ModelView) -> LabelledViewd:
    return LabelledViewd(
        "image",
        image_size=view.image_size,
        window=view.window,
        mean=view.mean,
        std=view.std,
        channel_spacing_mm=view.channel_spacing_mm,
        augment=False,
    )
