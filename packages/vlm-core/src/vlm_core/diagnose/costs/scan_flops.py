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
    for name in ("numba_scan", "triton_scan", "cuda_scan"):
        if hasattr(ops, name):
            by_op |= {getattr(ops, name): _scan, getattr(ops, f"{name}_backward"): _kernel_backward}
    by_op |= {ops.mixer: _mixer, ops.mixer_backward: _mixer_backward}
    for formula in by_op.values():  # torch's counter then passes tensors, not shapes
        formula.__dict__["_get_raw"] = True
    return by_op


def _size(u: Any, A: Any) -> int:
    """Positions × channels × states: u (…, T, E), A (…, E, S)."""
    return prod(u.shape) * A.shape[-1]


def _products(in_proj: Any, x_proj: Any, dt_proj: Any, out_proj: Any) -> int:
    """Numbers in the matrices of a layer."""
    return sum(prod(matrix.shape) for matrix in (in_proj, x_proj, dt_proj, out_proj))


def _mixer(x: Any, out: Any, norm: Any, in_proj: Any, *rest: Any, **__: Any) -> int:
    """A whole layer; the order of its inputs is that of `vlm_ssm.fused.inputs.MixerInputs`."""
    _, _, _, x_proj, dt_proj, _, A_log, _, out_proj, *_ = rest
    rows = prod(x.shape[:-1])
    return rows * (2 * _products(in_proj, x_proj, dt_proj, out_proj) + FORWARD * prod(A_log.shape))


def _mixer_backward(*arguments: Any, **__: Any) -> int:
    """Products for gradients of inputs and of those weights that need one; not what is computed again."""
    *given, needs = arguments
    x, _, _, in_proj, _, _, _, x_proj, dt_proj, _, A_log, _, out_proj, *_ = given[4:]
    everything = _products(in_proj, x_proj, dt_proj, out_proj)
    weights = {3: in_proj, 7: x_proj, 8: dt_proj, 12: out_proj}  # by their places among the inputs
    trained = sum(prod(weight.shape) for place, weight in weights.items() if needs[place])
    inputs = everything if any(needs[:3]) else everything - prod(in_proj.shape)
    rows = prod(x.shape[:-1])
    return rows * (2 * (inputs + trained) + BACKWARD * prod(A_log.shape))


def _scan(u: Any, dt: Any, A: Any, *_: Any, **__: Any) -> int:
    return FORWARD * _size(u, A)


def _scan_backward(
    grad_y: Any, grad_last: Any, starts: Any, u: Any, dt: Any, A: Any, *_: Any, **__: Any
) -> int:
    return BACKWARD * _size(u, A)


def _kernel_backward(grad_out: Any, grad_last: Any, u: Any, dt: Any, A: Any, *_: Any, **__: Any) -> int:
    return BACKWARD * _size(u, A)
