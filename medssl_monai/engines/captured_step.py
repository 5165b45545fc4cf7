"""The forward and backward pass of a step, recorded once as a CUDA graph and replayed.

An eager step launches 1,500 to 3,100 kernels from Python, one by one, and a fast GPU waits for about half of the time
(docs/performance.md). A replay launches all of them at once. The kernels, their order and their random numbers are the
same, so the results should be equal to the last bit; ``tests -m gpu`` compares them.
"""

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn

from medssl_monai.errors import ConfigError
from medssl_monai.methods.base import Method, Progress
from medssl_monai.processes import process_count

WARM_UP = 3
"""Eager steps before a recording, as PyTorch's notes on CUDA graphs ask for. They are steps of the run."""
MOST_RECORDINGS = 20
"""After so many changes of the computation the run goes on eagerly."""

Batch = dict[str, Any]
Compute = Callable[[Batch, Progress], dict[str, Tensor]]

logger = logging.getLogger(__name__)


@dataclass
class Left:
    """What a forward and backward pass leave: logged scalars, a gradient for each parameter, `Method.arrivals`."""

    scalars: dict[str, Tensor]
    gradients: list[Tensor | None]
    arrivals: list[Tensor]


class Graph(Protocol):
    """What records and replays: `CudaGraph`, or a stand-in for tests without a GPU."""

    def warm_up(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Run `compute` eagerly, in the surroundings of a recording."""

    def record(self, compute: Callable[[], Left]) -> Left:
        """Record `compute` without an effect on weights, buffers and generators; the tensors that replays will fill."""

    def replay(self) -> None:
        """Run what was recorded, on the same tensors."""

    def seconds(self) -> float:
        """Device time of the last replay; waits for it."""

    def reset(self) -> None:
        """Release what was recorded, and its memory."""


class CudaGraph:
    """Records with ``torch.cuda.CUDAGraph``, on a stream of its own."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self.graph: torch.cuda.CUDAGraph | None = None
        self.begin, self.end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

    def warm_up(self, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Run `compute` on the stream of the recording."""
        current = torch.cuda.current_stream(self.stream.device)
        self.stream.wait_stream(current)
        with torch.cuda.stream(self.stream):
            scalars = compute()
        current.wait_stream(self.stream)
        return scalars

    def record(self, compute: Callable[[], Left]) -> Left:
        """Record `compute`; its tensors lie in memory that belongs to the graph."""
        self.graph = torch.cuda.CUDAGraph()
        # The loader's thread pins memory meanwhile, which the default, "global", would take for a fault.
        with torch.cuda.graph(self.graph, stream=self.stream, capture_error_mode="thread_local"):
            return compute()

    def replay(self) -> None:
        """Launch all recorded kernels on the current stream."""
        if self.graph is None:
            raise RuntimeError("nothing was recorded; call record first")
        self.begin.record()
        self.graph.replay()
        self.end.record()

    def seconds(self) -> float:
        """Device time of the last replay."""
        self.end.synchronize()
        return float(self.begin.elapsed_time(self.end)) / 1e3

    def reset(self) -> None:
        """Release the graph, once the device has finished with it."""
        if self.graph is not None:
            torch.cuda.synchronize(self.stream.device)
            self.graph.reset()
            self.graph = None


class CapturedStep:
    """Computes the scalars and gradients of batches; of equal computations only the first few by Python.

    Args:
        method: with `capturable`.
        compute: forward and backward pass of a batch on the device; gives detached scalars. Gradients are None before.
        graph: what records and replays.
        warm_up: eager steps before each recording.
        required: whether a recording that fails ends the run; otherwise it goes on eagerly, with a warning.

    Raises:
        ConfigError: (in a call, if `required`) the step cannot be recorded.
    """

    def __init__(
        self, method: Method, compute: Compute, graph: Graph, warm_up: int = WARM_UP, required: bool = False
    ) -> None:
        self.method, self.compute, self.graph = method, compute, graph
        self.warm_up, self.required = warm_up, required
        self.parameters: list[nn.Parameter] = list(method.parameters())
        self.recordings = self.replays = 0
        self._eager = False  # from now on
        self._steps = 0  # of the present computation
        self._key: Hashable = None
        self._inputs: Batch | None = None
        self._left = Left({}, [], [])

    def __call__(self, batch: Batch, progress: Progress) -> dict[str, Tensor]:
        """The scalars of a batch on the device; leaves the parameters' gradients and the method's `arrivals`."""
        key = (self.method.capture_key(progress), _outline(batch))
        if key != self._key:
            self.forget()
            self._key = key
        self._steps += 1
        if self._eager:
            return self.compute(batch, progress)
        if self._steps <= self.warm_up:
            return self.graph.warm_up(lambda: self.compute(batch, progress))
        if self._inputs is None and not self._record(batch, progress):
            return self.compute(batch, progress)
        return self._replay(batch)

    def forget(self) -> None:
        """Drop the recording; the next steps warm up and record again."""
        self._steps, self._inputs, self._left = 0, None, Left({}, [], [])
        self.graph.reset()

    def _record(self, batch: Batch, progress: Progress) -> bool:
        inputs = {name: _map(torch.clone, value) for name, value in batch.items()}

        def compute() -> Left:
            scalars = self.compute(inputs, progress)
            return Left(scalars, [parameter.grad for parameter in self.parameters], list(self.method.arrivals))

        if self.recordings == MOST_RECORDINGS:
            self._eager = True
            logger.warning(
                "the step is no longer recorded as a CUDA graph: its computation has changed %d times "
                "(the method's capture_key, or the sizes of batches)",
                MOST_RECORDINGS,
            )
            return False
        try:
            self._left = self.graph.record(compute)
        except Exception as error:
            if self.required:
                raise ConfigError(
                    f"cuda_graph: the step of {type(self.method).__name__} cannot be recorded ({_first_line(error)}); "
                    "set cuda_graph=auto or false"
                ) from error
            self._eager = True
            logger.warning(
                "the step runs without a CUDA graph, because recording it failed (%s); cuda_graph=false does not try",
                _first_line(error),
            )
            for parameter in self.parameters:
                parameter.grad = None
            self.method.arrivals.clear()
            return False
        self._inputs = inputs
        self.recordings += 1
        return True

    def _replay(self, batch: Batch) -> dict[str, Tensor]:
        assert self._inputs is not None
        torch._foreach_copy_(_tensors(self._inputs), _tensors(batch))
        self.graph.replay()
        self.replays += 1
        for parameter, gradient in zip(self.parameters, self._left.gradients, strict=True):
            parameter.grad = gradient
        self.method.arrivals[:] = self._left.arrivals
        return {name: value.clone() for name, value in self._left.scalars.items()}  # the next replay overwrites them


def captured_step(
    method: Method,
    compute: Compute,
    device: torch.device,
    accumulation_steps: int = 1,
    cuda_graph: bool | Literal["auto"] = "auto",
) -> CapturedStep | None:
    """The step of `method` as a CUDA graph, or None where it runs eagerly.

    With "auto" it is recorded where that is possible; otherwise one line in the log says why not.

    Raises:
        ConfigError: `cuda_graph` is true where the step cannot be recorded, or not one of the three values.
    """
    if cuda_graph not in (True, False, "auto"):
        raise ConfigError(f"cuda_graph: must be auto, true or false, found {cuda_graph!r}; choose one of these")
    if cuda_graph is False:
        return None
    obstacle = _obstacle(method, device, accumulation_steps)
    if obstacle is None:
        return CapturedStep(method, compute, CudaGraph(device), required=cuda_graph is True)
    if cuda_graph is True:
        raise ConfigError(f"cuda_graph: the step cannot be recorded, because {obstacle}; set cuda_graph=auto or false")
    logger.info("the step runs without a CUDA graph, because %s", obstacle)
    return None


def _obstacle(method: Method, device: torch.device, accumulation_steps: int) -> str | None:
    """Why a step cannot be recorded."""
    if process_count() > 1:
        return f"{process_count()} processes share it and exchange values within it"
    if accumulation_steps > 1:
        return f"a batch is computed in {accumulation_steps} parts (accumulation_steps)"
    if not method.capturable:
        return f"{type(method).__name__} does not say that it can be recorded (Method.capturable)"
    if any(getattr(module, "recompute", False) for module in method.modules()):
        return "blocks that are computed again (recompute) read the state of the random generator"
    if device.type != "cuda":
        return f"the device is a {device.type}"
    return None


def _tensors(batch: Mapping[str, Any]) -> list[Tensor]:
    """The tensors of a batch, a dictionary of tensors and of lists of tensors, in the order of its keys."""
    return [x for name in sorted(batch) for x in (batch[name] if isinstance(batch[name], list) else [batch[name]])]


def _map(function: Callable[[Tensor], Tensor], value: Tensor | list[Tensor]) -> Any:
    return [function(x) for x in value] if isinstance(value, list) else function(value)


def _outline(batch: Mapping[str, Any]) -> Hashable:
    """What must be equal for a replay: keys, shapes and types."""
    return tuple(sorted(batch)), tuple((x.shape, x.dtype) for x in _tensors(batch))


def _first_line(error: BaseException) -> str:
    return str(error).split("\n", maxsplit=1)[0]
