"""Addresses and strides of tensors for kernels, which read memory by address."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.numba.kernels.scan_forward import NULL_VIEW, RowView


def address(t: Tensor | None) -> int:
    """Address of the first element; 0 for None."""
    return 0 if t is None else t.data_ptr()


def rows(t: Tensor | None, outer: int, seq: int, row: int) -> RowView:
    """View of t's rows; `outer`, `seq` and `row` are its dimensions of directions, sequences and positions."""
    if t is None:
        return NULL_VIEW
    item = t.element_size()
    over = t.stride(outer) * item if t.shape[outer] > 1 else 0
    return RowView(t.data_ptr(), over, t.stride(seq) * item, t.stride(row) * item, item)


def by_direction(t: Tensor | None) -> RowView:
    """View of a tensor (K, B, T, …)."""
    return rows(t, 0, 1, 2)


def by_row(t: Tensor | None) -> RowView:
    """View of a tensor (B, T, J, E)."""
    return rows(t, 2, 0, 1)
