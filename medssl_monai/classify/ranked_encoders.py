"""Ranks the kept encoders of pre-training runs by a measure without labels; measures those that were not measured."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medssl_monai.checkpoints.load import load_encoder, put_into_resnet
from medssl_monai.classify.label_free import MeasuredSlices
from medssl_monai.errors import CheckpointError, InputError
from medssl_monai.mappings import read_run_record
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.progress import progress_bar
from medssl_monai.runs.folder import kept_encoder
from medssl_monai.runs.step_log import StepLog, read_rows
from medssl_monai.statistics.encoder_measures import MEASURES, check_measure
from medssl_monai.store.places import store_at
from medssl_monai.store.reader import SliceStore

COMPARED = ("arch", "image_size", "window", "mean", "std", "channel_spacing_mm", "filters")
"""Settings that decide what an encoder is measured on and how long its features are."""


@dataclass(frozen=True)
class _Run:
    """A run with the files of its encoders by epoch, and the rows of those that were measured on the same slices."""

    folder: Path
    record: Mapping[str, Any]
    files: Mapping[int, Path]
    rows: Sequence[Mapping[str, Any]]

    @property
    def not_measured(self) -> list[int]:
        return sorted(self.files.keys() - {row["epoch"] for row in self.rows})

    @property
    def compared(self) -> dict[str, Any]:
        """What must be the same in runs that are compared."""
        settings = {name: self.record["settings"].get(name) for name in COMPARED}
        return {**settings, "store": self.rows[0]["data"][:16], "slices": self.rows[0]["slices"]}


def rank_encoders(runs: Sequence[str | Path], measure: str, data: str | Path | None = None) -> dict[str, Any]:
    """Rank the encoders that runs kept (``keep_interval``), or the last one of a run that kept none.

    Encoders are compared where they have one architecture and were measured on the same slices and views. Without
    `data` these are the slices of the run itself, measured while it ran.

    Args:
        runs: folders of pre-training runs.
        measure: a name of `MEASURES`.
        data: a store, on which all encoders are measured; what is measured is added to ``RUN/logs/measures.jsonl``.

    Returns:
        ``measure``; ``groups`` of encoders that can be compared, each with ``encoders`` (``rank`` from 1, ``run``,
        ``epoch`` and the values of `MEASURES`, best first) and ``differs``, a sentence that says why they are not in
        the first group; ``not_measured``, the epochs of each run that has such.

    Raises:
        ConfigError: no such measure.
        CheckpointError: a folder is no pre-training run, or has no encoder yet.
        InputError: no encoder was measured, and there is no `data`.

    Example:
        >>> found = rank_encoders(["runs/spark", "runs/swav"], "lidar", data="STORE")  # doctest: +SKIP
        >>> found["groups"][0]["encoders"][0]["run"]  # doctest: +SKIP
        'runs/swav'
    """
    check_measure(measure, "--measure")
    store = None if data is None else store_at(data)
    opened = [_opened(Path(run), store) for run in runs]
    measured = [run for run in opened if run.rows]
    if not measured:
        raise InputError(
            f"rank: no encoder of {', '.join(str(run.folder) for run in opened)} was measured; give --data STORE, on "
            "which they will be"
        )
    together: dict[tuple[str, str], list[_Run]] = {}
    for run in measured:
        together.setdefault((run.compared["arch"], run.compared["slices"]), []).append(run)
    return {
        "measure": measure,
        "groups": [
            {"encoders": _ranked(group, measure), "differs": _difference(measured[0], group)}
            for group in together.values()
        ],
        "not_measured": {str(run.folder): run.not_measured for run in opened if run.not_measured},
    }


def _opened(folder: Path, store: SliceStore | None) -> _Run:
    """A run, with its encoders measured on `store` if one is given."""
    record = read_run_record(folder)
    if not str(record.get("bundle")).startswith("ct_ssl_"):
        raise CheckpointError(
            f"{folder}: must be the folder of a pre-training run, found {record.get('bundle') or 'no run.json'}; give "
            "the --out folder of a `medssl pretrain`"
        )
    history = read_rows(folder / "logs" / "history.jsonl")
    last, final = record["settings"]["max_epochs"], folder / "models" / "encoder.safetensors"
    epochs = sorted(
        int(file.stem.removeprefix("epoch-")) for file in (folder / "models/kept").glob("epoch-[0-9]*.safetensors")
    )
    files = {epoch: kept_encoder(folder, epoch) for epoch in epochs} or {last: final}
    if not history or not all(file.is_file() for file in files.values()):
        raise CheckpointError(f"{folder}: has no encoder yet; let the run finish, or give it keep_interval=N")
    log = StepLog(folder, "measures")
    log.rows = [row for row in read_rows(log.path) if row["epoch"] in files]
    if store is None:
        own = [row for row in log.rows if row["data"] == record.get("data_fingerprint")]
        return _Run(folder, record, files, [row for row in own if row["slices"] == own[-1]["slices"]])
    settings = record["settings"]
    view = {name: settings[name] for name in ("image_size", "window", "mean", "std")}
    view["channel_spacing_mm"] = settings.get("channel_spacing_mm", 0)
    slices = MeasuredSlices(store, settings.get("filters"), **view)
    known = {row["epoch"]: row for row in log.rows if row["slices"] == slices.digest}
    missing = sorted(files.keys() - known.keys())
    for epoch in progress_bar(missing, desc=f"encoders of {folder.name}", unit="encoder", shown=bool(missing)):
        state, report = load_encoder(files[epoch])
        encoder = resnet_encoder(report.arch)
        put_into_resnet(encoder, state, report)
        step = int(report.metadata.get("step", history[-1]["step"]))
        about = {"step": step, "epoch": epoch, "data": store.fingerprint, "slices": slices.digest}
        known[epoch] = {**about, **slices.measure(encoder)}
        log.rows = sorted([*log.rows, known[epoch]], key=lambda row: int(row["step"]))
        log.write()
    return _Run(folder, record, files, [known[epoch] for epoch in sorted(known)])


def _ranked(group: Sequence[_Run], measure: str) -> list[dict[str, Any]]:
    """The encoders of runs, best first; those without a value last, with the rank None."""
    rows = [
        {"rank": None, "run": str(run.folder), "epoch": row["epoch"], **{name: row.get(name) for name in MEASURES}}
        for run in group
        for row in run.rows
    ]
    valued = [row for row in rows if row[measure] is not None]
    valued.sort(key=lambda row: MEASURES[measure].order(row[measure]), reverse=True)
    return [{**row, "rank": i + 1} for i, row in enumerate(valued)] + [row for row in rows if row[measure] is None]


def _difference(first: _Run, group: Sequence[_Run]) -> str:
    """Why the runs of a group are not compared with the first of all; "" where they are."""
    if first in group:
        return ""
    here, there = group[0].compared, first.compared
    differs = [f"{name} {here[name]}, not {there[name]}" for name in (*COMPARED, "store") if here[name] != there[name]]
    names = ", ".join(str(run.folder) for run in group)
    return f"{names}: not compared with {first.folder}, because of {'; '.join(differs) or 'other slices'}"
