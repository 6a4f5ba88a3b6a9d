"""The selective scan in plain torch, always there: chunks of time in one buffer, backward by hand.

Discretisation and output are whole-chunk operations; only h_t = Ā_t h_{t-1} + x_t runs step by step, one
in-place `addcmul_` each. The backward recomputes a chunk's states from the state saved at its start, so
memory is that of one chunk plus T/chunk states, and time is linear in T (autograd through a loop that
slices a tensor is quadratic).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

_FLOATS_A_BUFFER = 400_000  # two such buffers fit a core's L2 and L3 together; larger ones measured slower


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """fp32 means fp32, also in mixed precision; devices without autocast (meta) need nothing."""
    device = x.device.type
    return torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext()


def _chunk(u: Tensor, A: Tensor) -> int:
    return max(4, min(64, _FLOATS_A_BUFFER // (u.shape[0] * A.numel())))


def _states(
    dt: Tensor, x: Tensor, A: Tensor, B: Tensor, keep: Tensor | None, h: Tensor
) -> tuple[Tensor, Tensor]:
    """One chunk, time first: dt, x = Δu (c, B, E); B (c, B, G, S); h (B, E, S) -> Ā and states (c, B, E, S)."""
    decay = torch.mul(dt.unsqueeze(-1), A).exp_()
    if keep is not None:
        decay.mul_(keep[..., None, None])
    groups = B.shape[2]
    states = torch.mul(x.unflatten(2, (groups, -1)).unsqueeze(-1), B.unsqueeze(3)).flatten(2, 3)
    for i in range(len(states)):
        h = states[i].addcmul_(decay[i], h)
    return decay, states


def _chunks(tensors: list[Tensor | None], size: int) -> list[list[Any]]:
    """Each (B, T, …) tensor as time-first contiguous chunks of `size` steps; None stays None."""
    length = next(t for t in tensors if t is not None).shape[1]
    return [
        [None if t is None else t[:, i : i + size].transpose(0, 1).contiguous() for t in tensors]
        for i in range(0, length, size)
    ]


@torch.library.custom_op("vlm_core::scan", mutates_args=())
def _forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    size, h = _chunk(u, A), h0
    ys, starts = [], []
    for u_c, dt_c, B_c, C_c, keep_c in _chunks([u, dt, B, C, keep], size):
        starts.append(h)
        _, states = _states(dt_c, dt_c * u_c, A, B_c, keep_c, h)
        h = states[-1].clone()
        grouped = states.unflatten(2, (C.shape[2], -1))
        ys.append(torch.matmul(grouped, C_c.unsqueeze(-1)).squeeze(-1).flatten(2))
    return torch.cat(ys).transpose(0, 1).contiguous(), h, torch.stack(starts)


@_forward.register_fake
def _(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None):
    chunks = -(-u.shape[1] // _chunk(u, A))
    return torch.empty_like(u), torch.empty_like(h0), h0.new_empty(chunks, *h0.shape)


def _backward_chunk(
    grad_y: Tensor,
    carry: Tensor,
    start: Tensor,
    A: Tensor,
    chunk: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of one chunk (time first) and the carry into the chunk before it."""
    u, dt, B, C, keep = chunk
    groups = B.shape[2]
    x = dt * u
    decay, states = _states(dt, x, A, B, keep, start)
    grouped_y, grouped_x = grad_y.unflatten(2, (groups, -1)), x.unflatten(2, (groups, -1))
    grad_h = torch.mul(grouped_y.unsqueeze(-1), C.unsqueeze(3)).flatten(2, 3)
    grad_C = torch.matmul(grouped_y.unsqueeze(3), states.unflatten(2, (groups, -1))).squeeze(3)
    grad_h[-1] += carry
    for i in range(len(grad_h) - 2, -1, -1):
        grad_h[i].addcmul_(decay[i + 1], grad_h[i + 1])
    carry = decay[0] * grad_h[0]
    by_group = grad_h.unflatten(2, (groups, -1))
    grad_B = torch.matmul(grouped_x.unsqueeze(3), by_group).squeeze(3)
    grad_x = torch.matmul(by_group, B.unsqueeze(-1)).squeeze(-1).flatten(2)
    # d/d(ΔA) of the recurrence: ∂h · Ā · h_{t-1}, built in place in grad_h
    grad_h.mul_(decay)
    grad_h[1:].mul_(states[:-1])
    grad_h[0].mul_(start)
    grad_dt = (grad_h * A).sum(-1) + grad_x * u
    grad_A = torch.einsum("cbes,cbe->es", grad_h, dt)
    return grad_x * dt, grad_dt, grad_A, grad_B, grad_C, carry


@torch.library.custom_op("vlm_core::scan_backward", mutates_args=())
def _backward(
    grad_y: Tensor,
    grad_last: Tensor,
    starts: Tensor,
    u: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    keep: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    carry, grad_A, parts = grad_last.clone(), torch.zeros_like(A), []
    chunks = _chunks([grad_y, u, dt, B, C, keep], _chunk(u, A))
    for start, (grad_c, *chunk) in zip(reversed(starts), reversed(chunks), strict=True):
        *grads, carry = _backward_chunk(grad_c, carry, start, A, tuple(chunk))
        grad_A += grads.pop(2)
        parts.append(grads)
    grad_u, grad_dt, grad_B, grad_C = (
        torch.cat(part[::-1]).transpose(0, 1).contiguous() for part in zip(*parts, strict=True)
    )
    return grad_u, grad_dt, grad_A, grad_B, grad_C, carry


@_backward.register_fake
def _(grad_y, grad_last, starts, u, dt, A, B, C, keep):
    return tuple(torch.empty_like(t) for t in (u, dt, A, B, C, grad_last))


def _setup(ctx, inputs, output) -> None:
    u, dt, A, B, C, _, keep = inputs
    ctx.save_for_backward(output[2], u, dt, A, B, C, keep)


def _autograd(ctx, grad_y: Tensor, grad_last: Tensor, _):
    with without_autocast(grad_y):
        grads = _backward(grad_y.contiguous(), grad_last.contiguous(), *ctx.saved_tensors)
    return (*grads, None)


_forward.register_autograd(_autograd, setup_context=_setup)


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """As `reference.scan`."""
    y, last, _ = _forward(u, dt, A, B, C, h0, keep)
    return y, last
