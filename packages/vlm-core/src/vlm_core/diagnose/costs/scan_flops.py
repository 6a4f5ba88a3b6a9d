"""FLOPs of the selective scan, which no matrix product shows; multiplications, additions and exp count one each.

Forward, for every position, channel and state: Δ·A, exp, Ā·h, (Δu)·B, their sum, and C·h summed up: 7. Backward:
the states once more (5), then ∂C (2), ∂h from y and from the next position (3), ∂B (2), ∂x (2), ∂(ΔA) (2), ∂A (2)
and ∂Δ (2): 20. What is done once a channel (D, gate, convolution, softplus) is not counted, as torch's counter
does not count element-wise operations.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from math import prod
from typing import Any

import torch

FORWARD, BACKWARD = 7, 20


def formulas() -> dict[Any, Callable[..., int]]:
    """By operation, called as torch's flop counter calls its own; for the operations that are registered."""
    if find_spec("vlm_ssm") is None:
        return {}
    import vlm_ssm  # noqa: F401  registers them

    ops = torch.ops.vlm_ssm
    found: dict[Any, Callable[..., int]] = {ops.scan: _scan, ops.scan_backward: _scan_backward}
    for name in ("numba_scan", "triton_scan"):
        if hasattr(ops, name):
            found |= {getattr(ops, name): _scan, getattr(ops, f"{name}_backward"): _fast_backward}
    for formula in found.values():  # torch's own counter then hands over tensors, not shapes
        formula.__dict__["_get_raw"] = True
    return found


def _size(u: Any, A: Any) -> int:
    """Positions × channels × states: u (…, T, E), A (…, E, S)."""
    return prod(u.shape) * A.shape[-1]


def _scan(u: Any, dt: Any, A: Any, *_: Any, **__: Any) -> int:
    return FORWARD * _size(u, A)


def _scan_backward(
    grad_y: Any, grad_last: Any, starts: Any, u: Any, dt: Any, A: Any, *_: Any, **__: Any
) -> int:
    return BACKWARD * _size(u, A)


def _fast_backward(grad_out: Any, grad_last: Any, u: Any, dt: Any, A: Any, *_: Any, **__: Any) -> int:
    return BACKWARD * _size(u, A)
