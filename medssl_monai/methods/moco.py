"""MoCo v2: contrast views with a queue of keys (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

Shapes: B images, D dimensions, K negatives.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medssl_monai.errors import ConfigError
from medssl_monai.losses.info_nce import info_nce_logits, info_nce_loss
from medssl_monai.methods.base import Method, Progress, two_views
from medssl_monai.networks.feature_queue import RingQueue
from medssl_monai.networks.moving_average import follow, follower
from medssl_monai.networks.projection_heads import linear_head, moco_mlp, unit_length
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from medssl_monai.processes import process_cat, process_count, process_rank


class MoCo(Method):
    """Distinguishes an image's other view from views of images in past batches.

    Args:
        encoder: an encoder or its name; the key encoder starts as its copy.
        embedding_dim: D, dimensions of queries and keys.
        queue_length: K; the paper uses 65536. It need not be a multiple of the batch size.
        momentum: of the key encoder's moving average.
        temperature: 0.2 in version 2, 0.07 in version 1 and in Wolf et al. 2023.
        head: "mlp" as in version 2, or "linear" as in version 1 and in Wolf et al. 2023.
        norm_groups: groups of the batch with separate batch-norm statistics, different for queries and keys. With one
            group, a key and its query share their batch's statistics and keys of past batches do not, so in small
            batches the statistics give the answer away. This replaces the paper's shuffling over GPUs (1911.05722,
            section 3.3).
        origins: (N,) int64, what each slice of the data set belongs to, such as its series (`slice_origins`). Keys in
            the queue with the query's origin are left out of its logits. None keeps all.

    The key encoder's parameters are updated before each step; its batch norms have their own statistics. With gradient
    accumulation every micro-batch has the same negatives. The keys of all processes enter the queue after the last
    backward pass, in the order of ranks.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> method = MoCo("resnet18", embedding_dim=16, queue_length=64)
        >>> views = [torch.randn(4, 1, 64, 64) for _ in range(2)]
        >>> sorted(method({"views": views}))
        ['accuracy', 'loss']
    """

    origins: Tensor | None
    advice = "lower learning_rate, raise momentum towards 0.999, or make the views differ more"
    capturable = True

    def __init__(
        self,
        encoder: ResNetEncoder | str = "resnet50",
        embedding_dim: int = 128,
        queue_length: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        head: Literal["mlp", "linear"] = "mlp",
        norm_groups: int = 1,
        origins: Tensor | None = None,
    ) -> None:
        super().__init__()
        if norm_groups < 1:
            raise ValueError(f"norm_groups: must be at least 1, found {norm_groups}; 1 normalises the batch as a whole")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum: must be from 0 to 1, found {momentum}; MoCo uses 0.999")
        if not temperature > 0.0:
            raise ValueError(f"temperature: must be positive, found {temperature}; MoCo v2 uses 0.2")
        if head not in ("mlp", "linear"):
            raise ValueError(
                f"head: must be 'mlp' (MoCo v2) or 'linear' (MoCo v1), found {head!r}; choose one of these"
            )
        self.encoder = resnet_encoder(encoder) if isinstance(encoder, str) else encoder
        make_head = moco_mlp if head == "mlp" else linear_head
        self.head: nn.Module = make_head(self.encoder.num_features, embedding_dim)
        self.key_encoder = follower(self.encoder)
        self.key_head = follower(self.head)
        self.queue = RingQueue(queue_length, embedding_dim, with_origins=origins is not None)
        # Not in the state: it belongs to the data, as the data set does.
        self.register_buffer("origins", origins, persistent=False)
        self.momentum = momentum
        self.chance_loss = math.log(queue_length + 1)  # of queries as close to all keys; less if `left_out` has any
        self.temperature = temperature
        self.norm_groups = norm_groups
        self._batch_size = 0  # of the last step

    def before_step(self, progress: Progress) -> None:
        """Update the key encoder."""
        self.arrivals.clear()
        follow(self.key_encoder, self.encoder, self.momentum)
        follow(self.key_head, self.head, self.momentum)

    def forward(self, batch: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Tensor]:
        """Loss of one batch: "views" a list of two (B, 1|3, h, w), the query's and the key's.

        With `origins` also "index" (B,) int64, which slice of the data set the query's view shows, and "partner", which
        the key's shows; without it the same.

        Also gives "accuracy", the share of queries closer to their own key than to every negative, and with `origins`
        "left_out", the share of the queue that queries do not compare with. Raises ValueError for another number of
        views, and for a missing index.
        """
        query_view, key_view = two_views(batch, "MoCo")
        queries = self.queries(query_view)
        keys = self.keys(key_view)
        arrivals, left_out, shares = [keys], None, {}
        if self.origins is not None:
            index = _index_of(batch)
            left_out = self.origins[index][:, None] == self.queue.origins
            arrivals = [keys, self.origins[batch.get("partner", index)]]
            shares = {"left_out": left_out.to(keys.dtype).mean()}
        logits = info_nce_logits(queries, keys, self.queue.features, self.temperature, left_out)
        if self.training:
            self.arrivals += arrivals
        accuracy = (logits.detach().argmax(dim=1) == 0).to(logits.dtype).mean()
        return {"loss": info_nce_loss(logits), "accuracy": accuracy, **shares}

    def queries(self, view: Tensor) -> Tensor:
        """Queries (B, D) of unit length."""
        if not self.training or self.norm_groups == 1:
            return unit_length(self.head(self.encoder(view)))
        count = self._groups(view)
        # Every count-th image: the groups do not depend on how many processes share the batch in rank order.
        groups = [unit_length(self.head(self.encoder(view[first::count]))) for first in range(count)]
        return torch.stack(groups, dim=1).flatten(0, 1)

    def embed(self, view: Tensor) -> Tensor:
        """Queries (B, D) of unit length."""
        return self.queries(view)

    def health(self, embeddings: Tensor) -> dict[str, float]:
        """``queue_age``: age of the oldest key in steps, once the queue has been filled."""
        return {"queue_age": self.queue.features.shape[0] / self._batch_size} if self._batch_size else {}

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """Keys (B, D) of unit length, from the key encoder."""
        if not self.training or self.norm_groups == 1:
            return unit_length(self.key_head(self.key_encoder(view)))
        count, size = self._groups(view), view.shape[0]
        # Each run of `count` images starts one group later: in a large enough batch, a key shares its group with no
        # other key of its query's group.
        place = torch.arange(size, device=view.device) + process_rank() * size
        order = ((place + place // count) % count).argsort(stable=True)
        groups = [unit_length(self.key_head(self.key_encoder(group))) for group in view[order].chunk(count)]
        return torch.cat(groups)[order.argsort()]

    def _groups(self, view: Tensor) -> int:
        if view.shape[0] % self.norm_groups or view.shape[0] * process_count() < 2 * self.norm_groups:
            raise ConfigError(
                f"norm_groups: a batch of {view.shape[0]} in {process_count()} process(es) cannot be divided into "
                f"{self.norm_groups} groups of at least two; choose another batch size, or fewer groups"
            )
        return self.norm_groups

    def after_backward(self, progress: Progress) -> None:
        """Add the step's keys to the queue."""
        if self.arrivals:
            kinds = 1 if self.origins is None else 2  # of each forward pass: keys (B, D), and their origins (B,)
            keys, *origins = (process_cat(torch.cat(self.arrivals[kind::kinds])) for kind in range(kinds))
            self._batch_size = keys.shape[0]
            self.queue.enter(keys, *origins)
        self.arrivals.clear()


def _index_of(batch: Mapping[str, Any]) -> Tensor:
    if "index" not in batch:
        raise ValueError("index: MoCo with origins needs to know the slices of a batch; give the data set's index")
    index: Tensor = batch["index"]
    return index
