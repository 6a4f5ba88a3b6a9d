"""What the CUDA kernels read as it is: types, alignment, strides."""

from __future__ import annotations

import torch
from torch import Tensor

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Types of rows, and the numbers that stand for them in the sources."""

GRID = 65535
"""Blocks that a grid may have in its second and third dimension."""


def rows(t: Tensor) -> Tensor:
    """fp32, bf16 or fp16 with channels next to each other."""
    t = t if t.dtype in KINDS else t.float()
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def aligned(t: Tensor) -> Tensor:
    """Rows that begin at multiples of 16 bytes: as they are, or copied."""
    size = t.element_size()
    fits = t.data_ptr() % 16 == 0 and all(
        s * size % 16 == 0 for s, n in zip(t.stride()[:-1], t.shape[:-1], strict=True) if n > 1
    )
    return t if fits and t.stride(-1) == 1 else t.clone(memory_format=torch.contiguous_format)


def strides(prefix: str, t: Tensor | None, /, **dimensions: int) -> dict[str, Tensor | int | None]:
    """A tensor and its strides over the given dimensions, as fields of a kernel's arguments; 0 where there is one."""
    fields: dict[str, Tensor | int | None] = {prefix: t}
    for name, dimension in dimensions.items():
        fields[f"{prefix}_{name}"] = 0 if t is None or t.shape[dimension] == 1 else t.stride(dimension)
    return fields


def by_direction(prefix: str, t: Tensor | None) -> dict[str, Tensor | int | None]:
    """Rows (K, N, T, E)."""
    return strides(prefix, t, k=0, n=1, t=2)


def by_row(prefix: str, t: Tensor | None) -> dict[str, Tensor | int | None]:
    """Rows (N, T, J, E), of which direction k has its own if J > 1."""
    return strides(prefix, t, k=2, n=0, t=1)


def by_matrix(prefix: str, t: Tensor) -> dict[str, Tensor | int | None]:
    """B or C (K, N, T, G, S)."""
    return strides(prefix, t, k=0, n=1, t=2, g=3)
