"""Checkpoints from which a run resumes bit for bit, also after Ctrl-C."""

import json
import logging
import random
import signal
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from medssl_monai.atomic import write_atomically
from medssl_monai.engines.loader import StepLoader
from medssl_monai.errors import CheckpointError
from medssl_monai.processes import any_process, process_rank

logger = logging.getLogger(__name__)

# Settings that do not change what a run computes. The length of an epoch is compared as the trainer has it.
_FREE_SETTINGS = {
    *("max_epochs", "epoch_length", "num_workers", "amp", "recompute", "views_on_device", "slices_on_device"),
    *("cuda_graph", "compile", "deterministic", "thresholds", "patience", "val_interval", "probe_interval"),
    *("guard_interval", "stop_on_collapse", "keep_interval", "keep_best_by"),
}


class RunCheckpoint:
    """Writes ``CKPT_DIR/last.pt`` every ``save_interval`` epochs, on Ctrl-C and at the end; a new run starts from it.

    The file is one dictionary of tensors, numbers and strings, which opens with ``weights_only=True``: the state of
    every object in ``save_dict``, of the gradient scaler and of all random generators, and the run's position. MONAI's
    ``CheckpointSaver`` writes in place, so a kill leaves half a file, and saves neither scaler nor generators.

    On Ctrl-C the trainer finishes the current step, writes the file, and its ``run`` raises ``KeyboardInterrupt``. A
    second Ctrl-C stops immediately.

    A trainer may be run in rounds (``monai.fl.client.MonaiAlgo``), each with weights from elsewhere. The file must not
    replace them, so it is loaded only if it is ahead of the trainer. If the settings' ``max_epochs`` exceed the
    trainer's, which are then those of a round, `check` loads the file, and the trainer stands at the end of its last
    whole round.

    Args:
        ckpt_dir: folder of the checkpoint.
        save_dict: name -> object with ``state_dict`` and ``load_state_dict``, such as method and optimizer.
        save_interval: epochs between two checkpoints.
        resume: True resumes from ``last.pt`` if it exists; False starts from the beginning.
        signature: values that must be equal for a resume, such as the data's fingerprint.
        settings: of the run, as in `record_run`; those that affect the result are part of the signature.
    """

    def __init__(
        self,
        ckpt_dir: str | Path,
        save_dict: Mapping[str, Any],
        save_interval: int = 1,
        resume: bool = True,
        signature: Mapping[str, Any] | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = Path(ckpt_dir) / "last.pt"
        self.save_dict = dict(save_dict)
        self.save_interval = save_interval
        self.resume = resume
        decisive = {name: value for name, value in (settings or {}).items() if name not in _FREE_SETTINGS}
        # Through JSON, so that tuples compare equal to the lists of a file.
        self.signature: dict[str, Any] = json.loads(json.dumps({**decisive, **(signature or {})}, default=str))
        self.total_epochs = int((settings or {}).get("max_epochs", 0))  # of all rounds
        self._reached: int | None = None  # step of the trainer when it was last loaded or saved
        self._saved: int | None = None  # and when this run last saved it
        self._previous: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a `ResumableTrainer`."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.save_interval), self.save)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._stop_if_interrupted)
        engine.add_event_handler(Events.EPOCH_STARTED, self._stop_between_epochs)
        engine.add_event_handler(Events.COMPLETED, self._complete)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._fail)

    def save(self, engine: Any) -> None:
        """Write the state of the run; the first of several processes does, since all have the same state."""
        self._reached = self._saved = engine.state.iteration
        if process_rank() > 0:
            return
        content: dict[str, Any] = {name: obj.state_dict() for name, obj in self.save_dict.items()}
        content["trainer"] = {
            "iteration": engine.state.iteration,
            "epoch_length": engine.state.epoch_length,
            "max_epochs": engine.state.max_epochs,
            "best_metric": float(engine.state.best_metric),
            "best_metric_epoch": int(engine.state.best_metric_epoch),
        }
        if isinstance(engine.data_loader, StepLoader):
            content["trainer"]["order"] = engine.data_loader.step_sampler.order.kind
        content["scaler"] = engine.scaler.state_dict() if engine.scaler is not None else {}
        content["random"] = random_state()
        content["signature"] = {**self.signature, "epoch_length": engine.state.epoch_length}
        write_atomically(self.path, lambda p: torch.save(content, p))

    def check(self, engine: Any) -> None:
        """Check, before a trainer runs, that it can resume from the file, if there is one; warn if it is finished.

        Call it before a run writes anything, so that a command with other settings does not change the run. In rounds
        the file is loaded.

        Raises:
            CheckpointError: the file is broken, another run's, or beyond the epochs asked for.
        """
        if not (self.resume and self.path.is_file()):
            return
        round_epochs = engine.state.max_epochs
        if round_epochs < self.total_epochs:
            engine.state.max_epochs = self.total_epochs
            self.load(engine)
            engine.state.epoch = engine.state.iteration // (round_epochs * engine.state.epoch_length) * round_epochs
            engine.state.iteration = self._reached = engine.state.epoch * engine.state.epoch_length
            engine.state.max_epochs = round_epochs
        else:
            state = self._read(engine, engine.state.max_epochs, mapped=True)["trainer"]
            if state["iteration"] >= engine.state.max_epochs * state["epoch_length"]:
                logger.warning(
                    "%s: the run is finished, at epoch %d of %d; nothing is left to train: raise max_epochs to go on",
                    self.path.parent.parent,
                    state["iteration"] // state["epoch_length"],
                    engine.state.max_epochs,
                )

    def load(self, engine: Any) -> None:
        """Restore the state that `save` wrote.

        Raises:
            CheckpointError: the file is broken, another run's, or beyond the epochs asked for.
        """
        wanted = engine.state.max_epochs
        content = self._read(engine, wanted)
        for name, obj in self.save_dict.items():
            try:
                obj.load_state_dict(content[name])
            except (KeyError, RuntimeError, ValueError) as error:
                raise CheckpointError(
                    f"{self.path} does not fit this run's {name} ({str(error).splitlines()[0]}); "
                    "use the settings it was made with, another output folder, or resume=false"
                ) from error
        state = content["trainer"]
        engine.load_state_dict({k: state[k] for k in ("iteration", "epoch_length")} | {"max_epochs": None})
        engine.state.max_epochs, self._reached = wanted, state["iteration"]
        engine.state.best_metric, engine.state.best_metric_epoch = state["best_metric"], state["best_metric_epoch"]
        if isinstance(engine.data_loader, StepLoader):  # files of earlier versions name no order: it was a table
            engine.data_loader.step_sampler.order.kind = state.get("order", "table")
        if engine.scaler is not None and content["scaler"]:
            engine.scaler.load_state_dict(content["scaler"])
        restore_random_state(content["random"])
        logger.info("resuming after step %d from %s", state["iteration"], self.path)

    def _start(self, engine: Any) -> None:
        if self.resume and self.path.is_file() and (self._reached is None or engine.state.iteration < self._reached):
            self.load(engine)  # Ignite begins a finished run again, from 0
        self._reached, self._saved = engine.state.iteration, None
        try:
            self._previous = signal.signal(signal.SIGINT, lambda signum, frame: self._interrupt(engine, frame))
        except ValueError:  # not the main thread, which alone may set signal handlers
            self._previous = None

    def _read(self, engine: Any, max_epochs: int, mapped: bool = False) -> dict[str, Any]:
        """The file's content, checked against signature and number of epochs; memory-mapped if `mapped`."""
        try:
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
            state, saved = content["trainer"], content["signature"]
            done = state["iteration"] // state["epoch_length"]
        except Exception as error:
            raise CheckpointError(
                f"{self.path} is not a readable checkpoint ({type(error).__name__}); remove it to start again"
            ) from error
        self._check_signature(saved, engine)
        if max_epochs < done:
            raise CheckpointError(
                f"{self.path} is at epoch {done}, beyond max_epochs={max_epochs}; raise max_epochs or set resume=false"
            )
        return content

    def _check_signature(self, saved: Mapping[str, Any], engine: Any) -> None:
        here = {**self.signature, "epoch_length": engine.state.epoch_length}
        shared = [name for name in here if name in saved]
        different = [
            "other data" if name == "data" else f"{name}: {saved[name]} then, {here[name]} now"
            for name in shared
            if saved[name] != here[name]
        ]
        if different:
            raise CheckpointError(
                f"{self.path} belongs to a run with other settings ({'; '.join(different)}); "
                "use the same settings, another output folder, or resume=false"
            )

    def _interrupt(self, engine: Any, frame: FrameType | None) -> None:
        if engine.state.interrupted:
            raise KeyboardInterrupt
        logger.warning("stopping after this step; press Ctrl-C again to stop at once")
        engine.state.interrupted = True

    def _stop_if_interrupted(self, engine: Any) -> None:
        # After an epoch's last step its own handlers (validation, figures) must still run, since a resume skips them.
        # A signal reaches the processes at different steps, but they must stop at the same one.
        engine.state.interrupted = any_process(engine.state.interrupted, engine.state.device)
        if engine.state.interrupted and engine.state.iteration % engine.state.epoch_length:
            self._halt(engine)

    def _stop_between_epochs(self, engine: Any) -> None:
        if engine.state.interrupted:
            self._halt(engine)

    def _halt(self, engine: Any) -> None:
        self.save(engine)
        self._release()
        engine.terminate(skip_completed=True)

    def _complete(self, engine: Any) -> None:
        if self._saved != engine.state.iteration:
            self.save(engine)
        self._release()

    def _fail(self, engine: Any, error: BaseException) -> None:
        self._release()
        raise error

    def _release(self) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            self._previous = None


def check_resume(trainer: Any, handlers: Iterable[Any]) -> None:
    """Call `RunCheckpoint.check` of the handler among a trainer's `handlers`; raises CheckpointError as it does."""
    for handler in handlers:
        if isinstance(handler, RunCheckpoint):
            handler.check(trainer)


def random_state() -> dict[str, Tensor]:
    """States of the torch (CPU and CUDA), NumPy and Python generators, as tensors."""
    _name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002
    _, internal, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(np.asarray(keys, dtype=np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
        "python": torch.tensor(internal, dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss_next is None else [gauss_next], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def restore_random_state(state: Mapping[str, Tensor]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    position, has_gauss, gauss = state["numpy_rest"].tolist()
    keys = state["numpy_keys"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # noqa: NPY002
    gauss_next = state["python_gauss"].tolist()
    random.setstate((3, tuple(state["python"].tolist()), gauss_next[0] if gauss_next else None))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])
