"""The Mamba-1 layer (Gu & Dao, arXiv 2312.00752) with the parameter names of `mamba_ssm.Mamba`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vlm_ssm import ops
from vlm_ssm.layers import chunked_inference, decode
from vlm_ssm.layers.fused_mixer import fused_mixer, fuses
from vlm_ssm.layers.hooked_modules import (
    DeltaProjection,
    add_rms_norm,
    convolve,
    has_no_hooks,
    plain,
    plain_linear,
    project,
    project_delta,
    stacked,
)
from vlm_ssm.mamba_layer import MambaStack
from vlm_ssm.registration.inputs import ScanInputs
from vlm_ssm.segments import SegmentBoundaries, boundaries_of
from vlm_ssm.torch.ops import after


class SSMState(NamedTuple):
    """State of one layer: the last W-1 convolution inputs (B, W-1, E), and the recurrent state (B, E, S) in fp32."""

    conv: Tensor
    ssm: Tensor


class SelectiveSSM(nn.Module):
    """Parameters of convolution, Δ, B, C and scan at inner width E; `scan_along` computes it.

    Names and initial values are those of `mamba_ssm.Mamba`.
    """

    keeps_fp32 = ("A_log", "D", "dt_proj.bias")
    """Parameters that `cast_parameters` leaves in fp32 (README of mamba_ssm, "Precision")."""

    def __init__(
        self,
        d_inner: int,
        d_state: int = 16,
        d_conv: int = 4,
        dt_rank: int = 1,
        dt_min: float = 1e-3,
        dt_max: float = 0.1,
        dt_floor: float = 1e-4,
    ) -> None:
        super().__init__()
        self.d_inner, self.d_state, self.d_conv, self.dt_rank = d_inner, d_state, d_conv, dt_rank
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner, padding=d_conv - 1)
        self.x_proj = nn.Linear(d_inner, dt_rank + 2 * d_state, bias=False)
        self.dt_proj = DeltaProjection(dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.arange(1, d_state + 1).float().log().repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        for parameter in (self.A_log, self.D):
            parameter._no_weight_decay = True  # pyright: ignore[reportAttributeAccessIssue]
        self._init_dt(dt_min, dt_max, dt_floor)

    @torch.no_grad()
    def _init_dt(self, low: float, high: float, floor: float) -> None:
        """Initialise dt_proj: softplus(bias) log-uniform in [low, high]. A framework must not zero this bias later."""
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        span = math.log(high) - math.log(low)
        dt = torch.exp(torch.rand(self.d_inner) * span + math.log(low)).clamp(min=floor)
        self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))


def _projections(ssms: Sequence[SelectiveSSM], u: Tensor) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """u (K, B, T, E) -> Δ before softplus (K, B, T, E), the bias still to be added, B and C (K, B, T, 1, S)."""
    first = ssms[0]
    sizes = [first.dt_rank, first.d_state, first.d_state]
    low, b, c = project([s.x_proj for s in ssms], u).split(sizes, dim=-1)
    return *project_delta([s.dt_proj for s in ssms], low), b.unsqueeze(3), c.unsqueeze(3)


def scan_along(
    ssms: Sequence[SelectiveSSM],
    x: Tensor,
    z: Tensor | None,
    scan_order: Tensor | None = None,
    boundaries: SegmentBoundaries | None = None,
    state: SSMState | None = None,
) -> tuple[Tensor, Tensor]:
    """Convolution and selective scan in K scan orders at once, by one SSM or one a direction; shapes as in `ops`.

    x and gate z (B, T, J, E) -> y (B, T, J, E), summed over directions if J is 1, and the states (K, B, E, S).
    """
    past = state.conv if state else None
    u = convolve([s.conv1d for s in ssms], ssms[0].d_conv, x, past, boundaries, scan_order)
    dt, bias, b, c = _projections(ssms, u)
    A, D = stacked([s.A_log for s in ssms]), stacked([s.D for s in ssms])
    inputs = ScanInputs(
        u,
        dt,
        -torch.exp(A.float()),
        b,
        c,
        D,
        bias,
        z,
        h0=state.ssm.unsqueeze(0) if state else None,
        reset=None if boundaries is None else boundaries.reset,
        scan_order=scan_order,
        softplus=True,
        keep_directions=x.shape[2] > 1,
    )
    return ops.scan(inputs)


def cast_parameters(module: nn.Module, dtype: torch.dtype) -> None:
    """Cast the parameters of a module in place, except those that it or a submodule names in `keeps_fp32`."""
    fp32 = {
        inner.get_parameter(name) for inner in module.modules() for name in getattr(inner, "keeps_fp32", ())
    }
    for parameter in module.parameters():
        if parameter not in fp32:
            parameter.data = parameter.data.to(dtype)


class GatedSSM(SelectiveSSM):
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

    def mix(
        self, x: Tensor, boundaries: SegmentBoundaries | None = None, state: SSMState | None = None
    ) -> tuple[Tensor, SSMState]:
        """x (B, T, M) -> y (B, T, M), and the state after it."""
        if chunked_inference.is_long(self, x):
            y, *after_x = chunked_inference.mix_in_pieces(self, x, boundaries, *(state or (None, None)))
            return y, SSMState(*after_x)
        if x.ndim == 3 and fuses(self, x):
            y = fused_mixer(self, x, boundaries, state)
            return y.y, SSMState(y.conv_state, y.ssm_state)
        inner, z = self.in_proj(x).chunk(2, dim=-1)
        y, last = scan_along([self], inner.unsqueeze(2), z.unsqueeze(2), None, boundaries, state)
        conv = after(inner, state.conv if state else None, boundaries, self.d_conv - 1)
        return self.out_proj(y.squeeze(2)), SSMState(conv, last.squeeze(0))


def add_norm_mix(
    residual: Tensor,
    out: Tensor | None,
    norm: nn.Module,
    eps: float,
    mixer: MambaMixer,
    boundaries: SegmentBoundaries | None = None,
    state: SSMState | None = None,
) -> tuple[Tensor, Tensor, SSMState]:
    """The block of a Mamba: residual + out (B, T, M), in fp32; the mixer's output on its norm; the state after it.

    One operation if norm and mixer are plain modules (`fused_mixer.why_not_fused`).
    """
    fused = type(mixer) is MambaMixer and has_no_hooks(mixer) and plain(norm, nn.RMSNorm)
    weight = norm._parameters["weight"] if fused else None
    if (
        weight is None
        or not fuses(mixer, residual, weight.dtype)
        or _single_token(residual, state, boundaries)
    ):
        residual, x = add_rms_norm(residual, out, norm, eps)
        mixed, after_ = mixer(x, boundaries, state)
        return residual, mixed, after_
    residual = residual.float()
    y = fused_mixer(mixer, residual, boundaries, state, norm=(weight, eps), out=out)
    return (residual if out is None else y.summed), y.y, SSMState(y.conv_state, y.ssm_state)


def _single_token(x: Tensor, state: SSMState | None, boundaries: SegmentBoundaries | None) -> bool:
    """Whether a mixer has a faster step for x."""
    return x.shape[1] == 1 and state is not None and boundaries is None and not torch.is_grad_enabled()


class MambaMixer(GatedSSM):
    """The Mamba-1 layer with an explicit state, which a call takes and returns; a single token is one fused call."""

    def can_fuse(self, dtype: torch.dtype) -> bool:
        """Whether a fused step in this dtype equals `forward`: no submodule is wrapped, hooked or replaced."""
        modules = self._modules
        return (
            type(self) is MambaMixer
            and has_no_hooks(self)
            and plain(self.conv1d, nn.Conv1d)
            and plain_linear(modules["dt_proj"], DeltaProjection, dtype)
            and all(
                plain_linear(modules[name], nn.Linear, dtype) for name in ("in_proj", "x_proj", "out_proj")
            )
        )

    def forward(
        self, x: Tensor, segments: Tensor | SegmentBoundaries | None = None, state: SSMState | None = None
    ) -> tuple[Tensor, SSMState]:
        """x (B, T, M) -> y (B, T, M), and the state after it.

        The state is reset where `segments` (B, T) changes; `PADDING` is allowed in front only. Without `state` the
        first segment starts from zeros. A sequence in chunks, each given the state of the last, equals the whole.
        """
        if state is not None and segments is None and decode.can_fuse(x, [self]):
            y, conv, ssm = decode.fused_decode_step(x, MambaStack([self]), [state.conv], [state.ssm])
            return y, SSMState(conv[0], ssm[0])
        boundaries = boundaries_of(segments) if isinstance(segments, Tensor) else segments
        return self.mix(x, boundaries, state)
