"""Dtypes and memory layouts that kernels take, and conversions to them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_ssm.registration.scan_orders import is_permutation

NATIVE = (torch.float32, torch.bfloat16)
"""Dtypes that kernels read and write; tensors of others are converted to fp32."""


def native(t: Tensor) -> Tensor:
    """fp32 or bf16, the last dimension contiguous."""
    t = t if t.dtype in NATIVE else t.float()
    return t if t.stride(-1) == 1 or t.shape[-1] == 1 else t.contiguous()


def dense(t: Tensor) -> Tensor:
    """fp32, contiguous."""
    return t if t.dtype == torch.float32 and t.is_contiguous() else t.float().contiguous()


def matrix(m: Tensor) -> Tensor:
    """B or C (K, B, T, G, S) in fp32, the last two dimensions contiguous."""
    m = native(m.float())
    return m if m.shape[3] == 1 or m.stride(3) == m.shape[4] else m.contiguous()


def like(t: Tensor) -> Tensor:
    """Uninitialised, of the same shape and dtype, contiguous."""
    return torch.empty_like(t, memory_format=torch.contiguous_format)


def gate(acc: Tensor | None, z: Tensor | None, y: Tensor) -> None:
    """y = acc · SiLU(z), in fp32 before it is rounded; `acc` (…, E) fp32 is the sum before the gate."""
    assert acc is not None
    assert z is not None
    y.view(acc.shape).copy_(F.silu(z.float()).mul_(acc))


def check_scan_order(scan_order: Tensor | None, length: int) -> None:
    """Raises `ValueError` for a row outside 0 to `length` - 1; on a GPU a device-side assertion, without a sync."""
    if scan_order is None or not scan_order.numel():
        return
    if scan_order.shape[-1] <= length and is_permutation(scan_order):
        return
    if scan_order.is_cuda:
        torch.ops.aten._assert_async.msg(
            ((scan_order >= 0) & (scan_order < length)).all(), "scan_order holds rows that do not exist"
        )
    elif not 0 <= int(scan_order.min()) <= int(scan_order.max()) < length:
        raise ValueError(
            f"scan_order goes from {int(scan_order.min())} to {int(scan_order.max())}; expected 0 to {length - 1}"
        )
