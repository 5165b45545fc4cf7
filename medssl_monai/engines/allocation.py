"""Memory of a training run on a CPU."""

import ctypes
import sys

# Of malloc.h.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_freed_memory() -> bool:
    """Tell the C library to keep freed memory for the next allocation until the process ends; whether it does.

    Every step allocates the same activations again. glibc gives large blocks back to the system as soon as they are
    freed, and each comes back as new pages to be zeroed, which costs a tenth of a step of ResNet-50
    (docs/performance.md). Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is None:
        return False
    wanted = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, -1), (M_TOP_PAD, 64 << 20))
    results = [set_option(option, value) for option, value in wanted]
    return all(result == 1 for result in results)
