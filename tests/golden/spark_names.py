"""Names of SparK's tensors in the reference, for those of ours; a filled model is made from them."""

import re

import torch

from medssl_monai.methods.spark import SparK
from tests.golden import fill

# (ours, reference), anchored at the start; the rest of a name is the same.
RENAMES = (
    (r"encoder\.", r"sparse_encoder.sp_cnn."),
    (r"densify\.(\d)\.norm\.", r"densify_norms.\1."),
    (r"densify\.(\d)\.projection\.", r"densify_projs.\1."),
    (r"densify\.(\d)\.mask_token", r"mask_tokens.\1"),
    (r"decoder\.projection\.", r"dense_decoder.proj."),
    (r"decoder\.stages\.(\d)\.upsample\.", r"dense_decoder.dec.\1.up_sample."),
    (r"decoder\.stages\.(\d)\.conv1\.", r"dense_decoder.dec.\1.conv.0."),
    (r"decoder\.stages\.(\d)\.norm1\.", r"dense_decoder.dec.\1.conv.1."),
    (r"decoder\.stages\.(\d)\.conv2\.", r"dense_decoder.dec.\1.conv.3."),
    (r"decoder\.stages\.(\d)\.norm2\.", r"dense_decoder.dec.\1.conv.4."),
)


def reference_name(name: str) -> str:
    """Name of our tensor in the reference's state dict."""
    for ours, theirs in RENAMES:
        if re.match(ours, name):
            return re.sub(f"^{ours}", theirs, name)
    raise KeyError(name)


def filled_state(model: SparK, seed: int) -> dict[str, torch.Tensor]:
    """A state dict for `model` made by the fill rule from the reference's names."""
    return {
        name: torch.from_numpy(fill.fill(reference_name(name), tuple(value.shape), seed).copy())
        for name, value in model.state_dict().items()
    }
