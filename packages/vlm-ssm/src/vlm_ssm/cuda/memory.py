"""What the CUDA kernels read as it is: types, alignment, strides."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

KINDS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""Types of rows, and the numbers that stand for them in the sources."""

GRID = 65535
"""Blocks that a grid may have in its second and third dimension."""


class Layout(NamedTuple):
    """What a launch depends on of a tensor that its kernel reads with strides."""

    shape: torch.Size
    strides: tuple[int, ...]
    dtype: torch.dtype

    def stride(self, dimension: int) -> int:
        return self.strides[dimension]


def layout(t: Tensor) -> Layout:
    return Layout(t.shape, t.stride(), t.dtype)


def rows(t: Tensor) -> Tensor:
    """fp32, bf16 or fp16 with channels next to each other."""
    t = t if t.dtype in KINDS else t.float()
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def aligned(t: Tensor) -> Tensor:
    """Rows that begin at multiples of 16 bytes: as they are, or copied."""
    if t.data_ptr() % 16 == 0 and _strides_fit(t.shape, t.stride(), t.element_size()):
        return t
    return t.clone(memory_format=torch.contiguous_format)


@lru_cache(4096)
def _strides_fit(shape: torch.Size, strides: tuple[int, ...], item: int) -> bool:
    fits = (s * item % 16 == 0 for s, n in zip(strides[:-1], shape[:-1], strict=True) if n > 1)
    return strides[-1] == 1 and all(fits)


def strides(prefix: str, t: Layout | None, /, **dimensions: int) -> dict[str, int]:
    """A tensor's strides over the given dimensions, as fields of a kernel's arguments; 0 where there is one."""
    fields = {}
    for name, dimension in dimensions.items():
        fields[f"{prefix}_{name}"] = 0 if t is None or t.shape[dimension] == 1 else t.stride(dimension)
    return fields


def by_direction(prefix: str, t: Layout | None) -> dict[str, int]:
    """Rows (K, N, T, E)."""
    return strides(prefix, t, k=0, n=1, t=2)


def by_row(prefix: str, t: Layout | None) -> dict[str, int]:
    """Rows (N, T, J, E), of which direction k has its own if J > 1."""
    return strides(prefix, t, k=2, n=0, t=1)


def by_matrix(prefix: str, t: Layout) -> dict[str, int]:
    """B or C (K, N, T, G, S)."""
    return strides(prefix, t, k=0, n=1, t=2, g=3)
