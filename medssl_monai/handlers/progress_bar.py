"""A progress bar for a whole run, with the loss."""

from typing import Any

from ignite.engine import Engine, Events

from medssl_monai.processes import process_rank
from medssl_monai.progress import progress_bar


class RunProgress:
    """A tqdm bar over all steps of a run; a resumed run starts at its step.

    Ignite's ``ProgressBar`` shows one bar for each epoch, and starts at zero after a resume.

    Args:
        description: text before the bar.
        every: steps between two readings of the loss, each of which waits for the GPU.
    """

    def __init__(self, description: str = "training", every: int = 10) -> None:
        self.description, self.every = description, every
        self.bar: Any = None

    def attach(self, engine: Engine) -> None:
        """Register with a trainer or an evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._open)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._advance)
        for event in (Events.COMPLETED, Events.TERMINATE):
            engine.add_event_handler(event, self._close)

    def _open(self, engine: Any) -> None:
        if self.bar is None:
            state = engine.state
            # MONAI numbers the epoch of an evaluator as the trainer's, while its steps are counted from 0.
            epochs = state.max_epochs - state.epoch + 1
            first = state.iteration - state.iteration % state.epoch_length
            self.bar = progress_bar(
                total=first + epochs * state.epoch_length,
                initial=state.iteration,
                desc=self.description,
                unit="step",
                shown=process_rank() == 0,
            )

    def _advance(self, engine: Any) -> None:
        self.bar.update()
        output = engine.state.output
        if isinstance(output, dict) and "loss" in output and engine.state.iteration % self.every == 0:
            self.bar.set_postfix(epoch=engine.state.epoch, loss=f"{float(output['loss'].detach()):.4f}", refresh=False)

    def _close(self, engine: Any) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
