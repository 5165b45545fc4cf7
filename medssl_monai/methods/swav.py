"""SwAV: swapped prediction of cluster codes (Caron et al. 2020, arXiv 2006.09882).

Shapes: V views, A = 2 of them large and with codes, B images, D dimensions, K prototypes, L rows of a queue.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from medssl_monai.losses.sinkhorn import sinkhorn
from medssl_monai.losses.swapped_prediction import swapped_prediction_loss
from medssl_monai.methods.base import Method, Progress
from medssl_monai.networks.feature_queue import NewestFirstQueue
from medssl_monai.networks.projection_heads import swav_projector
from medssl_monai.networks.prototypes import Prototypes
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder
from medssl_monai.processes import process_cat, process_count, process_rank

CODE_VIEWS = 2  # the large crops, which come first


class SwAV(Method):
    """Predict the codes of two large crops from every other crop.

    Args:
        encoder: an encoder or its name.
        hidden_dim: hidden units of the projector.
        embedding_dim: D, dimensions of an embedding.
        prototypes: K; 3000 in the paper on ImageNet, 500 in Wolf et al. 2023.
        temperature: of the predictions' softmax.
        epsilon: smoothness of the codes.
        sinkhorn_iterations: alternations of Sinkhorn-Knopp.
        queue_length: L, rows a large crop; embeddings of past batches share the codes' balance with the batch. 0 is
            none; take 3840, as the paper does, or at least K, where the batch is smaller than K.
        queue_start_epoch: when embeddings begin to enter the queue; from then on it is used once it is full.
        freeze_prototypes_steps: optimizer steps during which prototypes stay as they started.
        freeze_prototypes_epochs: the same in epochs (Wolf et al. 2023 froze them for 313 epochs); the longer holds.

    Under gradient accumulation codes are balanced within a micro-batch and the queue; the whole batch enters the
    queue after its last backward pass. With several processes, `use_process_batch_norm` makes N of them, each on its
    part of the batch in the order of their ranks, compute what one computes on the whole.
    """

    advice = (
        "freeze the prototypes for longer, lower epsilon towards 0.03, use a queue where batches are smaller than the "
        "number of prototypes, or lower learning_rate"
    )

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
                raise ValueError(f"{name}: a positive number, found {value}; SwAV takes {usual}")
        if prototypes < 2:
            raise ValueError(f"prototypes: at least 2, found {prototypes}; SwAV takes 3000, Wolf et al. 500")
        if queue_length < 0:
            raise ValueError(f"queue_length: 0 for none, or more, found {queue_length}; SwAV takes 3840")
        self.encoder = resnet_encoder(encoder) if isinstance(encoder, str) else encoder
        self.projector = swav_projector(self.encoder.num_features, hidden_dim, embedding_dim)
        self.prototypes = Prototypes(embedding_dim, prototypes)
        self.queue = NewestFirstQueue(CODE_VIEWS, queue_length, embedding_dim) if queue_length else None
        self.temperature = temperature
        self.epsilon = epsilon
        self.sinkhorn_iterations = sinkhorn_iterations
        self.queue_start_epoch = queue_start_epoch
        self.freeze_prototypes_steps = freeze_prototypes_steps
        self.freeze_prototypes_epochs = freeze_prototypes_epochs
        self._arrivals: list[Tensor] = []  # embeddings (A, B, D) of this step, on their way to the queue
        # Decided before each step, so that the forward pass neither waits for the device nor splits when compiled.
        self._queue_fills = self._queue_counts = False

    def before_step(self, progress: Progress) -> None:
        """Normalise the prototypes; see whether the queue is filled and full."""
        self._arrivals.clear()
        self.prototypes.normalise()
        self._queue_fills = self.queue is not None and progress.epoch >= self.queue_start_epoch
        self._queue_counts = self._queue_fills and self.queue is not None and self.queue.is_full

    def forward(self, batch: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Tensor]:
        """Loss of one batch: "views" a list (V) of (B, 1|3, h, w), the two large crops first.

        Also "prototype_entropy": how evenly the large crops are spread over their nearest prototypes, from 0, where
        one takes all, to 1. Raises ValueError for fewer than two views, or views of different batches.
        """
        views: Sequence[Tensor] = batch["views"]
        _check(views)
        embeddings = self.embeddings(views)  # (V, B, D)
        scores = self.prototypes(embeddings)  # (V, B, K)
        codes = self.codes(scores[:CODE_VIEWS])
        if self.training and self._queue_fills:
            self._arrivals.append(embeddings[:CODE_VIEWS].detach())
        return {
            "loss": swapped_prediction_loss(scores, codes, self.temperature),
            "prototype_entropy": _usage_entropy(scores[:CODE_VIEWS].detach()),
        }

    def embeddings(self, views: Sequence[Tensor]) -> Tensor:
        """Embeddings (V, B, D) of unit length: one pass of the encoder a crop size, one of the projector for all."""
        sizes = [list(group) for _, group in groupby(views, key=lambda view: view.shape[2:])]
        features = torch.cat([self.encoder(torch.cat(group)) for group in sizes])  # (V · B, F), view by view
        projected = self.projector(features)
        exact = projected.to(torch.promote_types(projected.dtype, torch.float32))
        return F.normalize(exact, dim=1).reshape(len(views), -1, exact.shape[1])

    def embed(self, view: Tensor) -> Tensor:
        """Embeddings (B, D) of unit length."""
        return self.embeddings([view])[0]

    def health(self, embeddings: Tensor) -> dict[str, float]:
        """``prototype_entropy``: how evenly slices fall on prototypes, from 0, where one takes all."""
        scores = self.prototypes(embeddings.to(self.prototypes.weight))
        return {"prototype_entropy": float(_usage_entropy(scores[None]))}

    @torch.no_grad()
    def codes(self, scores: Tensor) -> list[Tensor]:
        """Codes (B, K) of each large crop from scores (A, B, K), balanced over the batch and, once full, the queue.

        The queue's embeddings are scored against the prototypes as they now are. In training all processes' batches
        are balanced together; every process holds the whole queue and scores its share of it.
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
        """Let the step's embeddings enter the queue; drop the prototypes' gradients while they are frozen."""
        if self.queue is not None and self._arrivals:
            self.queue.enter(process_cat(torch.cat(self._arrivals, dim=1), dim=1))
        self._arrivals.clear()
        if progress.step < self.freeze_prototypes_steps or progress.epoch < self.freeze_prototypes_epochs:
            # None, not zero: momentum and weight decay must not move them either.
            self.prototypes.weight.grad = None


def _check(views: Sequence[Tensor]) -> None:
    if len(views) < CODE_VIEWS:
        raise ValueError(f"views: SwAV needs two large crops, then small ones, found {len(views)}; use SwAV's views")
    sizes = {view.shape[0] for view in views}
    if len(sizes) > 1:
        raise ValueError(f"views: all of one batch size, found {sorted(sizes)}; give every image every crop")


def _usage_entropy(scores: Tensor) -> Tensor:
    # Codes would not tell: they are balanced by construction.
    nearest = F.one_hot(scores.argmax(dim=-1).flatten(), scores.shape[-1])  # (A · B, K)
    usage = nearest.to(scores.dtype).mean(dim=0)
    return -torch.xlogy(usage, usage).sum() / math.log(min(nearest.shape))
