"""The selective scan in plain torch, chunk by chunk of time, with a hand-written backward.

Discretisation and output are computed for a whole chunk at once; only h_t = Ā_t h_{t-1} + x_t runs step by step, one
in-place `addcmul_` each. The backward recomputes a chunk's states from the state saved before it. So memory is that of
one chunk and T / chunk states, and time is linear in T (autograd through a loop that slices a tensor is quadratic).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from vlm_ssm.registration.namespace import NAMESPACE
from vlm_ssm.registration.torch_modes import grad_needed, without_autocast

_FLOATS_A_BUFFER = 800_000  # half and twice as many are slower


def _chunk(u: Tensor, A: Tensor) -> int:
    """Positions of a chunk."""
    return max(4, min(64, _FLOATS_A_BUFFER // max(1, u.shape[0] * A.numel())))


def _by_state(m: Tensor, groups: int) -> Tensor:
    """A (E, S) or h (B, E, S) -> (…, G, S, E/G): channels last, as in all tensors that they are combined with."""
    return m.unflatten(-2, (groups, -1)).transpose(-1, -2).contiguous()


def _by_channel(m: Tensor) -> Tensor:
    """The inverse of `_by_state`."""
    return m.transpose(-1, -2).flatten(-3, -2).contiguous()


class _Buffers:
    """Scratch memory of a call, one chunk long: allocating it for each chunk would cost page faults each time."""

    def __init__(self, size: int, like: Tensor, count: int) -> None:
        self._all = like.new_empty(count, size, *like.shape)

    def __call__(self, length: int) -> list[Tensor]:
        """Each buffer's first `length` steps: (length, B, G, S, E/G)."""
        return [buffer[:length] for buffer in self._all]


def _states(
    dt: Tensor,
    x: Tensor,
    A: Tensor,
    B: Tensor,
    keep: Tensor | None,
    h: Tensor,
    decay: Tensor,
    states: Tensor,
) -> None:
    """One chunk, time first: dt, x = Δu (c, B, G, E/G); A (G, S, E/G); B (c, B, G, S); h (B, G, S, E/G) ->
    Ā into `decay` and h_t into `states`, both (c, B, G, S, E/G).
    """
    torch.mul(dt.unsqueeze(3), A, out=decay).exp_()
    if keep is not None:
        decay.mul_(keep[..., None, None, None])
    torch.mul(x.unsqueeze(3), B.unsqueeze(4), out=states)
    for state, factor in zip(states.unbind(), decay.unbind(), strict=True):
        h = state.addcmul_(factor, h)


def _times(left: Tensor, right: Tensor, out: Tensor) -> None:
    """Matrix products over all leading dimensions, into `out`."""
    torch.bmm(left.flatten(0, -3), right.flatten(0, -3), out=out.flatten(0, -3))


def _chunks(tensors: list[Tensor | None], size: int) -> list[list[Any]]:
    """Each time-first tensor split into chunks of `size` steps; None stays None."""
    length = next(t for t in tensors if t is not None).shape[0]
    return [[None if t is None else t[i : i + size] for t in tensors] for i in range(0, length, size)]


def _time_first(t: Tensor) -> Tensor:
    """(B, T, …) <-> (T, B, …), contiguous."""
    return t.transpose(0, 1).contiguous()


def _run(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None, train: bool
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """y, the last state, and, to `train`, the state before each chunk, as `_by_state` lays it out."""
    size, groups = _chunk(u, A), B.shape[2]
    h, A = _by_state(h0, groups), _by_state(A, groups)
    x, dt = (_time_first(t).unflatten(2, (groups, -1)) for t in (dt * u, dt))
    B, C, keep = _time_first(B), _time_first(C), None if keep is None else _time_first(keep)
    y, buffers, starts = torch.empty_like(x), _Buffers(size, h, 2), []
    for x_c, dt_c, B_c, C_c, keep_c, y_c in _chunks([x, dt, B, C, keep, y], size):
        if train:
            starts.append(h)
        decay, states = buffers(len(x_c))
        _states(dt_c, x_c, A, B_c, keep_c, h, decay, states)
        h = states[-1].clone()
        _times(C_c.unsqueeze(3), states, y_c.unsqueeze(3))
    last = _by_channel(h) if len(x) else h0.clone()  # results of an operation are no views of its inputs
    return _time_first(y.flatten(2)), last, starts


@torch.library.custom_op(f"{NAMESPACE}::scan", mutates_args=())
def _forward(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_run` to train, with the states stacked."""
    y, last, starts = _run(u, dt, A, B, C, h0, keep, True)
    return y, last, torch.stack(starts) if starts else h0.new_empty(0, *_by_state(h0, B.shape[2]).shape)


@_forward.register_fake
def _(u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None):
    chunks, groups = -(-u.shape[1] // _chunk(u, A)), B.shape[2]
    starts = h0.new_empty(chunks, len(u), groups, A.shape[1], A.shape[0] // groups)
    return torch.empty_like(u), torch.empty_like(h0), starts


def _backward_chunk(
    grad_y: Tensor,
    carry: Tensor,
    start: Tensor,
    A: Tensor,
    chunk: tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None],
    grads: tuple[Tensor, Tensor, Tensor, Tensor],
    buffers: list[Tensor],
) -> tuple[Tensor, Tensor]:
    """One chunk, time first: writes the gradients of u, Δ, B and C to `grads`.

    `carry` is the gradient of the chunk's last state from later chunks. -> the gradient of A, and the carry for the
    chunk before.
    """
    (u, dt, B, C, keep), (grad_u, grad_dt, grad_B, grad_C) = chunk, grads
    x = dt * u
    decay, states, grad_h = buffers
    _states(dt, x, A, B, keep, start, decay, states)
    torch.mul(grad_y.unsqueeze(3), C.unsqueeze(4), out=grad_h)
    _times(states, grad_y.unsqueeze(4), grad_C.unsqueeze(4))
    later, factors = grad_h.unbind(), decay.unbind()
    later[-1].add_(carry)
    for i in range(len(later) - 2, -1, -1):
        later[i].addcmul_(factors[i + 1], later[i + 1])
    carry = decay[0] * grad_h[0]
    _times(grad_h, x.unsqueeze(4), grad_B.unsqueeze(4))
    _times(B.unsqueeze(3), grad_h, grad_u.unsqueeze(3))  # the gradient of x = Δu, completed below
    # d/d(ΔA) of the recurrence: ∂h · Ā · h_{t-1}, built in place in grad_h
    grad_h.mul_(decay)
    grad_h[1:].mul_(states[:-1])
    grad_h[0].mul_(start)
    grad_A = torch.mul(grad_h, dt.unsqueeze(3), out=decay).sum((0, 1))
    torch.sum(grad_h.mul_(A), 3, out=grad_dt).addcmul_(grad_u, u)
    grad_u.mul_(dt)
    return grad_A, carry


_BACKWARD = (
    "(Tensor grad_y, Tensor grad_last, Tensor starts, Tensor u, Tensor dt, Tensor A, Tensor B, Tensor C, Tensor? keep)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


@torch.library.custom_op(f"{NAMESPACE}::scan_backward", mutates_args=(), schema=_BACKWARD)
def _backward(grad_y: Tensor, grad_last: Tensor, *saved: Any) -> tuple[Tensor, ...]:
    """Gradients of u, dt, A, B, C and h0; `saved` is what `_setup` saves."""
    starts, u, dt, A, B, C, keep = saved
    size, groups = _chunk(u, A), B.shape[2]
    carry, A = _by_state(grad_last, groups), _by_state(A, groups)
    grad_y, u, dt = (_time_first(t).unflatten(2, (groups, -1)) for t in (grad_y, u, dt))
    B, C, keep = _time_first(B), _time_first(C), None if keep is None else _time_first(keep)
    grad_A, buffers = torch.zeros_like(A), _Buffers(size, carry, 3)
    grads = [torch.empty_like(t) for t in (u, dt, B, C)]
    chunks = _chunks([grad_y, u, dt, B, C, keep, *grads], size)
    for start, (grad_c, *tensors) in zip(reversed(starts), reversed(chunks), strict=True):
        chunk, grads_c = tuple(tensors[:5]), tuple(tensors[5:])
        part, carry = _backward_chunk(grad_c, carry, start, A, chunk, grads_c, buffers(len(grad_c)))
        grad_A += part
    grad_u, grad_dt, grad_B, grad_C = map(_time_first, grads)
    grad_h0 = _by_channel(carry) if chunks else grad_last.clone()
    return grad_u.flatten(2), grad_dt.flatten(2), _by_channel(grad_A), grad_B, grad_C, grad_h0


@_backward.register_fake
def _(grad_y: Tensor, grad_last: Tensor, *saved: Any):
    return tuple(torch.empty_like(t) for t in (*saved[1:6], grad_last))


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
    arguments = (u, dt, A, B, C, h0, keep)
    y, last, _ = _forward(*arguments) if grad_needed(*arguments) else _run(*arguments, False)
    return y, last
