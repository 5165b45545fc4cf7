"""Where a classifier looks: Grad-CAM (Selvaraju et al. 2017, arXiv 1610.02391) and occlusion (Zeiler and Fergus 2014,
arXiv 1311.2901) over the view that the network saw.

Shapes: view (3, S, S) float32, normalised; map (S, S) in [0, 1].
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from monai.data.meta_tensor import MetaTensor
from monai.visualize import GradCAM, OcclusionSensitivity
from torch import Tensor, nn

from medssl_monai.classify.predictions import Predictions

Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Example:
    """A slice to be shown: its place in the data set, its class, the class predicted, and its probability."""

    index: int
    label: int
    predicted: int
    confidence: float


def grad_cam(network: nn.Module, view: Tensor, class_index: int, layer: str = "layer4") -> Floats:
    """Map (S, S) of what speaks for a class: 0 nothing, 1 the most in this view.

    Args:
        network: a torchvision ResNet; put into evaluation mode.
        view: (3, S, S).
        class_index: of the class asked about.
        layer: the activations of this layer are weighted; ``layer4`` has cells of 32² pixels.
    """
    network.eval()
    device = next(network.parameters()).device
    image = view[None].to(device).requires_grad_()  # gradients reach the layer although the encoder may be frozen
    found = GradCAM(nn_module=network, target_layers=layer, postprocessing=_as_it_is)(x=image, class_idx=class_index)
    heat = np.asarray(torch.as_tensor(found)[0, 0].detach().cpu().numpy(), dtype=np.float64)
    heat = np.maximum(heat, 0)
    return heat / heat.max() if heat.max() > 0 else heat


def _as_it_is(heat: Any) -> Any:
    """MONAI's own normaliser maps the strongest to 0."""
    return heat


def occlusion_map(
    network: nn.Module, view: Tensor, class_index: int, *, patch: int = 32, task: str = "multiclass"
) -> Floats:
    """Map (S, S) of how much the class's probability falls where a patch is hidden; below 0 where it rises.

    Args:
        network: images to logits; put into evaluation mode.
        view: (3, S, S).
        class_index: of the class asked about.
        patch: side of what is replaced by the view's mean, in pixels; at most S. Half of it is the stride.
        task: ``multiclass`` or ``multilabel``, which decides how logits become probabilities.
    """
    network.eval()
    image = view[None].to(next(network.parameters()).device)

    def probabilities(logits: Tensor) -> Tensor:
        return logits.sigmoid() if task == "multilabel" else logits.softmax(dim=1)

    with torch.no_grad(), warnings.catch_warnings():
        # MONAI indexes tensors by lists of slices, which torch deprecates.
        warnings.filterwarnings("ignore", "Using a non-tuple sequence for multidimensional indexing", UserWarning)
        whole = float(probabilities(network(image))[0, class_index])
        hide = OcclusionSensitivity(
            network, mask_size=patch, n_batch=32, verbose=False, mode="mean_img", overlap=0.5, activate=probabilities
        )
        hidden, _ = hide(image)
    found = hidden[0, class_index]
    found = found.as_tensor() if isinstance(found, MetaTensor) else found
    return whole - np.asarray(found.cpu().numpy(), dtype=np.float64)


def choose_examples(predictions: Predictions, count: int) -> list[Example]:
    """Of each class in turn the surest right answer, and the surest wrong one, until there are ``count``.

    Of several labels the slice where each label holds and is surest.

    Args:
        predictions: labelled.
        count: examples at most.
    """
    labels, probabilities = predictions.arrays()
    several = predictions.task == "multilabel"
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    found: list[Example] = []
    for right in (True,) if several else (True, False):
        for c in range(len(predictions.classes)):
            holds = labels[:, c] if several else (labels == c) & ((predicted == labels) == right)
            surest = np.where(holds, probabilities[:, c] if several else confidence, -1.0)
            if holds.any():
                i = int(surest.argmax())
                found.append(Example(i, c, c if several else int(predicted[i]), float(surest[i])))
    return found[:count]
