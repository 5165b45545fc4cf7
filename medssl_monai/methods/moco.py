"""MoCo v2: contrast against a queue of keys (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

Shapes: B images, D dimensions, K negatives.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl_monai.errors import ConfigError
from medssl_monai.losses.info_nce import info_nce_logits, info_nce_loss
from medssl_monai.methods.base import Method, Progress
from medssl_monai.networks.feature_queue import RingQueue
from medssl_monai.networks.moving_average import follow, follower
from medssl_monai.networks.projection_heads import linear_head, moco_mlp
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from medssl_monai.processes import process_cat, process_count, process_rank


class MoCo(Method):
    """Tell an image's other view from the views of images in past batches.

    Args:
        encoder: an encoder or its name; the key encoder starts as its copy.
        embedding_dim: D, dimensions of queries and keys.
        queue_length: K; the paper takes 65536. A batch need not divide it.
        momentum: of the key encoder's moving average.
        temperature: 0.2 in version 2, 0.07 in version 1 and in Wolf et al. 2023.
        head: "mlp" as in version 2, or "linear" as in version 1 and in Wolf et al. 2023.
        norm_groups: groups of the batch that are normalised apart, queries in other groups than keys. With one, a key
            and its query share their batch's statistics, which keys of past batches do not: a small batch is told by
            these instead of by its images. It stands for the paper's shuffling over GPUs (1911.05722, section 3.3).

    The key encoder's parameters follow before each step; its batch norms see the keys' batches and keep statistics
    of their own. Under gradient accumulation every micro-batch is told from the same negatives; the keys enter the
    queue after the last backward pass, those of all processes in the order of their ranks.
    """

    advice = "lower learning_rate, raise momentum towards 0.999, or make the views differ more"

    def __init__(
        self,
        encoder: ResNetEncoder | str = "resnet50",
        embedding_dim: int = 128,
        queue_length: int = 65536,
        momentum: float = 0.999,
        temperature: float = 0.2,
        head: Literal["mlp", "linear"] = "mlp",
        norm_groups: int = 1,
    ) -> None:
        super().__init__()
        if norm_groups < 1:
            raise ValueError(f"norm_groups: at least 1, found {norm_groups}; 1 normalises the batch as a whole")
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum: a share in 0 .. 1, found {momentum}; MoCo takes 0.999")
        if not temperature > 0.0:
            raise ValueError(f"temperature: a positive number, found {temperature}; MoCo v2 takes 0.2")
        if head not in ("mlp", "linear"):
            raise ValueError(f"head: 'mlp' (MoCo v2) or 'linear' (MoCo v1), found {head!r}; choose one of these")
        self.encoder = resnet_encoder(encoder) if isinstance(encoder, str) else encoder
        make_head = moco_mlp if head == "mlp" else linear_head
        self.head: nn.Module = make_head(self.encoder.num_features, embedding_dim)
        self.key_encoder = follower(self.encoder)
        self.key_head = follower(self.head)
        self.queue = RingQueue(queue_length, embedding_dim)
        self.momentum = momentum
        self.temperature = temperature
        self.norm_groups = norm_groups
        self._arrivals: list[Tensor] = []  # keys (B, D) of this step, on their way to the queue
        self._batch_size = 0  # of the last step

    def before_step(self, progress: Progress) -> None:
        """Let the key encoder follow."""
        self._arrivals.clear()
        follow(self.key_encoder, self.encoder, self.momentum)
        follow(self.key_head, self.head, self.momentum)

    def forward(self, batch: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Tensor]:
        """Loss of one batch: "views" a list of two (B, 1|3, h, w), the query's and the key's.

        Also "accuracy": the share of queries closer to their own key than to every negative. Raises ValueError for
        another number of views.
        """
        if len(batch["views"]) != 2:
            raise ValueError(f"views: MoCo needs two, found {len(batch['views'])}; use MoCo's views")
        query_view, key_view = batch["views"]
        queries = self.queries(query_view)
        keys = self.keys(key_view)
        logits = info_nce_logits(queries, keys, self.queue.features, self.temperature)
        if self.training:
            self._arrivals.append(keys)
        accuracy = (logits.detach().argmax(dim=1) == 0).to(logits.dtype).mean()
        return {"loss": info_nce_loss(logits), "accuracy": accuracy}

    def queries(self, view: Tensor) -> Tensor:
        """Queries (B, D) of unit length."""
        if not self.training or self.norm_groups == 1:
            return _unit(self.head(self.encoder(view)))
        count = self._groups(view)
        # Every count-th image: the same groups however many processes share the batch, which is in the order of ranks.
        groups = [_unit(self.head(self.encoder(view[first::count]))) for first in range(count)]
        return torch.stack(groups, dim=1).flatten(0, 1)

    def embed(self, view: Tensor) -> Tensor:
        """Queries (B, D) of unit length."""
        return self.queries(view)

    def health(self, embeddings: Tensor) -> dict[str, float]:
        """``queue_age``: steps that the oldest key has waited, once the queue has gone round."""
        return {"queue_age": self.queue.features.shape[0] / self._batch_size} if self._batch_size else {}

    @torch.no_grad()
    def keys(self, view: Tensor) -> Tensor:
        """Keys (B, D) of unit length, by the encoder that follows."""
        if not self.training or self.norm_groups == 1:
            return _unit(self.key_head(self.key_encoder(view)))
        count, size = self._groups(view), view.shape[0]
        # Each next `count` images are dealt out from the next group on: a key meets none of its query's group but
        # itself, where the batch is large enough.
        place = torch.arange(size, device=view.device) + process_rank() * size
        order = ((place + place // count) % count).argsort(stable=True)
        groups = [_unit(self.key_head(self.key_encoder(group))) for group in view[order].chunk(count)]
        return torch.cat(groups)[order.argsort()]

    def _groups(self, view: Tensor) -> int:
        if view.shape[0] % self.norm_groups or view.shape[0] * process_count() < 2 * self.norm_groups:
            raise ConfigError(
                f"norm_groups: {self.norm_groups} groups of at least two do not divide a batch of {view.shape[0]} in "
                f"{process_count()} process(es); choose a batch size that they divide, or fewer groups"
            )
        return self.norm_groups

    def after_backward(self, progress: Progress) -> None:
        """Let the step's keys enter the queue."""
        if self._arrivals:
            arrived = process_cat(torch.cat(self._arrivals))
            self._batch_size = arrived.shape[0]
            self.queue.enter(arrived)
        self._arrivals.clear()


def _unit(x: Tensor) -> Tensor:
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=1)
