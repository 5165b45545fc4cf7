"""Deterministic fill rule used by every golden vector (numpy only; torch optional).

    values(N, S, SEED) = Generator(PCG64(crc32(N as UTF-8) + SEED)).standard_normal(S)   # float64, C order
                         .astype(float32)                                                # first cast ...
                         * float32(scale) + float32(shift)                               # ... then scale in float32

`N` is the *key* of the tensor in the state dict named in the README for the file at hand.
The scale/shift depend only on the key's suffix and on the number of dimensions (`kind_of`).
"""

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def raw(name: str, shape: Sequence[int], seed: int) -> Array:
    g = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode("utf-8")) + int(seed)))
    return np.asarray(g.standard_normal(tuple(int(s) for s in shape)), dtype=np.float64).astype(np.float32)


def kind_of(name: str, shape: Sequence[int]) -> str:
    """One of: count, mean, var, token, matrix, norm_weight, bias, plain."""
    leaf = name.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return "count"
    if leaf == "running_mean":
        return "mean"
    if leaf == "running_var":
        return "var"
    if "mask_token" in name:
        return "token"
    if len(shape) >= 2:
        return "matrix"  # conv, transposed conv, linear, prototypes
    if leaf == "weight":
        return "norm_weight"
    if leaf == "bias":
        return "bias"
    return "plain"


def fill(name: str, shape: Sequence[int], seed: int, kind: str | None = None) -> Array:
    """Array for state-dict entry `name`. float32 except kind 'count' (int64 zero)."""
    kind = kind or kind_of(name, shape)
    f = np.float32
    if kind == "count":
        return np.zeros(tuple(shape), np.int64)
    z = raw(name, shape, seed)
    if kind in ("mean", "bias"):
        return z * f(0.1)
    if kind == "var":
        return np.asarray(np.abs(f(1.0) + z * f(0.1)))
    if kind == "norm_weight":
        return f(1.0) + z * f(0.1)
    if kind == "token":
        return z * f(0.02)
    if kind == "matrix":
        fan_in = int(np.prod([int(s) for s in shape[1:]]))
        return z * f(math.sqrt(2.0 / fan_in))
    if kind == "plain":
        return z
    raise ValueError(kind)


# state-dict entries the rule never touches (constants of the reference model)
KEEP = ("imn_m", "imn_s", "norm_black")


def fill_state_dict(shapes: Mapping[str, Sequence[int]], seed: int, prefix: str = "") -> dict[str, Array]:
    """{key: shape} -> {key: array}; `prefix` is put before the key when the name is hashed."""
    return {k: fill(prefix + k, s, seed) for k, s in shapes.items() if k.rsplit(".", 1)[-1] not in KEEP}


def fill_module_(module: Any, seed: int, prefix: str = "") -> Any:
    """Fill a torch module in place from its state dict (needs torch). Returns the module."""
    import torch

    with torch.no_grad():
        for k, v in module.state_dict().items():
            if k.rsplit(".", 1)[-1] in KEEP:
                continue
            v.copy_(torch.from_numpy(np.asarray(fill(prefix + k, tuple(v.shape), seed))))
    return module


def unit_columns(a: Any) -> Array:
    """Columns to unit L2 norm, computed in float64, stored float32 (MoCo queues, shape (dim, K))."""
    a = np.asarray(a, np.float64)
    unit: Array = (a / np.linalg.norm(a, axis=0, keepdims=True)).astype(np.float32)
    return unit


def unit_rows(a: Any) -> Array:
    a = np.asarray(a, np.float64)
    unit: Array = (a / np.linalg.norm(a, axis=1, keepdims=True)).astype(np.float32)
    return unit


def load(path: str | Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """npz -> (meta dict, {name: array})."""
    z = np.load(path, allow_pickle=False)
    meta = json.loads(str(z["meta"])) if "meta" in z.files else {}
    return meta, {k: z[k] for k in z.files if k != "meta"}
