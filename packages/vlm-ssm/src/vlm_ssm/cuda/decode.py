"""One token on CUDA kernels: four launches a layer, whose weights are read while the launch in front still runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vlm_ssm.cuda import matvec
from vlm_ssm.cuda.dependent import launch_dependent
from vlm_ssm.cuda.launch import is_usable, kernel
from vlm_ssm.cuda.matvec import ADD, CONVOLVE, STORE, product
from vlm_ssm.mamba_layer import MambaLayer
from vlm_ssm.triton import decode as triton_decode

STATES, CHANNELS = 16, 32  # state size of the kernel, channels of a block


def _why_layer_not_covered(mixer: MambaLayer) -> str | None:
    conv, dt, fp32 = mixer.conv1d, mixer.dt_proj, torch.float32
    small = [conv.weight, *([] if conv.bias is None else [conv.bias])]
    if mixer.d_state != STATES:
        return f"a state size of {mixer.d_state}, not {STATES}"
    if mixer.d_inner % 8 or mixer.dt_rank % 8 or mixer.dt_rank > 512 or not 2 <= mixer.d_conv <= 8:
        return f"an inner width of {mixer.d_inner}, a rank of {mixer.dt_rank}, windows of {mixer.d_conv} positions"
    if not matvec.readable(*(m.weight for m in (mixer.in_proj, mixer.x_proj, dt, mixer.out_proj))):
        return "weights that are not bf16, or widths that are no multiple of 8"
    if any(t.dtype != torch.bfloat16 or not t.is_contiguous() for t in small):
        return "a convolution that is not bf16"
    if any(t.dtype != fp32 or not t.is_contiguous() for t in (mixer.A_log, mixer.D, dt.bias)):
        return "A, D or a bias that are not fp32"
    return None


def why_not_covered(x: Tensor, mixers: Sequence[MambaLayer], norms: Sequence[Tensor | None]) -> str | None:
    """Why a step x (B, 1, M) goes to Triton's kernels; None if it doesn't."""
    if x.dtype != torch.bfloat16:
        return f"rows of {x.dtype}"
    if len(x) > matvec.MOST:
        return f"a batch of {len(x)}, whose products cuBLAS does"
    weights = [norm for norm in norms if norm is not None]
    if not matvec.readable(*weights) or (weights and not matvec.normalised_fits(x.shape[-1], len(x))):
        return "norms that are not bf16, or too wide"
    reasons = map(_why_layer_not_covered, mixers)
    return next((reason for reason in reasons if reason), None) or (
        None if is_usable(x.device) else "no kernel runs on this GPU"
    )


def _recur(
    mixer: MambaLayer, u: Tensor, z: Tensor, low: Tensor, before: Tensor, after: Tensor, y: Tensor
) -> None:
    """u, z (B, E), low (B, R+2S) -> gated y (B, E); the state (B, E, S) goes from `before` to `after`."""
    E, rank = mixer.d_inner, mixer.dt_rank
    run = kernel("recurrence.cu", "recurrence", SLOTS=matvec.slots(len(u)), DEPTH=-(-rank // 32))
    sizes = {"B": len(u), "E": E, "rank": rank, "low_columns": low.shape[1]}
    small = {"A_log": mixer.A_log, "D": mixer.D, "bias": mixer.dt_proj.bias}
    rows = {"low": low, "weight": mixer.dt_proj.weight, "u": u, "z": z, "y": y}
    states = {"state": before, "state_after": after}
    blocks = -(-E // CHANNELS)
    launch_dependent(run, blocks, 4 * CHANNELS, 0, u.device.index, **rows, **small, **states, **sizes)


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
    """As `vlm_ssm.triton.decode.fused_decode_step`, which takes what these kernels don't cover."""
    if why_not_covered(x, mixers, [*norms, last_norm]):
        return triton_decode.fused_decode_step(x, mixers, convs, ssms, norms, last_norm, eps, after)
    return _step(x, mixers, convs, ssms, norms, last_norm, eps, after)


def _step(
    x: Tensor,
    mixers: Sequence[MambaLayer],
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    norms: Sequence[Tensor | None],
    last_norm: Tensor | None,
    eps: float,
    after: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor, Tensor]:
    count, (B, M), first = len(mixers), (len(x), x.shape[-1]), mixers[0]
    convs, ssms, after = triton_decode.with_memory(x, count, convs, ssms, after)
    row, E = x.reshape(B, M).contiguous(), first.d_inner
    source = row if last_norm is None else row.float()
    u, z, y = x.new_empty(3, B, E).unbind()
    low, out = x.new_empty(B, first.dt_rank + 2 * STATES), torch.empty_like(row)
    for i, (mixer, norm) in enumerate(zip(mixers, norms, strict=True)):
        conv = {"taps_bias": mixer.conv1d.bias, "past": convs[i], "past_after": after[0][i]}
        conv |= {"taps": mixer.conv1d.weight, "y": u, "gate": z, "inner": E}
        product(source, mixer.in_proj.weight, CONVOLVE, eps, mixer.d_conv, norm=norm, **conv)
        product(u, mixer.x_proj.weight, STORE, y=low)
        _recur(mixer, u, z, low, ssms[i], after[1][i], y)
        if last_norm is None:
            product(y, mixer.out_proj.weight, STORE, y=out)
        else:
            product(y, mixer.out_proj.weight, ADD, residual=source)
    if last_norm is not None:
        out = triton_decode.norm_of(source, None, last_norm, eps)
    return out.view(B, 1, M), *after
