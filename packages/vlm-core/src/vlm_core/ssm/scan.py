"""The selective scan that everything calls, and the choice of its backend."""

from __future__ import annotations

import os

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_core.errors import UserError, choices
from vlm_core.interfaces import PADDING
from vlm_core.ssm import chunked, reference

BACKENDS = {"reference": reference.scan, "torch": chunked.scan}


def _backend(name: str | None, length: int):
    name = name or os.environ.get("VLM_SCAN_BACKEND")
    if name is None:
        # one step without gradients is the loop's body: the op's dispatch would cost more than the step
        name = "reference" if length == 1 and not torch.is_grad_enabled() else "torch"
    if name not in BACKENDS:
        raise UserError(f"unknown scan backend {name!r}{choices(name, BACKENDS)}")
    return BACKENDS[name]


def _by_time(m: Tensor, batch: int, length: int) -> Tensor:
    """B or C as (E, S), (B, S, T) or (B, G, S, T) -> (B, T, G, S) fp32."""
    if m.ndim == 2:
        return m.float().expand(batch, length, *m.shape)
    return (m.unsqueeze(1) if m.ndim == 3 else m).permute(0, 3, 1, 2).float()


def same_as_before(segments: Tensor) -> Tensor:
    """(B, T) segment numbers -> (B, T) float, 0 where a new segment begins.

    The first segment continues what came before, and `PADDING` is neither an end nor a beginning.
    """
    position = torch.arange(segments.shape[1], device=segments.device).expand_as(segments)
    live = segments != PADDING
    latest = torch.where(live, position, -1).cummax(1).values  # the last live position up to here
    before = torch.cat([latest.new_full((len(latest), 1), -1), latest[:, :-1]], dim=1)
    same = segments == segments.gather(1, before.clamp(min=0))
    return (same | ~live | (before < 0)).float()


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    segments: Tensor | None = None,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Mamba's selective scan; names, layouts and meaning of `mamba_ssm.selective_scan_fn`, and more.

    u, delta, z (B, E, T); A (E, S); B, C (E, S), (B, S, T) or grouped (B, G, S, T); D, delta_bias (E).
    `initial_state` (B, E, S) precedes the first position; `segments` (B, T) forgets the state wherever the
    number changes and passes over `PADDING` as if it were not there. Computes in fp32 whatever comes in,
    returns y (B, E, T) in u's dtype, and with `return_last_state` also the fp32 state (B, E, S).
    Discretisation as in the released weights: Ā = exp(ΔA), B̄ = ΔB. Raises `ValueError` for T = 0.
    """
    batch, width, length = u.shape
    if length == 0:
        raise ValueError("selective_scan needs at least one position, got T = 0")
    x = u.transpose(1, 2).float()
    dt = delta.transpose(1, 2).float()
    if delta_bias is not None:
        dt = dt + delta_bias.float()
    if delta_softplus:
        dt = F.softplus(dt)
    h0 = x.new_zeros(batch, width, A.shape[1]) if initial_state is None else initial_state.float()
    keep = None
    if segments is not None:
        keep, dt = same_as_before(segments), dt * (segments != PADDING).unsqueeze(-1)
    run = _backend(backend, length)
    with chunked.without_autocast(u):
        y, last = run(x, dt, A.float(), _by_time(B, batch, length), _by_time(C, batch, length), h0, keep)
    if D is not None:
        y = y + x * D.float()
    if z is not None:
        y = y * F.silu(z.transpose(1, 2).float())
    out = y.transpose(1, 2).to(u.dtype)
    return (out, last) if return_last_state else out
