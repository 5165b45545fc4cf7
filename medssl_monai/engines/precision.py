"""bfloat16 on CPUs: detection, and inference with it."""

from typing import Any

import torch
from monai.inferers.inferer import Inferer
from torch import Tensor

from medssl_monai.errors import ConfigError


def cpu_has_bfloat16() -> bool:
    """Whether the CPU multiplies in bfloat16 (AVX512-BF16 or AMX); False if PyTorch is too old to report it."""
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name) is True for name in ("avx512_bf16", "amx_bf16"))


def check_bfloat16(device: torch.device) -> None:
    """Raise ConfigError for a CPU without bfloat16, on which autocast is many times slower than float32."""
    if device.type == "cpu" and not cpu_has_bfloat16():
        raise ConfigError(
            "amp=true needs a GPU, or a CPU with bfloat16 instructions (AVX512-BF16, AMX), which PyTorch does not "
            "report here; set amp=false"
        )


class Bfloat16Inferer(Inferer):
    """Runs another inferer under bfloat16 autocast on the CPU; MONAI's trainers support autocast on GPUs only.

    The result is float32, so that the loss is computed in float32.
    """

    def __init__(self, inferer: Inferer) -> None:
        super().__init__()
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Predictions (B, C) float32 of images (B, 1|3, H, W)."""
        with torch.autocast("cpu", torch.bfloat16):
            predicted: Tensor = self.inferer(inputs, network, *args, **kwargs)
        return predicted.float()
