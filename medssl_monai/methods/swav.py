"""SwAV: swapped prediction of cluster codes (Caron et al. 2020, arXiv 2006.09882).

Shapes: V views, A = 2 of them large and with codes, B images, D dimensions, K prototypes, L rows of a queue.
"""

import math
from collections.abc import Hashable, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl_monai.losses.sinkhorn import sinkhorn
from medssl_monai.losses.swapped_prediction import swapped_prediction_loss
from medssl_monai.methods.base import Method, Progress
from medssl_monai.networks.feature_queue import NewestFirstQueue
from medssl_monai.networks.projection_heads import swav_projector, unit_length
from medssl_monai.networks.prototypes import Prototypes
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from medssl_monai.processes import process_cat, process_count, process_rank

CODE_VIEWS = 2  # the large crops, which come first


class SwAV(Method):
    """Predicts the codes of two large crops from every other crop.

    Args:
        encoder: an encoder or its name.
        hidden_dim: hidden units of the projector.
        embedding_dim: D, dimensions of an embedding.
        prototypes: K; 3000 in the paper on ImageNet, 500 in Wolf et al. 2023.
        temperature: of the softmax of the predictions.
        epsilon: smoothness of the codes.
        sinkhorn_iterations: iterations of Sinkhorn-Knopp.
        queue_length: L, rows for each large crop. Embeddings of past batches are balanced together with the batch. 0
            means no queue. If the batch is smaller than K, use 3840 as in the paper, or at least K.
        queue_start_epoch: epoch from which embeddings enter the queue. The queue is used as soon as it is full.
        freeze_prototypes_steps: optimizer steps during which the prototypes are not trained.
        freeze_prototypes_epochs: the same in epochs (313 in Wolf et al. 2023); the longer of the two applies.

    With gradient accumulation, codes are balanced within a micro-batch and the queue; the whole batch enters the queue
    after its last backward pass. With `use_process_batch_norm`, N processes that share a batch in the order of ranks
    compute what one process computes on the whole batch.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> method = SwAV("resnet18", hidden_dim=64, embedding_dim=16, prototypes=10)
        >>> views = [torch.randn(4, 1, 64, 64) for _ in range(2)] + [torch.randn(4, 1, 32, 32)]
        >>> sorted(method({"views": views}))
        ['loss', 'prototype_entropy']
    """

    advice = (
        "freeze the prototypes for longer, lower epsilon towards 0.02, use a queue where batches are smaller than the "
        "number of prototypes, or lower learning_rate"
    )
    capturable = True

    def __init__(
        self,
        encoder: ResNetEncoder | str = "resnet50",
        hidden_dim: int = 2048,
        embedding_dim: int = 128,
        prototypes: int = 500,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        sinkhorn_iterations: int = 3,
        queue_length: int = 0,
        queue_start_epoch: int = 15,
        freeze_prototypes_steps: int = 313,
        freeze_prototypes_epochs: int = 0,
    ) -> None:
        super().__init__()
        for name, value, usual in (("temperature", temperature, 0.1), ("epsilon", epsilon, 0.05)):
            if not value > 0.0:
                raise ValueError(f"{name}: must be positive, found {value}; SwAV uses {usual}")
        if prototypes < 2:
            raise ValueError(f"prototypes: must be at least 2, found {prototypes}; SwAV uses 3000, Wolf et al. 500")
        if queue_length < 0:
            raise ValueError(f"queue_length: must be 0 (no queue) or more, found {queue_length}; SwAV uses 3840")
        self.encoder = resnet_encoder(encoder) if isinstance(encoder, str) else encoder
        self.projector = swav_projector(self.encoder.num_features, hidden_dim, embedding_dim)
        self.prototypes = Prototypes(embedding_dim, prototypes)
        self.queue = NewestFirstQueue(CODE_VIEWS, queue_length, embedding_dim) if queue_length else None
        self.temperature = temperature
        self.epsilon = epsilon
        self.chance_loss = math.log(prototypes)  # of predictions that favour no prototype
        self.sinkhorn_iterations = sinkhorn_iterations
        self.queue_start_epoch = queue_start_epoch
        self.freeze_prototypes_steps = freeze_prototypes_steps
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        # Set before each step, so that the forward pass neither waits for the device nor breaks a compiled graph.
        self._queue_fills = self._queue_counts = False

    def before_step(self, progress: Progress) -> None:
        """Normalise the prototypes; determine whether the queue is being filled, and whether it is full."""
        self.arrivals.clear()
        self.prototypes.normalise()
        self._queue_fills = self.queue is not None and progress.epoch >= self.queue_start_epoch
        self._queue_counts = self._queue_fills and self.queue is not None and self.queue.is_full

    def capture_key(self, progress: Progress) -> Hashable:
        """Whether codes are balanced with the queue; frozen prototypes only lose their gradient afterwards."""
        return self._queue_counts

    def forward(self, batch: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Tensor]:
        """Loss of one batch: "views" a list (V) of (B, 1|3, h, w), the two large crops first.

        Also "prototype_entropy": how evenly the large crops are spread over their nearest prototypes, from 0 (all on
        one prototype) to 1. Raises ValueError for fewer than two views, or views of different batches.
        """
        views: Sequence[Tensor] = batch["views"]
        _check(views)
        embeddings = self.embeddings(views)  # (V, B, D)
        scores = self.prototypes(embeddings)  # (V, B, K)
        codes = self.codes(scores[:CODE_VIEWS])
        if self.training and self.queue is not None:
            self.arrivals.append(embeddings[:CODE_VIEWS].detach())
        return {
            "loss": swapped_prediction_loss(scores, codes, self.temperature),
            "prototype_entropy": _usage_entropy(scores[:CODE_VIEWS].detach()),
        }

    def embeddings(self, views: Sequence[Tensor]) -> Tensor:
        """Embeddings (V, B, D) of unit length: one encoder pass for each crop size, one projector pass for all."""
        sizes = [list(group) for _, group in groupby(views, key=lambda view: view.shape[2:])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in sizes])  # (V · B, F), view by view
        embeddings = unit_length(self.projector(features))
        return embeddings.reshape(len(views), -1, embeddings.shape[1])

    def embed(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of unit length."""
        return self.embeddings([view])[0]

    def health(self, embeddings: Tensor) -> dict[str, float]:
        """``prototype_entropy``: how evenly slices fall on prototypes, from 0 (all on one) to 1."""
        scores = self.prototypes(embeddings.to(self.prototypes.weight))
        return {"prototype_entropy": float(_usage_entropy(scores[None]))}

    @torch.no_grad()
    def codes(self, scores: Tensor) -> list[Tensor]:
        """Codes (B, K) of each large crop from scores (A, B, K), balanced over the batch and, once full, the queue.

        The queue's embeddings are scored with the current prototypes. In training the batches of all processes are
        balanced together; every process holds the whole queue and scores its share of it.
        """
        rank, processes = (process_rank(), process_count()) if self.training else (0, 1)
        codes = []
        for view, own in enumerate(scores.unbind()):
            rows = own
            if self.queue is not None and self._queue_counts:
                rows = torch.cat([own, self.prototypes(self.queue.features[view, rank::processes])])  # (B + L, K)
            balanced = sinkhorn(rows, self.epsilon, self.sinkhorn_iterations, across_processes=processes > 1)
            codes.append(balanced[: own.shape[0]])
        return codes

    def after_backward(self, progress: Progress) -> None:
        """Add the step's embeddings to the queue; drop the prototypes' gradients while they are frozen."""
        if self.queue is not None and self._queue_fills and self.arrivals:
            self.queue.enter(process_cat(torch.cat(self.arrivals, dim=1), dim=1))  # embeddings (A, B, D)
        self.arrivals.clear()
        if progress.step < self.freeze_prototypes_steps or progress.epoch < self.freeze_prototypes_epochs:
            # None rather than zero, so that momentum and weight decay do not change them either.
            self.prototypes.weight.grad = None


def _check(views: Sequence[Tensor]) -> None:
    if len(views) < CODE_VIEWS:
        raise ValueError(f"views: SwAV needs two large crops, then small ones, found {len(views)}; use its views")
    sizes = {view.shape[0] for view in views}
    if len(sizes) > 1:
        raise ValueError(f"views: must all have one batch size, found {sorted(sizes)}; give every image every crop")


def _usage_entropy(scores: Tensor) -> Tensor:
    # From scores rather than codes, which are balanced by construction.
    nearest = F.one_hot(scores.argmax(dim=-1).flatten(), scores.shape[-1])  # (A · B, K)
    usage = nearest.to(scores.dtype).mean(dim=0)
    return -torch.xlogy(usage, usage).sum() / math.log(min(nearest.shape))
