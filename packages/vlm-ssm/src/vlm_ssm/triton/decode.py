"""One decoding step on Triton's kernels: three launches a layer besides its matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from vlm_ssm.mamba_layer import MambaLayer
from vlm_ssm.triton import norm as gpu_norm
from vlm_ssm.triton.kernels import decode, norm

BLOCK = 64


def _convolve(mixer: MambaLayer, x: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """x (B, E) -> SiLU of its convolution (B, E). The state `before` (B, W-1, E) becomes `after`."""
    (B, E), conv, u = x.shape, mixer.conv1d, x.new_empty(x.shape)
    tensors = (x, conv.weight, conv.bias, before, after, u)
    options = {"TAPS": mixer.d_conv, "BLOCK": BLOCK, "num_warps": 2}
    decode.convolve[(triton.cdiv(E, BLOCK), B)](*tensors, x.stride(0), E, **options)
    return u


def _recur(mixer: MambaLayer, u: Tensor, z: Tensor, before: Tensor, after: Tensor) -> Tensor:
    """u, gate z (B, E) -> gated y (B, E). The state `before` (B, E, S) becomes `after`."""
    (B, E), S, R = u.shape, mixer.d_state, mixer.dt_rank
    low = F.linear(u, mixer.x_proj.weight)
    dt = F.linear(low[:, :R], mixer.dt_proj.weight)
    y = torch.empty_like(u)
    decode.recur[(triton.cdiv(E, BLOCK), B)](
        u,
        dt,
        mixer.A_log,
        low,
        mixer.D,
        mixer.dt_proj.bias,
        z,
        before,
        after,
        y,
        low.stride(0),
        z.stride(0),
        R,
        E,
        S,
        STATES=triton.next_power_of_2(S),
        BLOCK=BLOCK,
        num_warps=4,
    )
    return y


def _mix(mixer: MambaLayer, x: Tensor, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, M) through one layer. The states `before` become `after`, which may be the same memory."""
    inner, z = F.linear(x, mixer.in_proj.weight).chunk(2, dim=-1)
    u = _convolve(mixer, inner, before[0], after[0])
    return F.linear(_recur(mixer, u, z, before[1], after[1]), mixer.out_proj.weight)


def _norm(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """residual (B, M) fp32 += out in place -> its RMSNorm in the weight's dtype."""
    y, width = torch.empty_like(residual, dtype=weight.dtype), residual.shape[1]
    norm.forward[(len(residual),)](
        residual, out, weight, residual, y, None, width, eps, **gpu_norm.layout(width)
    )
    return y


def fused_decode_step(
    x: Tensor,
    mixers: Sequence[MambaLayer],
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    norms: Sequence[Tensor | None],
    last_norm: Tensor | None,
    eps: float,
    after: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `vlm_ssm.layers.decode.fused_decode_step`, for any number B of sequences.

    The states after the token are written to `after` if given, which may be the memory of the states before.
    """
    count, (B, M) = len(mixers), (len(x), x.shape[-1])
    convs = [c.to(x.dtype).contiguous() for c in convs]
    ssms = [s.float().contiguous() for s in ssms]
    if after is None:
        after = (
            convs[0].new_empty(count, *convs[0].shape),
            ssms[0].new_empty(count, *ssms[0].shape),
        )
    row = x.reshape(B, M)
    residual, out = (row.float().clone() if last_norm is not None else row), None
    for i, (mixer, weight) in enumerate(zip(mixers, norms, strict=True)):
        y = row if weight is None else _norm(residual, out, weight, eps)
        out = _mix(mixer, y, (convs[i], ssms[i]), (after[0][i], after[1][i]))
    assert out is not None
    if last_norm is not None:
        out = _norm(residual, out, last_norm, eps)
    return out.view(B, 1, M), *after
