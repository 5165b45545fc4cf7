"""Seeds, and which of cuDNN's algorithms a training runs."""

import torch
from monai.utils import set_determinism


def seed_training(seed: int, deterministic: bool = True) -> None:
    """Seed the generators of torch, NumPy and Python, and choose cuDNN's algorithms.

    Args:
        seed: of all generators.
        deterministic: cuDNN runs only algorithms that add in a fixed order, so that a command that is repeated on the
            same machine and versions gives the same weights, as far as PyTorch's own kernels do. False is PyTorch's
            default: the fastest algorithms by cuDNN's rules, some of which round differently each time.
    """
    set_determinism(seed=seed)
    torch.backends.cudnn.deterministic = deterministic
