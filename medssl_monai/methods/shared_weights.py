"""What the sites of a federation exchange of a method, and what stays at a site."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


class SharedWeights(nn.Module):
    """A method whose state is what sites exchange: all parameters, and the means and variances of batch norms.

    All other buffers stay: queues of MoCo and SwAV hold embeddings of a site's slices. Counters of batches stay too,
    since nothing is computed from them, so that every exchanged tensor is a floating-point number and can be averaged.
    The moving averages of MoCo and BYOL are exchanged, so that all sites begin a round with one model, also a site that
    joins late. The average over sites of moving averages is the moving average of the averaged networks.

    Args:
        method: is not copied; loading changes it.

    Example:
        >>> from medssl_monai.methods.moco import MoCo
        >>> method = MoCo("resnet18", queue_length=64)
        >>> shared = SharedWeights(method).state_dict()
        >>> sorted(name for name in method.state_dict() if name not in shared)[-2:]
        ['queue.features', 'queue.pointer']
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, *arguments: Any, **named: Any) -> Any:
        """Compute what the method computes."""
        return self.method(*arguments, **named)

    def state_dict(self, *arguments: Any, **named: Any) -> Any:
        """The exchanged tensors, by the method's names."""
        names = self._names()
        return {name: value for name, value in self.method.state_dict().items() if name in names}

    def load_state_dict(self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False) -> Any:
        """Load exchanged tensors; what stays at the site does not change.

        Raises:
            RuntimeError: a name is unknown or, if `strict`, missing; or a shape differs.
        """
        names = self._names()
        kept = {name: value for name, value in self.method.state_dict().items() if name not in names}
        return self.method.load_state_dict({**kept, **state_dict}, strict, assign)

    def _names(self) -> set[str]:
        norms = {name for name, module in self.method.named_modules() if isinstance(module, _BatchNorm)}
        names = {name for name, _ in self.method.named_parameters(remove_duplicate=False)}
        return names | {f"{norm}.{statistic}" for norm in norms for statistic in ("running_mean", "running_var")}
