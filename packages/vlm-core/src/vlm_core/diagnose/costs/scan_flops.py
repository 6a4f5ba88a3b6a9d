"""FLOPs of the selective scan; a multiplication, an addition and an exp count one each.

Forward, per position, channel and state: Δ·A, exp, Ā·h, (Δu)·B, their sum, and C·h summed up: 7. Backward:
recomputed states (5), ∂C (2), ∂h from y and from the next position (3), ∂B (2), ∂x (2), ∂(ΔA) (2), ∂A (2) and ∂Δ (2):
20. Operations per channel (D, gate, convolution, softplus) are not counted, as torch's counter does not count
element-wise operations.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import prod
from typing import Any

import torch

FORWARD, BACKWARD = 7, 20


def formulas() -> dict[Any, Callable[..., int]]:
    """FLOP formulas of the registered operations, in the format of torch's flop counter."""
    if find_spec("vlm_ssm") is None:
        return {}
    import vlm_ssm  # noqa: F401  registers the operations

    ops = torch.ops.vlm_ssm
    by_op: dict[Any, Callable[..., int]] = {ops.scan: _scan, ops.scan_backward: _scan_backward}
    for name in ("numba_scan", "triton_scan"):
        if hasattr(ops, name):
            by_op |= {getattr(ops, name): _scan, getattr(ops, f"{name}_backward"): _kernel_backward}
    for formula in by_op.values():  # torch's counter then passes tensors, not shapes
        formula.__dict__["_get_raw"] = True
    return by_op


def _size(u: Any, A: Any) -> int:
    """Positions × channels × states: u (…, T, E), A (…, E, S)."""
    return prod(u.shape) * A.shape[-1]


def _scan(u: Any, dt: Any, A: Any, *_: Any, **__: Any) -> int:
    return FORWARD * _size(u, A)


def _scan_backward(
    grad_y: Any, grad_last: Any, starts: Any, u: Any, dt: Any, A: Any, *_: Any, **__: Any
) -> int:
    return BACKWARD * _size(u, A)


def _kernel_backward(grad_out: Any, grad_last: Any, u: Any, dt: Any, A: Any, *_: Any, **__: Any) -> int:
    return BACKWARD * _size(u, A)
