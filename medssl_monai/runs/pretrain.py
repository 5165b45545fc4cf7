"""Pre-train an encoder by one of the shipped methods: the method's bundle, run in this process."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.errors import CheckpointError, ConfigError, suggestion
from medssl_monai.resources import bundle_dir, config_files
from medssl_monai.runs.bundle import run_bundle
from medssl_monai.runs.settings import place_given
from medssl_monai.runs.step_log import embedding_line, probe_line, read_rows
from medssl_monai.store.joined import JoinedStore
from medssl_monai.store.reader import SliceStore

METHODS = ("spark", "swav", "moco", "byol")


@dataclass(frozen=True)
class PretrainedRun:
    """A pre-training run on disk. Figures are read from its folder when they are asked for.

    An earlier run opens in the same way: ``PretrainedRun(Path("runs/spark")).loss``.

    Attributes:
        folder: the run, itself a bundle.
    """

    folder: Path

    @property
    def encoder(self) -> Path:
        """The weights: a safetensors file in torchvision's names. `load_into_resnet` takes it, and the folder too."""
        return self.folder / "models" / "encoder.safetensors"

    @property
    def loss(self) -> float:
        """Training loss of the last step."""
        return float(self._look("history")[-1]["loss"])

    @property
    def probes(self) -> list[dict[str, Any]]:
        """The last look at the frozen features, an entry a label.

        Each has ``step``, ``label``, the balanced accuracies ``knn`` and ``linear`` in [0, 1], ``chance`` and
        ``left_out``. Empty where no label tells the slices apart.
        """
        return self._look("probes")

    @property
    def collapse(self) -> dict[str, Any]:
        """The collapse guard's last look: ``collapsed`` (bool), ``embedding_std``, ``effective_rank`` and others.

        Empty where the guard never looked, because ``guard_interval`` exceeds the run's epochs.
        """
        return next(iter(self._look("collapse")), {})

    @property
    def measures(self) -> list[dict[str, Any]]:
        """The kept encoders, an entry each: ``epoch``, ``step`` and the values of `MEASURES`; see ``keep_interval``."""
        return read_rows(self.folder / "logs" / "measures.jsonl")

    def summary(self) -> list[str]:
        """Loss, probes against chance and the collapse guard's last figures, one sentence a line."""
        last = self._look("history")[-1]
        lines = [f"training loss {last['loss']:.4f} at step {last['step']}", *map(probe_line, self.probes)]
        return [*lines, embedding_line(self.collapse)] if self.collapse else lines

    def _look(self, log: str) -> list[dict[str, Any]]:
        """The entries of a log that share its last step."""
        path = self.folder / "logs" / f"{log}.jsonl"
        if log == "history" and not path.is_file():
            raise CheckpointError(f"{self.folder}: must be a pre-training run, and {path.name} is missing; pre-train")
        entries = read_rows(path)
        return [entry for entry in entries if entry["step"] == entries[-1]["step"]]


def pretrain(
    method: str,
    data: str | Path | SliceStore | Sequence[str | Path],
    out: str | Path,
    *,
    config: str | Path | Sequence[str | Path] = (),
    **settings: Any,
) -> PretrainedRun:
    """Pre-train an encoder without labels. A stopped run carries on when it is called again with the same arguments.

    Example:
        >>> run = pretrain("spark", "STORE", "runs/spark", config="demo", max_epochs=20)  # doctest: +SKIP
        >>> run.encoder, run.loss  # doctest: +SKIP
        (PosixPath('runs/spark/models/encoder.safetensors'), 0.41)

    Args:
        method: ``spark``, ``swav``, ``moco`` or ``byol``.
        data: a slice store, or several in a list; or a folder of DICOM, NIfTI, NRRD or MHA files, which is ingested
            once into a cache.
        out: folder of the run.
        config: overlays, merged in this order: YAML files, or names in ``configs/`` such as ``demo``.
        settings: top-level keys of the method's bundle, such as ``arch``, ``max_epochs`` or ``window``; they win over
            the overlays.

    Raises:
        ConfigError: the method, an overlay, or a setting does not exist or has a value that cannot be.
        StoreError, NoImagesError: the data hold no slice that the filters leave.
        DivergedError: the loss is no longer finite; the last good checkpoint is kept.
    """
    if method not in METHODS:
        hint = suggestion(method, METHODS)
        raise ConfigError(f"method {method!r}: must be one of {', '.join(METHODS)}{hint}; choose one")
    overlays = config_files(config)
    places = {
        "dataset_dir": _places(data),
        "output_dir": place_given(out, "out"),
        "overlays": [str(path) for path in overlays],
    }
    run_bundle([bundle_dir(f"ct_ssl_{method}") / "configs" / "train.yaml", *overlays], {**places, **settings})
    return PretrainedRun(Path(out))


def _places(data: Any) -> str | list[str]:
    if isinstance(data, (list, tuple)) and data:
        return [place_given(one, "data") for one in data] if len(data) != 1 else _places(data[0])
    if isinstance(data, JoinedStore):
        return [store.place for store in data.stores]
    return place_given(data.place if isinstance(data, SliceStore) else data, "data")
