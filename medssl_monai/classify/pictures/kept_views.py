"""Views of picture files, kept in memory: a small data set is decoded and resized once, not in every epoch.

A study reads the same few hundred files hundreds of times.
"""

from collections.abc import Callable, Hashable

from torch import Tensor
from torch.utils.data import get_worker_info

MOST_BYTES = 2**29  # 10,000 views of 64 pixels, 890 of 224


class KeptViews:
    """Views by what they were made of. When the memory is full, further views are not kept.

    What is kept belongs to one group (one data set with one kind of view); a view of another group drops all others.

    Args:
        most_bytes: of all views together.
    """

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self.most_bytes, self.bytes = most_bytes, 0
        self._group: Hashable = None
        self._views: dict[Hashable, Tensor] = {}

    def get(self, group: Hashable, key: Hashable, make: Callable[[], Tensor]) -> Tensor:
        """A view (3, S, S) of its own for the caller, who may change it; made if it is not kept.

        In a worker process of a data loader nothing is kept: each would hold the same views again.

        Args:
            group: data set and settings of the view.
            key: the picture.
            make: gives the view.
        """
        if get_worker_info() is not None:
            return make()
        if group != self._group:
            self._group, self._views, self.bytes = group, {}, 0
        if key in self._views:
            return self._views[key].clone()
        view = make()
        size = view.numel() * view.element_size()
        if self.bytes + size <= self.most_bytes:
            self._views[key] = view.clone()
            self.bytes += size
        return view


KEPT_VIEWS = KeptViews()
