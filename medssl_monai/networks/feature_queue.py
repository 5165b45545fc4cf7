"""Queues of features from past batches, in buffers, so that a checkpoint holds them.

Shapes: B rows that enter, L rows kept, D dimensions, V views with a queue each.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RingQueue(nn.Module):
    """MoCo's queue (arXiv 1911.05722, section 3.2): new rows overwrite the oldest, wrapping around at the end.

    It starts with random rows of unit length. L need not be a multiple of B; of more than L rows the last L are kept.
    With `with_origins` each row has a number that tells where it came from; that of the random rows is −1.
    """

    features: Tensor  # (L, D)
    pointer: Tensor  # () int64: where the next row goes
    origins: Tensor  # (L,) int64, with origins only

    def __init__(self, length: int, dimensions: int, with_origins: bool = False) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"queue length: at least 1, found {length}; MoCo uses 65536")
        self.register_buffer("features", F.normalize(torch.randn(length, dimensions), dim=1))
        self.register_buffer("pointer", torch.zeros((), dtype=torch.long))
        if with_origins:
            self.register_buffer("origins", torch.full((length,), -1))

    @torch.no_grad()
    def enter(self, rows: Tensor, origins: Tensor | None = None) -> None:
        """Add rows (B, D), the oldest first, and where they came from, (B,) int64."""
        length = self.features.shape[0]
        surplus = max(0, rows.shape[0] - length)
        places = (self.pointer + torch.arange(surplus, rows.shape[0], device=rows.device)) % length
        self.features.index_copy_(0, places, rows[surplus:].to(self.features.dtype))
        if origins is not None:
            self.origins.index_copy_(0, places, origins[surplus:])
        self.pointer.copy_((self.pointer + rows.shape[0]) % length)


class NewestFirstQueue(nn.Module):
    """SwAV's queues, one a view (arXiv 2006.09882, section 3.1, and its code): newest batch first, each in its order.

    Rows move down as new ones enter, and are dropped after L; L need not be a multiple of B. Empty rows are zero;
    `is_full` is true once the last row is filled.
    """

    features: Tensor  # (V, L, D)
    filled: Tensor  # () int64: rows that hold features

    def __init__(self, views: int, length: int, dimensions: int) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"queue length: at least 1, found {length}; SwAV uses 3840 for small batches")
        self.register_buffer("features", torch.zeros(views, length, dimensions))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))
        self._known: int | None = None  # `filled` once read: a read waits for the device

    @property
    def is_full(self) -> bool:
        """Whether every row holds features."""
        if self._known is None:
            self._known = int(self.filled)
        return self._known >= self.features.shape[1]

    @torch.no_grad()
    def enter(self, rows: Tensor) -> None:
        """Add rows (V, B, D); of more than L the first L are kept."""
        length = self.features.shape[1]
        self.features.copy_(torch.cat([rows.to(self.features.dtype), self.features], dim=1)[:, :length])
        self.filled.add_(rows.shape[1]).clamp_(max=length)
        if self._known is not None:
            self._known += rows.shape[1]

    def _load_from_state_dict(self, *arguments: Any, **named: Any) -> None:
        self._known = None
        super()._load_from_state_dict(*arguments, **named)
