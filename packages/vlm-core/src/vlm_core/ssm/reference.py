"""The selective scan as its definition: a readable loop in fp32, differentiated by autograd."""

from __future__ import annotations

import torch
from torch import Tensor


def scan(
    u: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, h0: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h_t = exp(Δ_t A) h_{t-1} + Δ_t B_t u_t;  y_t = C_t · h_t   (paper Eq. 3 and 4, B̄ = ΔB as released).

    u, dt (B, T, E); A (E, S); B, C (B, T, G, S) with E divisible by G; h0 (B, E, S); keep (B, T), 0 where
    the state of the previous position is forgotten. Returns y (B, T, E) and h_T (B, E, S), all fp32.
    """
    per_channel = u.shape[2] // B.shape[2]
    h, ys = h0, []
    for t in range(u.shape[1]):
        b = B[:, t].repeat_interleave(per_channel, dim=1)
        c = C[:, t].repeat_interleave(per_channel, dim=1)
        if keep is not None:
            h = h * keep[:, t, None, None]
        h = torch.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t]).unsqueeze(-1) * b
        ys.append((h * c).sum(-1))
    return torch.stack(ys, dim=1), h
