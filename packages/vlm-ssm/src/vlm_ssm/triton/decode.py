"""One token on Triton's kernels: what lies between the matrix products of a layer is three launches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from vlm_ssm.mamba_layer import MambaLayer, MambaStack
from vlm_ssm.triton import norm as gpu_norm
from vlm_ssm.triton.kernels import decode, norm

BLOCK = 64


def convolve(mixer: MambaLayer, inner: Tensor, past: Tensor, past_after: Tensor, u: Tensor) -> None:
    """inner (B, E) -> u (B, E); the convolution's state goes from `past` to `past_after`."""
    (B, E), conv = inner.shape, mixer.conv1d
    decode.convolve[triton.cdiv(E, BLOCK), B](
        inner, conv.weight, conv.bias, past, past_after, u, inner.stride(0), E,
        TAPS=mixer.d_conv, BLOCK=BLOCK, num_warps=2,
    )  # fmt: skip


def _mix(mixer: MambaLayer, x: Tensor, before: tuple[Tensor, Tensor], after: tuple[Tensor, Tensor]) -> Tensor:
    """x (B, M) through one layer, whose state goes from `before` to `after`; they may be the same."""
    B, E, S, R = len(x), mixer.d_inner, mixer.d_state, mixer.dt_rank
    inner, z = F.linear(x, mixer.in_proj.weight).chunk(2, dim=-1)
    u, y, grid = x.new_empty(B, E), x.new_empty(B, E), (triton.cdiv(E, BLOCK), B)
    convolve(mixer, inner, before[0], after[0], u)
    low = F.linear(u, mixer.x_proj.weight)
    dt = F.linear(low[:, :R], mixer.dt_proj.weight)
    decode.recur[grid](
        u, dt, mixer.A_log, low, mixer.D, mixer.dt_proj.bias, z, before[1], after[1], y, low.stride(0), z.stride(0),
        R, E, S, STATES=triton.next_power_of_2(S), BLOCK=BLOCK, num_warps=4,
    )  # fmt: skip
    return F.linear(y, mixer.out_proj.weight)


def norm_of(residual: Tensor, out: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """residual (B, M) fp32 += out; its RMSNorm in the weight's dtype."""
    y, width = torch.empty_like(residual, dtype=weight.dtype), residual.shape[1]
    norm.forward[(len(residual),)](
        residual, out, weight, residual, y, None, width, eps, **gpu_norm.layout(width)
    )
    return y


def with_memory(
    x: Tensor,
    count: int,
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    after: tuple[Tensor, Tensor] | None,
) -> tuple[list[Tensor], list[Tensor], tuple[Tensor, Tensor]]:
    """The states before a token as kernels read them, and memory for those after it: `after` if given."""
    conv_rows = [c.to(x.dtype).contiguous() for c in convs]
    ssm_rows = [s.float().contiguous() for s in ssms]
    if after is None:
        conv, ssm = conv_rows[0], ssm_rows[0]
        after = conv.new_empty(count, *conv.shape), ssm.new_empty(count, *ssm.shape)
    return conv_rows, ssm_rows, after


def fused_decode_step(
    x: Tensor,
    stack: MambaStack,
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    after: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `vlm_ssm.layers.decode.fused_decode_step`, for any number B of sequences.

    `after`: the memory that the states after the token are written to; it may be that of the states before.
    """
    mixers, norms, last_norm, eps = stack
    count, (B, M) = len(mixers), (len(x), x.shape[-1])
    convs, ssms, after = with_memory(x, count, convs, ssms, after)
    row = x.reshape(B, M)
    residual, out = (row.float().clone() if last_norm is not None else row), None
    for i, (mixer, weight) in enumerate(zip(mixers, norms, strict=True)):
        y = row if weight is None else norm_of(residual, out, weight, eps)
        out = _mix(mixer, y, (convs[i], ssms[i]), (after[0][i], after[1][i]))
    assert out is not None
    if last_norm is not None:
        out = norm_of(residual, out, last_norm, eps)
    return out.view(B, 1, M), *after
