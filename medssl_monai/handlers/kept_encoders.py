"""Keeps encoders on the way, measures each without labels, and chooses the one that is exported."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ignite.engine import Engine, Events
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import nn

from medssl_monai.checkpoints.export import export_encoder
from medssl_monai.checkpoints.load import load_encoder, put_into_resnet
from medssl_monai.classify.label_free import MeasuredSlices
from medssl_monai.drawing import picture_text, save_figure
from medssl_monai.errors import ConfigError
from medssl_monai.networks.resnet import resnet_encoder
from medssl_monai.processes import process_rank
from medssl_monai.runs.folder import kept_encoder
from medssl_monai.runs.step_log import StepLog
from medssl_monai.statistics.encoder_measures import MEASURES, NONE, best_of, check_measure

logger = logging.getLogger(__name__)


class KeptEncoders:
    """Keeps the encoder every ``interval`` epochs and at the end of the last round; measures it (`MeasuredSlices`).

    Writes ``OUTPUT_DIR/models/kept/epoch-0010.safetensors`` and so on, ``OUTPUT_DIR/logs/measures.jsonl``, a line for
    each, and ``OUTPUT_DIR/figures/measures.png``. A resumed run keeps and chooses what an uninterrupted one does.

    Args:
        encoder: that is trained.
        output_dir: the run's folder.
        metadata: of the weights, see `export_encoder`.
        slices: on which it is measured; None keeps none.
        interval: epochs between two kept encoders; None keeps none.
        keep_best_by: a measure by which the exported encoder is chosen, or ``none`` for the last.

    Raises:
        ConfigError: there is no such measure, nothing is kept to choose from, or the slices do not allow the measure.
    """

    def __init__(
        self,
        encoder: nn.Module,
        output_dir: str | Path,
        metadata: Mapping[str, str],
        slices: MeasuredSlices | None = None,
        interval: int | None = None,
        keep_best_by: str = NONE,
    ) -> None:
        self.measure = check_measure(keep_best_by, "keep_best_by", [NONE])
        if self.measure != NONE and (interval is None or slices is None):
            raise ConfigError(
                f"keep_best_by: {keep_best_by} chooses among kept encoders, and keep_interval=null keeps none; give "
                "for instance keep_interval=10"
            )
        if slices is not None and self.measure in slices.undefined:
            raise ConfigError(
                f"keep_best_by: {self.measure} cannot be measured on these data, because "
                f"{slices.undefined[self.measure]}; choose another measure"
            )
        self.encoder, self.slices, self.interval = encoder, slices, interval
        self.output_dir, self.metadata = Path(output_dir), dict(metadata)
        self.log = StepLog(output_dir, "measures")

    def attach(self, engine: Engine) -> None:
        """Register with a trainer."""
        if self.interval is not None and self.slices is not None:
            engine.add_event_handler(Events.EPOCH_STARTED, self._resume)
            engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)
            engine.add_event_handler(Events.COMPLETED, self._finish)

    def __call__(self, engine: Any) -> None:
        """Keep and measure now, in the first process."""
        if process_rank() > 0 or self.slices is None:
            return
        epoch, step = engine.state.epoch, engine.state.iteration
        header = {**self.metadata, "epoch": str(epoch), "step": str(step)}
        export_encoder(self.encoder, kept_encoder(self.output_dir, epoch), metadata=header)
        values = self.slices.measure(self.encoder)
        about = {"data": self.slices.store.fingerprint, "slices": self.slices.digest}
        self.log.write({"step": step, "epoch": epoch, **about, **values})
        draw_measures(self._kept(), self.measure, self.output_dir / "figures" / "measures.png")

    def chosen(self) -> nn.Module:
        """The encoder to export: the best kept one by ``keep_best_by``, or the one that was trained last."""
        row = self._best()
        if row is None:
            return self.encoder
        state, report = load_encoder(kept_encoder(self.output_dir, row["epoch"]))
        network = resnet_encoder(report.arch)
        put_into_resnet(network, state, report)
        return network

    def choice(self) -> dict[str, str]:
        """For the header of the exported weights: which encoder they are, if not the last; this is logged."""
        row = self._best()
        if row is None:
            return {}
        last = self._kept()[-1]
        logger.info(
            "exported is the encoder of epoch %d of %d: its %s is %.4g, that of the last %.4g",
            row["epoch"],
            last["epoch"],
            MEASURES[self.measure].meaning,
            row[self.measure],
            last[self.measure],
        )
        return {"epoch": str(row["epoch"]), "keep_best_by": self.measure}

    def _best(self) -> Mapping[str, Any] | None:
        return None if self.measure == NONE or process_rank() > 0 else best_of(self._kept(), self.measure)

    def _kept(self) -> list[dict[str, Any]]:
        """Rows of the encoders that are there, measured on the slices of this run."""
        digest = None if self.slices is None else self.slices.digest
        rows = (row for row in self.log.rows if row["slices"] == digest)
        return [row for row in rows if kept_encoder(self.output_dir, row["epoch"]).is_file()]

    def _resume(self, engine: Any) -> None:
        self.log.resume(engine)
        if process_rank() == 0:  # what a lost part of the run, or a run before resume=false, left behind
            for file in (self.output_dir / "models" / "kept").glob("epoch-[0-9]*.*"):
                if int(file.name.split(".")[0].removeprefix("epoch-")) >= engine.state.epoch:
                    file.unlink()

    def _finish(self, engine: Any) -> None:
        if getattr(engine, "more_rounds", False):
            return
        self.log.resume(engine)  # a finished run that is started again has no epoch
        kept = self._kept()
        if not kept or kept[-1]["step"] != engine.state.iteration:
            self(engine)


def as_handler(kept: KeptEncoders) -> KeptEncoders:
    """The handler itself, for ``train#handlers``: MONAI and overlays look for the keys of each entry there."""
    return kept


def draw_measures(rows: list[dict[str, Any]], chosen_by: str, path: Path) -> None:
    """Draw each measure over the epochs, a panel each; a ring marks the best, and a star the one that is exported.

    Args:
        rows: of ``measures.jsonl``.
        chosen_by: the run's ``keep_best_by``.
        path: PNG to write.
    """
    shown = [name for name in MEASURES if any(row[name] is not None for row in rows)]
    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(2, 4).ravel()
    for axes, name in zip(panels, shown, strict=False):
        measure = MEASURES[name]
        axes.plot([row["epoch"] for row in rows], [row[name] for row in rows], "-o", ms=4, color="tab:blue")
        best = best_of(rows, name)
        if best is not None:
            style = {"marker": "*", "ms": 14} if name == chosen_by else {"marker": "o", "ms": 10, "mfc": "none"}
            axes.plot(best["epoch"], best[name], color="tab:red", **style)
        better = "higher" if measure.higher_is_better else "lower"
        axes.set_title(f"{picture_text(measure.meaning)}\n{better} is better", fontsize=9)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch", fontsize=8)
    for axes in panels[len(shown) :]:
        axes.set_axis_off()
    exported = "the last" if chosen_by == NONE else "the star"
    figure.suptitle(f"Kept encoders without labels: the best by each measure is marked; {exported} is exported")
    save_figure(figure, path, dpi=100)
