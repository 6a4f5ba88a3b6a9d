"""The operations on the CUDA kernels of mamba_ssm and causal_conv1d; the only file that imports these libraries.

Features that the kernels lack are expressed exactly through those they have, without a GPU sync:

- *initial state*: S additional positions in front, the i-th of which sets state i through a one-hot B;
- *segments*: at a segment's start Δ is so large that the old state decays to 0, and u is scaled to keep Δu; padding has
  Δ = 0;
- *directions*: additional sequences or, if each has its own parameters, additional groups of channels.

causal_conv1d supports 2 to 4 taps, widths divisible by 8, and no segments together with a state: other convolutions run
on plain torch. The scan's backward has no gradient of the last state: a loss that needs it raises `BackendError`.
"""

from __future__ import annotations

from typing import Any

import causal_conv1d_cuda  # noqa: F401  # pyright: ignore[reportMissingImports]
import selective_scan_cuda  # noqa: F401  # pyright: ignore[reportMissingImports]
import torch
import torch.nn.functional as F
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update  # pyright: ignore[reportMissingImports]
from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # pyright: ignore[reportMissingImports]
from mamba_ssm.ops.triton.selective_state_update import (  # pyright: ignore[reportMissingImports]
    selective_state_update,
)
from torch import Tensor

from vlm_ssm.registration.inputs import ConvInputs, ScanInputs
from vlm_ssm.registration.torch_modes import grad_needed
from vlm_ssm.runtime.errors import BackendError
from vlm_ssm.segments import BEGIN, PAD
from vlm_ssm.torch import ops
from vlm_ssm.torch.ops import add_rms_norm

__all__ = ["add_rms_norm", "conv", "scan"]

_SHORT = 2.0**-10  # Δ of the positions in front
_FULL_DECAY = 128.0  # e^-128 is 0 in fp32


class _LastState(torch.autograd.Function):
    """Identity whose backward raises: mamba_ssm has no gradient of the last state."""

    @staticmethod
    def forward(ctx: Any, state: Tensor, y: Tensor) -> Tensor:
        return state.clone()

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise BackendError(
            "scan backend 'mamba_ssm' has no gradient of the last state, and this loss depends on it; "
            "use VLM_SCAN_BACKEND=triton"
        )


def _in_front(
    u: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Prepend S positions, after which the state is h0 (B, E, S). Rows are (B, E, T), matrices (B, G, S, T)."""
    states, (batch, groups) = A.shape[1], B.shape[:2]
    # positions through which state i decays after it is set
    remaining = torch.arange(states - 1, -1, -1, device=u.device)
    target = h0 * torch.exp(-_SHORT * A * remaining)
    one_hot = torch.eye(states, device=u.device).expand(batch, groups, -1, -1)
    return (
        torch.cat([target / _SHORT, u], -1),
        F.pad(step, (states, 0), value=_SHORT),
        torch.cat([one_hot, B], -1),
        F.pad(C, (states, 0)),
    )


def _forgetting(u: Tensor, step: Tensor, A: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """u and Δ (B, E, T) that reset the state at segment starts and skip padding; A (E, S) must be negative."""
    if A.is_cuda:
        torch.ops.aten._assert_async.msg(
            (A < 0).all(), "mamba_ssm's kernel can't forget a state that doesn't decay: A >= 0"
        )
    elif not bool((A < 0).all()):
        raise BackendError("scan backend 'mamba_ssm' can't forget a state that doesn't decay: A >= 0")
    step = torch.where((reset == PAD).unsqueeze(1), 0.0, step)
    long = (_FULL_DECAY / A.detach().abs().amin(1))[:, None].expand_as(step)
    begins = (reset == BEGIN).unsqueeze(1)
    return torch.where(begins, u * step / long, u), torch.where(begins, long, step)


def _recurrence(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """Rows (B, E, T), matrices (B, G, S, T), parameters (E, …) -> gated y like u, last state (B, E, S)."""
    u, dt, A, B, C, D, bias, z, h0, reset, _, softplus, _ = inputs
    if h0 is None and reset is None:
        B, C = B.to(u.dtype), C.to(u.dtype)  # the kernel's dtypes
        return selective_scan_fn(u, dt, A, B, C, D, z, bias, softplus, return_last_state=True)
    B, C, x = B.float(), C.float(), u.float()
    step = dt.float() if bias is None else dt.float() + bias[:, None]
    step = F.softplus(step) if softplus else step
    through = x
    if reset is not None:
        through, step = _forgetting(x, step, A, reset)
    if h0 is not None:
        through, step, B, C = _in_front(through, step, A, B, C, h0)
    y, last = selective_scan_fn(
        through.contiguous(), step.contiguous(), A, B.contiguous(), C.contiguous(), return_last_state=True
    )
    y = y[..., -u.shape[2] :]
    y = y if D is None else y + x * D[:, None]
    return (y if z is None else y * F.silu(z.float())).to(u.dtype), last


def _folded(t: Tensor, per_direction: bool) -> Tensor:
    """(K, B, T, …, C) -> (KB, …, C, T), or, if directions have their own parameters, (B, K·…, T)."""
    t = t.movedim(2, -1)
    return (t.transpose(0, 1).flatten(1, 2) if per_direction else t.flatten(0, 1)).contiguous()


def _step(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """One position of one direction."""
    u, dt, A, B, C, D, bias, z, h0, *_ = inputs
    assert h0 is not None
    state = h0[0].clone()
    b, c = (m[0, :, 0, 0].to(u.dtype) for m in (B, C))
    y = selective_state_update(
        state,
        u[0, :, 0].contiguous(),
        dt[0, :, 0].contiguous(),
        A[0],
        b,
        c,
        None if D is None else D[0],
        None if z is None else z[:, 0, 0].contiguous(),
        None if bias is None else bias[0],
        dt_softplus=inputs.softplus,
    )
    return y[:, None, None], state.unsqueeze(0)


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """As `ops.scan`."""
    u, _, A, B, _, _, _, z, h0, reset, scan_order, _, keep_directions = inputs
    (K, N, T, E), per_direction = u.shape, len(A) > 1
    alone = K == 1 and scan_order is None
    grad = grad_needed(*inputs[:9])
    if alone and T == 1 and B.shape[3] == 1 and h0 is not None and reset is None and not grad:
        return _step(inputs)
    y, last = _recurrence(_as_sequences(inputs, per_direction, alone))
    last = _LastState.apply(last, y) if grad else last
    if per_direction:
        y, last = (t.unflatten(1, (K, E)).transpose(0, 1) for t in (y, last))
    else:
        y, last = (t.unflatten(0, (K, N)) for t in (y, last))
    y = ops.back((y if alone else y.float()).transpose(2, 3), scan_order, keep_directions)
    if z is not None and not alone:
        y = y * F.silu(z.float())
    return y.to(u.dtype), last


def _as_sequences(inputs: ScanInputs, per_direction: bool, alone: bool) -> ScanInputs:
    """Directions as sequences or, with `per_direction` parameters, as channels; a gate only for one (`alone`)."""
    u, dt, A, B, C, D, bias, z, h0, reset, *_ = inputs
    if reset is not None and not per_direction:
        reset = reset.repeat(len(u), 1)
    if h0 is not None:
        h0 = h0.transpose(0, 1).flatten(1, 2) if per_direction else h0.flatten(0, 1)
    u, dt = _folded(u, per_direction), _folded(dt, per_direction)
    dtype = torch.promote_types(u.dtype, dt.dtype)
    gate = z.permute(2, 0, 3, 1).flatten(0, 1).to(dtype).contiguous() if alone and z is not None else None
    return ScanInputs(
        u.to(dtype),
        dt.to(dtype),
        A.flatten(0, 1),
        _folded(B, per_direction),
        _folded(C, per_direction),
        None if D is None else D.flatten(),
        None if bias is None else bias.flatten(),
        gate,
        h0,
        reset,
        softplus=inputs.softplus,
    )


def conv(inputs: ConvInputs) -> Tensor:
    """As `ops.conv`."""
    x, weight, bias, state, reset, _, _, scan_order = inputs
    taps, width = weight.shape[1:]
    if reset is not None or width % 8 or not 2 <= taps <= 4:
        return ops.conv(inputs)
    rows, per_direction = ops.along(x, scan_order), len(weight) > 1
    K, N, T, _ = rows.shape
    if K > 1 and state is not None:
        state = state.repeat(1, 1, K) if per_direction else state.repeat(K, 1, 1)
    # channels stay contiguous
    rows = rows.permute(1, 2, 0, 3).flatten(2) if per_direction else rows.flatten(0, 1)
    weights = weight.transpose(1, 2).flatten(0, 1).to(x.dtype)
    biases = None if bias is None else bias.flatten().to(x.dtype)
    if T == 1 and state is not None and not grad_needed(x, weight, bias, state):
        window = state.to(x.dtype).transpose(1, 2).contiguous()
        y = causal_conv1d_update(rows[:, 0].contiguous(), window, weights, biases, activation="silu")
        y = y.unsqueeze(1)
    else:
        past = None if state is None else state.to(x.dtype).contiguous().transpose(1, 2)
        transposed = rows.contiguous().transpose(1, 2)
        y = causal_conv1d_fn(transposed, weights, biases, initial_states=past, activation="silu")
        y = y.transpose(1, 2)
    return y.unflatten(2, (K, width)).permute(2, 0, 1, 3) if per_direction else y.unflatten(0, (K, N))
