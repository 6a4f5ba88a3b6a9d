"""One token on CUDA kernels: one launch for all layers, or five a layer.

The five read their weights while the launch in front still runs.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_ssm.cuda.decoding import matvec, stack_step
from vlm_ssm.cuda.decoding.launches import launch_dependent
from vlm_ssm.cuda.decoding.matvec import ADD, CONVOLVE, STORE, product
from vlm_ssm.cuda.launch import is_usable, kernel
from vlm_ssm.cuda.memory import aligned
from vlm_ssm.mamba_layer import MambaLayer, MambaStack
from vlm_ssm.triton import decode as triton_decode

STATES, CHANNELS, SEQUENCES = (
    16,
    32,
    8,
)  # of recurrence.cu: state size; channels and, at most, sequences of a block
AHEAD = 8 << 20
"""Bytes of a later product's weights that are brought into the second-level cache, of 40 MB or more."""


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
    own = (mixer.A_log, mixer.D, dt.bias)
    if any(t.dtype != fp32 or not t.is_contiguous() or t.data_ptr() % 16 for t in own):
        return "A, D or a bias that are not fp32, or not at multiples of 16 bytes"
    return None


def why_not_covered(x: Tensor, stack: MambaStack) -> str | None:
    """Why a step x (B, 1, M) goes to Triton's kernels; None if it doesn't."""
    if x.dtype != torch.bfloat16:
        return f"rows of {x.dtype}"
    if len(x) > matvec.MOST:
        return f"a batch of {len(x)}, whose products cuBLAS does"
    if not matvec.readable(*(norm for norm in (*stack.norms, stack.last_norm) if norm is not None)):
        return "norms that are not bf16"
    reasons = map(_why_layer_not_covered, stack.mixers)
    return next((reason for reason in reasons if reason), None) or (
        None if is_usable(x.device) else "no kernel runs on this GPU"
    )


class _Rows(NamedTuple):
    """Memory that all layers use: u, z, y (B, E); low (B, R+2S): low-rank delta, B and C; x (B, M): a layer's input."""

    u: Tensor
    z: Tensor
    y: Tensor
    low: Tensor
    x: Tensor


def _row_norm(x: Tensor, weight: Tensor, eps: float, y: Tensor) -> None:
    """RMSNorm of x (B, M) fp32 -> y."""
    bits = struct.unpack("<I", struct.pack("<f", eps))[0]
    values = {"x": x, "weight": weight, "y": y, "columns": x.shape[1], "eps": bits}
    launch_dependent(kernel("row_norm.cu", "row_norm"), (len(x), 1), 256, x.device.index, **values)


def _enter(mixer: MambaLayer, rows: _Rows, past: Tensor, past_after: Tensor) -> None:
    """in_proj and convolution: x -> u and z. The convolution's state (B, W-1, E) goes from `past` to `past_after`."""
    conv = {
        "taps": mixer.conv1d.weight,
        "taps_bias": mixer.conv1d.bias,
        "past": past,
        "past_after": past_after,
    }
    values = {"y": rows.u, "gate": rows.z, "inner": mixer.d_inner}
    product(rows.x, mixer.in_proj.weight, CONVOLVE, mixer.d_conv, **conv, **values)


def _recur(mixer: MambaLayer, rows: _Rows, before: Tensor, after: Tensor) -> None:
    """x_proj, dt_proj and recurrence: u and z -> y. The state (B, E, S) goes from `before` to `after`."""
    E, rank, count = mixer.d_inner, mixer.dt_rank, len(rows.u)
    product(rows.u, mixer.x_proj.weight, STORE, y=rows.low, **_ahead(mixer.out_proj.weight, end=True))
    slots = matvec.slots(count, SEQUENCES)
    run = kernel("recurrence.cu", "recurrence", SLOTS=slots, DEPTH=-(-rank // 32))
    sizes = {"B": count, "E": E, "rank": rank, "low_columns": rows.low.shape[1], "z_stride": rows.z.stride(0)}
    small = {"A_log": mixer.A_log, "D": mixer.D, "bias": mixer.dt_proj.bias, "weight": mixer.dt_proj.weight}
    values = {"low": rows.low, "u": rows.u, "z": rows.z, "y": rows.y, "state": before, "state_after": after}
    grid = -(-E // CHANNELS), -(-count // slots)
    launch_dependent(run, grid, 4 * CHANNELS, rows.u.device.index, **values, **small, **sizes)


def _ahead(weight: Tensor, *, end: bool = False) -> dict[str, int]:
    """Weights that come into the second-level cache meanwhile: the first, or the last, which are asked for late."""
    size = weight.numel() * weight.element_size()
    count = min(AHEAD, size) & ~127
    return {"ahead": weight.data_ptr() + (size - count) * end & ~15, "ahead_bytes": count}


def fused_decode_step(
    x: Tensor,
    stack: MambaStack,
    convs: Sequence[Tensor],
    ssms: Sequence[Tensor],
    after: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """As `vlm_ssm.triton.decode.fused_decode_step`, which takes what these kernels don't cover."""
    if why_not_covered(x, stack):
        return triton_decode.fused_decode_step(x, stack, convs, ssms, after)
    mixers, norms, last_norm, eps = stack
    count, (B, M), first = len(mixers), (len(x), x.shape[-1]), mixers[0]
    convs, ssms, after = triton_decode.with_memory(x, count, convs, ssms, after)
    ssms = [aligned(ssm) for ssm in ssms]
    assert after[1].data_ptr() % 16 == 0, "states begin at multiples of 16 bytes"
    if stack_step.why_not_covered(x, stack) is None:
        return stack_step.step(x, stack, convs, ssms, after), *after
    residual = x.reshape(B, M).float()
    low = x.new_empty(B, first.dt_rank + 2 * STATES)
    u, z, y = x.new_empty(3, B, first.d_inner).unbind()
    rows = _Rows(u, z, y, low, x.reshape(B, M).clone())
    for i, (mixer, norm) in enumerate(zip(mixers, norms, strict=True)):
        if norm is not None:
            _row_norm(residual, norm, eps, rows.x)
        _enter(mixer, rows, convs[i], after[0][i])
        _recur(mixer, rows, ssms[i], after[1][i])
        if norm is None:
            product(rows.y, mixer.out_proj.weight, STORE, y=rows.x)
        else:
            ahead = _ahead(mixers[i + 1].in_proj.weight) if i + 1 < count else {}
            product(rows.y, mixer.out_proj.weight, ADD, residual=residual, **ahead)
    if last_norm is not None:
        _row_norm(residual, last_norm, eps, rows.x)
    return rows.x.view(B, 1, M), *after
