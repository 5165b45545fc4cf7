"""Whether a training compiles its blocks, and what it says when that does not last."""

import logging
import time
import warnings
from typing import Any, Literal

import torch
from torch import nn

from medssl_monai.engines.captured_step import CapturedStep
from medssl_monai.errors import ConfigError
from medssl_monai.networks.compiled import PartlyCompiled

SAVED = 0.2
"""Share of a recorded step's device time that compiling takes away: 26.3 to 19.7 ms for MoCo v2 on an H100."""
SECONDS = 60.0
"""Compiling took 53 s there, on 14 threads."""
GAIN = 2.0
"""A run is compiled if it saves this multiple of the seconds that compiling takes."""
SETTLED, MEASURED = 5, 20
"""Replayed steps before the measurement, and in it."""

logger = logging.getLogger(__name__)


def compile_method(method: nn.Module, backend: Any = "inductor") -> None:
    """Compile the residual blocks and decoder stages of a method's networks, one by one, for training mode."""
    for module in method.modules():
        if isinstance(module, PartlyCompiled):
            module.compile_parts(backend)
    # torch.compile itself looks at the gradients of a block's input; nobody can act on the warning.
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    watch = logging.getLogger("torch._dynamo.convert_frame")
    if not any(isinstance(handler, _LimitWatch) for handler in watch.handlers):
        watch.addHandler(_LimitWatch())


class Compilation:
    """Compiles a method at once (`wanted` true), never (false), or when the run is long enough to earn it ("auto").

    "auto" measures the first replays of a recorded step. It does not compile where steps are not recorded, since a
    compiled block costs more launches than it saves; nor where the loader is slower than the device; nor under
    ``deterministic``, since the step at which it compiles depends on the clock.

    Raises:
        ConfigError: `wanted` is not one of the three.
    """

    def __init__(
        self,
        method: nn.Module,
        captured: CapturedStep | None,
        wanted: bool | Literal["auto"],
        backend: Any = "inductor",
    ) -> None:
        if wanted not in (True, False, "auto"):
            raise ConfigError(f"compile: must be auto, true or false, found {wanted!r}; choose one of these")
        self.method, self.captured, self.backend = method, captured, backend
        self.undecided = wanted == "auto" and captured is not None
        self._began = 0.0
        if wanted is True:
            compile_method(method, backend)

    def after_step(self, steps_left: int) -> None:
        """Called after each step of a run that has `steps_left`; decides once, when enough steps were replayed."""
        if not self.undecided or self.captured is None:
            return
        measured = self.captured.replays - SETTLED
        if measured == 0:
            self.captured.graph.seconds()  # waits for the device
            self._began = time.perf_counter()
        elif measured == MEASURED:
            self.undecided = False
            device = self.captured.graph.seconds()
            wall = (time.perf_counter() - self._began) / MEASURED
            self._decide(device, wall, steps_left)

    def _decide(self, device: float, wall: float, steps_left: int) -> None:
        assert self.captured is not None
        saved = SAVED * device * steps_left
        if torch.backends.cudnn.deterministic:
            reason = "deterministic=true; compile=true compiles at the first step"
        elif device < 0.8 * wall:
            reason = f"the device computes for {1e3 * device:.0f} of {1e3 * wall:.0f} ms a step: the loader is slower"
        elif saved < GAIN * SECONDS:
            reason = f"it would save about {saved:.0f} s and take about {SECONDS:.0f} s"
        else:
            logger.info("compiling the blocks, which saves about %.0f min of this run", saved / 60)
            compile_method(self.method, self.backend)
            self.captured.forget()
            return
        logger.info("the blocks are not compiled, because %s", reason)


class _LimitWatch(logging.Handler):
    """Says once, in this project's words, that torch.compile has given up on further kinds of blocks."""

    told = False

    def emit(self, record: logging.LogRecord) -> None:
        """Look for torch.compile's own message."""
        if "recompile_limit" in record.getMessage() and not self.told:
            self.told = True
            logger.warning(
                "torch.compile has reached its limit of %d kinds of one block, so the other kinds run uncompiled; give "
                "batches of one size, or compile=false",
                torch._dynamo.config.recompile_limit,
            )
