"""What both trainers share: one gradient scaler for the run, a loader that starts at the run's step, kept memory."""

import ctypes
import sys
from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Trainer
from monai.engines.workflow import Workflow

from medssl_monai.engines.loader import StepLoader

# Options of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


class ResumableTrainer(Trainer):
    """A MONAI ``Trainer`` that can be stopped after any step and resumed with the same result.

    MONAI's own ``run`` makes a new gradient scaler each time, and Ignite replays an epoch's first batches after a
    resume. Here the scaler belongs to the trainer (`RunCheckpoint` saves it) and the loader starts at the run's step.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler("cuda") if self.amp else None  # type: ignore[assignment]  # the new name
        self.add_event_handler(Events.EPOCH_STARTED, ResumableTrainer._move_loader)

    def run(self) -> None:  # type: ignore[override]  # as MONAI's own
        """Train until ``max_epochs``.

        Raises:
            KeyboardInterrupt: stopped by Ctrl-C, after the current step was finished and a checkpoint written.
        """
        self.state.interrupted = False
        if torch.device(self.state.device).type == "cpu":
            keep_freed_memory()
        Workflow.run(self)
        if self.state.interrupted:
            raise KeyboardInterrupt(f"stopped after step {self.state.iteration}; the same command carries on from here")

    def _move_loader(self) -> None:
        # Ignite makes its iterator after this event; later epochs continue with the same iterator.
        if isinstance(self.data_loader, StepLoader):
            self.data_loader.start_at(self.state.iteration)


def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later allocations, until the process ends; return whether it does.

    Every step allocates the same activations again. glibc returns large blocks to the system as soon as they are
    freed, and each comes back as new pages that must be zeroed, which costs a tenth of a step of ResNet-50
    (docs/performance.md). On systems without glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform.startswith("linux") else None
    if set_option is None:
        return False
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    results = [set_option(option, value) for option, value in wanted]  # all of them, whatever the first gives
    return all(result == 1 for result in results)
