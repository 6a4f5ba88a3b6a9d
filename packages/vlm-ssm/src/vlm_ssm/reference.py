"""The definition of every operation as a readable loop, in fp32, differentiated by autograd."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_ssm.registration.inputs import ConvInputs, ScanInputs, boundaries_of, directions_of
from vlm_ssm.segments import BEGIN, PAD, SegmentBoundaries


def recurrence(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, reset: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t;  y_t = C_t · h_t   (paper Eq. 3 and 4, B̄ = ΔB as released).

    u, dt (B, T, E); A (E, S); B, C (B, T, G, S) with E divisible by G; h (B, E, S); reset (B, T), BEGIN where the
    state of the previous position is dropped. Returns y (B, T, E) and h_T (B, E, S).
    """
    per_group, ys = u.shape[2] // B.shape[2], []
    for t in range(u.shape[1]):
        b = B[:, t].repeat_interleave(per_group, dim=1)
        c = C[:, t].repeat_interleave(per_group, dim=1)
        if reset is not None:
            h = torch.where((reset[:, t] == BEGIN)[:, None, None], 0, h)
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t]).unsqueeze(-1) * b
        ys.append((h * c).sum(-1))
    return torch.stack(ys, dim=1), h


def _each(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply to each position of (B, T, …) on its own: vectorised functions round the tail of a tensor differently, and
    results must not depend on where a chunk ends.
    """
    return torch.stack([function(row.contiguous()) for row in x.unbind(1)], dim=1)


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """As `ops.scan`, direction by direction."""
    u, dt, A, B, C, D, bias, z, h0, reset, scan_order, softplus, keep_directions = inputs
    B, C, ys, states = B.float(), C.float(), [], []
    for k in range(len(u)):
        p = k if len(A) > 1 else 0
        x, step = u[k].float(), dt[k].float()
        step = step if bias is None else step + bias[p]
        step = _each(F.softplus, step) if softplus else step
        if reset is not None:
            step = torch.where((reset == PAD).unsqueeze(-1), 0, step)
        h = x.new_zeros(len(x), *A.shape[1:]) if h0 is None else h0[k]
        y, h = recurrence(x, step, A[p], B[k], C[k], h, reset)
        y = y if D is None else y + x * D[p]
        ys.append(y if scan_order is None else torch.zeros_like(y).index_copy(1, scan_order[k], y))
        states.append(h)
    y = torch.stack(ys, dim=2) if keep_directions else torch.stack(ys).sum(0).unsqueeze(2)
    y = y if z is None else y * _each(F.silu, z.float())
    return y.to(u.dtype), torch.stack(states)


def conv(inputs: ConvInputs) -> Tensor:
    """As `ops.conv`, output by output."""
    x, weight, bias, state, _, _, _, scan_order = inputs
    outs = []
    for k in range(directions_of(inputs)):
        p, column = (k if len(weight) > 1 else 0), (k if x.shape[2] > 1 else 0)
        rows = x[:, :, column] if scan_order is None else x[:, scan_order[k], column]
        bias_p = None if bias is None else bias[p]
        outs.append(
            torch.stack(
                [_row(n, rows, weight[p], bias_p, state, boundaries_of(inputs)) for n in range(len(x))]
            )
        )
    return F.silu(torch.stack(outs)).to(x.dtype)


def _row(
    n: int,
    rows: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    state: Tensor | None,
    boundaries: SegmentBoundaries | None,
) -> Tensor:
    """Sequence n of rows (B, T, E), weight (W, E), bias (E) -> (T, E), before the SiLU."""
    past, left_pad, ys = len(weight) - 1, 0 if boundaries is None else int(boundaries.left_pad[n]), []
    for t in range(rows.shape[1]):
        y = torch.zeros_like(rows[n, t], dtype=torch.float32)
        if boundaries is None or boundaries.reset[n, t] != PAD:
            y = y if bias is None else y + bias.float()
            for j in range(past + 1):
                state_row = past + t - j - left_pad
                if boundaries is not None and j > boundaries.history[n, t]:
                    continue
                if t - j >= left_pad:
                    y = y + weight[past - j].float() * rows[n, t - j].float()
                elif state is not None and state_row >= 0:
                    y = y + weight[past - j].float() * state[n, state_row].float()
        ys.append(y)
    return torch.stack(ys)


def add_rms_norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `ops.add_rms_norm`."""
    summed = residual if out is None else residual + out
    scale = torch.rsqrt(summed.square().mean(-1, keepdim=True) + eps)
    return summed, (summed * scale * weight.float()).to(weight.dtype)
