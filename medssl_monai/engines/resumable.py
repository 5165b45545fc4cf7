"""What both trainers share: one gradient scaler for the whole run, a loader that starts where the run stands."""

from typing import Any

import torch
from ignite.engine import Events
from monai.engines import Trainer
from monai.engines.workflow import Workflow

from medssl_monai.engines.allocation import keep_freed_memory
from medssl_monai.engines.loader import StepLoader


class ResumableTrainer(Trainer):
    """A MONAI ``Trainer`` that can be stopped after any step and carries on as if it never had been.

    MONAI's own ``run`` makes a new gradient scaler each time and Ignite replays an epoch's first batches after a
    resume. Here the scaler belongs to the trainer (`RunCheckpoint` saves it) and the loader is moved to the step.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scaler = torch.amp.GradScaler("cuda") if self.amp else None  # type: ignore[assignment]  # the new name
        self.add_event_handler(Events.EPOCH_STARTED, ResumableTrainer._move_loader)

    def run(self) -> None:  # type: ignore[override]  # as MONAI's own
        """Train until ``max_epochs``.

        Raises:
            KeyboardInterrupt: stopped by Ctrl-C; the step under way was finished and a checkpoint written.
        """
        self.state.interrupted = False
        if torch.device(self.state.device).type == "cpu":
            keep_freed_memory()
        Workflow.run(self)
        if self.state.interrupted:
            raise KeyboardInterrupt(f"stopped after step {self.state.iteration}; the same command carries on from here")

    def _move_loader(self) -> None:
        # Ignite makes its iterator after this event; in later epochs the iterator exists and goes on by itself.
        if isinstance(self.data_loader, StepLoader):
            self.data_loader.start_at(self.state.iteration)
