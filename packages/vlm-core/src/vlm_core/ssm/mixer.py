"""The Mamba-1 layer (Gu & Dao, arXiv 2312.00752) with the parameter names of `mamba_ssm.Mamba`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlm_core.interfaces import PADDING
from vlm_core.ssm.conv import causal_conv
from vlm_core.ssm.scan import selective_scan


class SSMState(NamedTuple):
    """What one layer remembers: the last conv inputs (B, W-1, E) and the fp32 recurrent state (B, E, S)."""

    conv: Tensor
    ssm: Tensor


class SelectiveSSM(nn.Module):
    """conv1d, SiLU, the input-dependent Δ, B, C, and the scan, on an inner width E; `scan` runs it."""

    def __init__(
        self, d_inner: int, d_state: int = 16, d_conv: int = 4, dt_rank: int = 1,
        dt_min: float = 1e-3, dt_max: float = 0.1, dt_floor: float = 1e-4,
    ) -> None:  # fmt: skip
        super().__init__()
        self.d_inner, self.d_state, self.dt_rank = d_inner, d_state, dt_rank
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self._init_dt(dt_min, dt_max, dt_floor)

    @torch.no_grad()
    def _init_dt(self, low: float, high: float, floor: float) -> None:
        """softplus(bias) log-uniform in [low, high]; a framework must not zero this bias afterwards."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        span = math.log(high) - math.log(low)
        dt = torch.exp(torch.rand(self.d_inner) * span + math.log(low)).clamp(min=floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))

    def scan(
        self,
        x: Tensor,
        z: Tensor | None = None,
        segments: Tensor | None = None,
        state: SSMState | None = None,
    ) -> tuple[Tensor, SSMState]:
        """x, gate z (B, T, E) -> (y (B, T, E), state).

        `PADDING` in `segments` stands in front only; it is zero before and after the convolution.
        """
        live = None if segments is None else (segments != PADDING).unsqueeze(-1)
        x = x if live is None else x * live
        x, conv = causal_conv(
            x, self.conv1d.weight.squeeze(1), self.conv1d.bias, state.conv if state else None, segments
        )
        x = F.silu(x)
        x = x if live is None else x * live
        dt, b, c = self.x_proj(x).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        y, last = selective_scan(
            x.transpose(1, 2),
            F.linear(dt, self.dt_proj.weight).transpose(1, 2),
            -torch.exp(self.A_log.float()),
            b.transpose(1, 2),
            c.transpose(1, 2),
            self.D,
            None if z is None else z.transpose(1, 2),
            self.dt_proj.bias,
            delta_softplus=True,
            initial_state=state.ssm if state else None,
            segments=segments,
            return_last_state=True,
        )
        return y.transpose(1, 2), SSMState(conv, last)


class MambaMixer(SelectiveSSM):
    """in_proj → SelectiveSSM gated by z → out_proj; state dict compatible with `mamba_ssm.Mamba`."""

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_rank: int | None = None,
    ) -> None:
        d_inner = expand * d_model
        super().__init__(d_inner, d_state, d_conv, dt_rank or math.ceil(d_model / 16))
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

    def forward(
        self, x: Tensor, segments: Tensor | None = None, state: SSMState | None = None
    ) -> tuple[Tensor, SSMState]:
        """(B, T, M) -> ((B, T, M), state)."""
        inner, z = self.in_proj(x).chunk(2, dim=-1)
        y, after = self.scan(inner, z, segments, state)
        return self.out_proj(y), after


def grouped_ssm(ssms: Sequence[SelectiveSSM], x: Tensor) -> Tensor:
    """Different SSMs on different inputs of equal shape, in one convolution and one scan.

    x (B, K, T, E), one input for each of the K modules -> (B, K, T, E), ungated.
    """
    first, groups = ssms[0], len(ssms)
    flat = x.transpose(1, 2).flatten(2)  # (B, T, K·E)
    weight = torch.cat([s.conv1d.weight.squeeze(1) for s in ssms])
    bias = torch.cat([s.conv1d.bias for s in ssms if s.conv1d.bias is not None])
    flat = F.silu(causal_conv(flat, weight, bias)[0])
    per_group = flat.unflatten(2, (groups, -1))  # (B, T, K, E)
    projected = torch.einsum("btke,kre->btkr", per_group, torch.stack([s.x_proj.weight for s in ssms]))
    dt, b, c = projected.split([first.dt_rank, first.d_state, first.d_state], dim=-1)
    dt = torch.einsum("btkr,ker->btke", dt, torch.stack([s.dt_proj.weight for s in ssms]))
    y = selective_scan(
        flat.transpose(1, 2),
        dt.flatten(2).transpose(1, 2),
        -torch.exp(torch.cat([s.A_log for s in ssms]).float()),
        b.permute(0, 2, 3, 1),
        c.permute(0, 2, 3, 1),
        torch.cat([s.D for s in ssms]),
        delta_bias=torch.cat([s.dt_proj.bias for s in ssms]),
        delta_softplus=True,
    )
    assert isinstance(y, Tensor)
    return y.transpose(1, 2).unflatten(2, (groups, -1)).transpose(1, 2)
