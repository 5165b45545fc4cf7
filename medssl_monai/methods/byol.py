"""BYOL: predict a moving-average network's projection of another view (Grill et al. 2020, arXiv 2006.07733).

Shapes: B images, F features, D dimensions. y features, z projection, h prediction.
"""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from medssl_monai.losses.cosine_prediction import cosine_prediction_loss
from medssl_monai.methods.base import Method, Progress, two_views
from medssl_monai.networks.moving_average import follow, follower
from medssl_monai.networks.projection_heads import byol_mlp
from medssl_monai.networks.resnet import ResNetEncoder, resnet_encoder


class BYOL(Method):
    """Predicts the target network's projection of each view from the other view.

    Args:
        encoder: an encoder or its name; the target starts as a copy.
        hidden_dim: hidden units of projector and predictor.
        embedding_dim: D, dimensions of projections and predictions.
        momentum: τ at the start; it rises to 1 along a cosine.
        momentum_span: "run": τ reaches 1 at the end of the run. "epoch": τ reaches 1 after one epoch and falls back in
            the next, as in the code of Wolf et al. 2023.
        target_predictor: also keep, average and run a copy of the predictor, as Wolf et al. 2023 do; it does not affect
            the loss.

    The online network takes the two views one after the other, so its batch norms update twice a step. The target runs
    in training mode with its own batch statistics.

    Raises:
        ValueError: a setting is out of range.

    Example:
        >>> method = BYOL("resnet18", hidden_dim=64, embedding_dim=16)
        >>> views = [torch.randn(4, 1, 64, 64) for _ in range(2)]
        >>> sorted(method({"views": views}))
        ['loss', 'similarity']
    """

    advice = (
        "raise momentum towards 1, lower learning_rate, keep the predictor and its batch norm, or use larger batches"
    )
    capturable = True

    def __init__(
        self,
        encoder: ResNetEncoder | str = "resnet50",
        hidden_dim: int = 4096,
        embedding_dim: int = 256,
        momentum: float = 0.996,
        momentum_span: Literal["run", "epoch"] = "run",
        target_predictor: bool = False,
    ) -> None:
        super().__init__()
        if not 0.0 <= momentum <= 1.0:
            raise ValueError(f"momentum: must be from 0 to 1, found {momentum}; BYOL uses 0.996")
        if momentum_span not in ("run", "epoch"):
            raise ValueError(f"momentum_span: must be 'run' or 'epoch', found {momentum_span!r}; BYOL uses 'run'")
        self.encoder = resnet_encoder(encoder) if isinstance(encoder, str) else encoder
        self.projector = byol_mlp(self.encoder.num_features, hidden_dim, embedding_dim)
        self.predictor = byol_mlp(embedding_dim, hidden_dim, embedding_dim)
        self.target_encoder = follower(self.encoder)
        self.target_projector = follower(self.projector)
        self.target_predictor = follower(self.predictor) if target_predictor else None
        self.momentum = momentum
        self.momentum_span = momentum_span

    def forward(self, batch: Mapping[str, Any], progress: Progress | None = None) -> dict[str, Tensor]:
        """Loss of one batch, in [−4, 4]: "views" a list of two (B, 1|3, h, w).

        Also "similarity", the mean cosine of prediction and target. Raises ValueError for another number of views.
        """
        view1, view2 = two_views(batch, "BYOL")
        loss1 = cosine_prediction_loss(self.predict(view1), self.target(view2))
        loss2 = cosine_prediction_loss(self.predict(view2), self.target(view1))
        loss = loss1 + loss2
        return {"loss": loss, "similarity": loss.detach() / -4.0}

    def predict(self, view: Tensor) -> Tensor:
        """The online network's prediction h (B, D)."""
        prediction: Tensor = self.predictor(self.projector(self.encoder(view)))
        return prediction

    def embed(self, view: Tensor) -> Tensor:
        """The online network's projection (B, D)."""
        projection: Tensor = self.projector(self.encoder(view))
        return projection

    @torch.no_grad()
    def target(self, view: Tensor) -> Tensor:
        """The target network's projection z (B, D)."""
        projection: Tensor = self.target_projector(self.target_encoder(view))
        if self.target_predictor is not None:
            self.target_predictor(projection)
        return projection

    def after_step(self, progress: Progress) -> None:
        """Update the target network."""
        span = progress.total_steps if self.momentum_span == "run" else progress.steps_per_epoch
        tau = target_momentum(progress.step, span, self.momentum)
        follow(self.target_encoder, self.encoder, tau)
        follow(self.target_projector, self.projector, tau)
        if self.target_predictor is not None:
            follow(self.target_predictor, self.predictor, tau)


def target_momentum(step: int, span: int, start: float) -> float:
    """τ = 1 − (1 − start) · (cos(π · step / span) + 1) / 2 (arXiv 2006.07733, section 3.3).

    τ is 1 when `step` equals `span`, and falls again after that, with a period of twice the span.
    """
    return 1.0 - (1.0 - start) * (math.cos(math.pi * step / max(1, span)) + 1.0) / 2.0
