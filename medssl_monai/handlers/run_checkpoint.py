"""Checkpoints from which a run carries on bit for bit, and a Ctrl-C that loses nothing."""

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
from medssl_monai.errors import CheckpointError
from medssl_monai.processes import any_process, process_rank

logger = logging.getLogger(__name__)

# Settings that say how long, where and how closely watched a run computes, not what. The length of an epoch is compared
# as the trainer has it.
_FREE_SETTINGS = {
    *("max_epochs", "epoch_length", "num_workers", "amp", "recompute", "views_on_device", "thresholds", "patience"),
    *("val_interval", "probe_interval", "guard_interval", "stop_on_collapse"),
}


class RunCheckpoint:
    """Writes ``CKPT_DIR/last.pt`` every so often, on Ctrl-C and at the end; reads it when a run starts again.

    The file is one dictionary of tensors, numbers and strings (it opens with ``weights_only=True``): the state of every
    object in ``save_dict``, of the gradient scaler, of all random generators, and how far the run is. MONAI's
    ``CheckpointSaver`` writes in place (a kill leaves half a file) and knows neither scaler nor generators.

    On Ctrl-C the step under way is finished, the file written, and the trainer's ``run`` raises ``KeyboardInterrupt``;
    a second Ctrl-C stops at once.

    Args:
        ckpt_dir: folder of the checkpoint.
        save_dict: name -> object with ``state_dict`` and ``load_state_dict``, such as method and optimizer.
        save_interval: epochs between two checkpoints.
        resume: True carries on from ``last.pt`` if it is there; False starts anew.
        signature: what must be the same for the run to be the same, such as the data's fingerprint.
        settings: the run's, as `record_run` keeps them; those that decide the result are part of the signature.
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
        # Through JSON: what was a tuple is a list when it is read again.
        self.signature: dict[str, Any] = json.loads(json.dumps({**decisive, **(signature or {})}, default=str))
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
        """Write the whole state of the run; of several processes the first does, for all hold the same."""
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
        content["scaler"] = engine.scaler.state_dict() if engine.scaler is not None else {}
        content["random"] = random_state()
        content["signature"] = {**self.signature, "epoch_length": engine.state.epoch_length}
        write_atomically(self.path, lambda p: torch.save(content, p))

    def check(self, engine: Any) -> None:
        """Whether a trainer, before it runs, can carry on from the file; where there is none it can.

        Asked before a run writes anything, so that a command with other settings leaves the run as it was.

        Raises:
            CheckpointError: the file is broken, another run's, or beyond the epochs asked for.
        """
        if self.resume and self.path.is_file():
            state = self._read(engine, engine.state.max_epochs, mapped=True)["trainer"]
            if state["iteration"] >= engine.state.max_epochs * state["epoch_length"]:
                logger.warning(
                    "%s: the run is finished, at epoch %d of %d; nothing is left to train: raise max_epochs to go on",
                    self.path.parent.parent,
                    state["iteration"] // state["epoch_length"],
                    engine.state.max_epochs,
                )

    def load(self, engine: Any) -> None:
        """Put everything back as `save` found it.

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
        engine.state.max_epochs = wanted
        engine.state.best_metric, engine.state.best_metric_epoch = state["best_metric"], state["best_metric_epoch"]
        if engine.scaler is not None and content["scaler"]:
            engine.scaler.load_state_dict(content["scaler"])
        restore_random_state(content["random"])
        logger.info("carrying on after step %d from %s", state["iteration"], self.path)

    def _start(self, engine: Any) -> None:
        if self.resume and self.path.is_file():
            self.load(engine)
        try:
            self._previous = signal.signal(signal.SIGINT, lambda signum, frame: self._interrupt(engine, frame))
        except ValueError:  # not the main thread, which alone may set signal handlers
            self._previous = None

    def _read(self, engine: Any, max_epochs: int, mapped: bool = False) -> dict[str, Any]:
        """The file's content, which fits the signature and a number of epochs; mapped where few bytes are looked at."""
        try:
            content: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)
            state, saved = content["trainer"], content["signature"]
            done = state["iteration"] // state["epoch_length"]
        except Exception as error:
            raise CheckpointError(
                f"{self.path} is not a readable checkpoint ({type(error).__name__}); remove it to start anew"
            ) from error
        self._check_signature(saved, engine)
        if max_epochs < done:
            raise CheckpointError(
                f"{self.path} stands at epoch {done}, beyond max_epochs={max_epochs}; "
                "raise max_epochs or set resume=false"
            )
        return content

    def _check_signature(self, saved: Mapping[str, Any], engine: Any) -> None:
        here = {**self.signature, "epoch_length": engine.state.epoch_length}
        # A checkpoint of an earlier version names fewer settings.
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
        # After an epoch's last step its own handlers (validation, pictures) must still run: a resume would skip them.
        # A signal reaches the processes at different steps; they must stop at the same.
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
    """Have the `RunCheckpoint` among a trainer's handlers, wherever it stands, say whether the run can carry on.

    Raises CheckpointError as `RunCheckpoint.check`.
    """
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
