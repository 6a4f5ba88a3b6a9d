"""The operations in plain torch, for every device; `chunked_scan` computes the recurrence."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_ssm.registration.inputs import ConvInputs, ScanInputs, boundaries_of
from vlm_ssm.registration.scan_orders import inverse_of
from vlm_ssm.segments import BEGIN, PAD, SegmentBoundaries
from vlm_ssm.torch import chunked_scan


def with_past(x: Tensor, state: Tensor | None, boundaries: SegmentBoundaries | None, past: int) -> Tensor:
    """x (K, B, T, E) -> (K, B, past + T, E): state (B, past, E) right before the first row that is no padding."""
    if state is None:
        state = x.new_zeros(x.shape[1], past, x.shape[3])
    rows = torch.cat([state.to(x.dtype).expand(len(x), -1, -1, -1), x], dim=2)
    if boundaries is None:
        return rows
    left_pad = boundaries.left_pad.unsqueeze(1)
    position = torch.arange(rows.shape[2], device=x.device).expand(len(left_pad), -1)
    source = torch.where((position >= left_pad) & (position < left_pad + past), position - left_pad, position)
    return rows.gather(2, source[None, :, :, None].expand_as(rows))


def after(x: Tensor, state: Tensor | None, boundaries: SegmentBoundaries | None, past: int) -> Tensor:
    """The convolution state after x (B, T, E): its last `past` inputs, 0 outside the last segment -> (B, past, E)."""
    length = x.shape[1]
    if boundaries is None:
        if length >= past:
            return x[:, length - past :].clone()  # a view would keep all of x in memory
        return with_past(x.unsqueeze(0), state, None, past)[0, :, length:]
    if state is None:
        state = x.new_zeros(len(x), past, x.shape[2])
    if not length:
        return state.to(x.dtype, copy=True)
    # the last rows of the state followed by x without its padding
    row = torch.arange(length - past, length, device=x.device).expand(len(x), -1)
    earlier = row + past - boundaries.left_pad.unsqueeze(1)
    rows = torch.where(
        (row < boundaries.left_pad.unsqueeze(1)).unsqueeze(-1),
        _rows(state.to(x.dtype), earlier.clamp(0, past - 1)),
        _rows(x, row.clamp(min=0)),
    )
    reach = boundaries.history[:, -1:].long() + (boundaries.reset[:, -1:] != PAD)
    return rows * (reach >= torch.arange(past, 0, -1, device=x.device)).unsqueeze(-1)


def _rows(x: Tensor, index: Tensor) -> Tensor:
    """x (B, T, E) at `index` (B, R) -> (B, R, E)."""
    return x.gather(1, index.unsqueeze(-1).expand(-1, -1, x.shape[2]))


def along(x: Tensor, scan_order: Tensor | None) -> Tensor:
    """(B, T, J, E) -> (K, B, T, E): the rows in each scan order k, of column k if J > 1."""
    if scan_order is None:
        return x.permute(2, 0, 1, 3)
    return torch.stack([x[:, order, k if x.shape[2] > 1 else 0] for k, order in enumerate(scan_order)])


def back(y: Tensor, scan_order: Tensor | None, keep_directions: bool) -> Tensor:
    """(K, B, T, E) in their scan orders -> (B, T, J, E): summed over directions unless `keep_directions`."""
    if scan_order is not None:
        y = torch.stack([y_k[:, order] for y_k, order in zip(y, inverse_of(scan_order), strict=True)])
    return y.permute(1, 2, 0, 3) if keep_directions else y.sum(0).unsqueeze(2)


def conv(inputs: ConvInputs) -> Tensor:
    """As `ops.conv`."""
    y = F.silu(conv_sum(inputs))
    return y if inputs.reset is None else y * (inputs.reset != PAD).unsqueeze(-1)


def conv_sum(inputs: ConvInputs) -> Tensor:
    """As `ops.conv` before the SiLU; values at padding positions are undefined."""
    x, weight, bias, state, _, history, _, scan_order = inputs
    rows, past = along(x, scan_order), weight.shape[1] - 1
    length, taps = rows.shape[2], weight.to(x.dtype)[:, :, None, None].unbind(1)  # W of (P, 1, 1, E)
    padded = with_past(rows, state, boundaries_of(inputs), past)
    y = rows * taps[past]
    for j in range(1, past + 1):
        shifted = padded[:, :, past - j : past - j + length]
        if history is not None:
            shifted = shifted * (history >= j).unsqueeze(-1)
        y = torch.addcmul(y, shifted, taps[past - j])
    return y if bias is None else y + bias.to(x.dtype)[:, None, None]


def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
    """As `ops.scan`."""
    u, dt, A, B, C, D, bias, z, h0, reset, scan_order, softplus, keep_directions = inputs
    x, step, B, C = u.float(), dt.float(), B.float(), C.float()
    step = step if bias is None else step + bias[:, None, None]
    step = F.softplus(step) if softplus else step
    keep = None
    if reset is not None:
        keep = (reset != BEGIN).float()
        step = step * (reset != PAD).unsqueeze(-1)
    h = x.new_zeros(*x.shape[:2], *A.shape[1:]) if h0 is None else h0
    y, last = _recurrence(x, step, A, B, C, h, keep)
    y = back(y if D is None else y + x * D[:, None, None], scan_order, keep_directions)
    return (y if z is None else y * F.silu(z.float())).to(u.dtype), last


def _recurrence(
    x: Tensor, step: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Directions (K, B, T, …) as additional sequences or, if each has its own parameters, as additional channels."""
    directions, batch, _, width = x.shape
    if len(A) == 1:
        x, step, B, C, h = (t.flatten(0, 1) for t in (x, step, B, C, h))
        keep = None if keep is None else keep.repeat(directions, 1)
        y, last = chunked_scan.scan(x, step, A[0], B, C, h, keep)
        return y.unflatten(0, (directions, batch)), last.unflatten(0, (directions, batch))
    x, step = (t.permute(1, 2, 0, 3).flatten(2) for t in (x, step))
    B, C = (t.permute(1, 2, 0, 3, 4).flatten(2, 3) for t in (B, C))
    y, last = chunked_scan.scan(x, step, A.flatten(0, 1), B, C, h.transpose(0, 1).flatten(1, 2), keep)
    y = y.unflatten(2, (directions, width)).permute(2, 0, 1, 3)
    return y, last.unflatten(1, (directions, width)).transpose(0, 1)


def add_rms_norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """As `ops.add_rms_norm`."""
    summed = residual if out is None else residual + out
    return summed, F.rms_norm(summed, weight.shape, weight.float(), eps).to(weight.dtype)
