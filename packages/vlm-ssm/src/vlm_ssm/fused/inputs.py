"""The inputs and outputs of a fused Mamba layer as one value each, and what forward and backward compute alike."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vlm_ssm import backends
from vlm_ssm.fused import recompute
from vlm_ssm.fused.compute_dtype import cast_weight
from vlm_ssm.registration import layer_parameters
from vlm_ssm.registration.conv_op import ConvKernels
from vlm_ssm.registration.inputs import ConvInputs, ScanInputs
from vlm_ssm.registration.norm_op import NormKernels
from vlm_ssm.registration.scan_op import ScanKernels
from vlm_ssm.segments import SegmentBoundaries, boundaries_from


class MixerInputs(NamedTuple):
    """Inputs of a layer; parameters have the shapes and any floating dtypes of those of `GatedSSM`.

    With `norm` (M), x (B, T, M) is the fp32 residual, to which `out` (B, T, M) is added, and the mixer reads the norm
    of the sum; without, the mixer reads x, which has `dtype`. `dtype` is that of matrix products. `backend`: one name
    of `BACKENDS`. State and segments are those of `GatedSSM.mix`.
    """

    x: Tensor
    out: Tensor | None
    norm: Tensor | None
    in_proj: Tensor
    in_bias: Tensor | None
    conv: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A_log: Tensor
    D: Tensor
    out_proj: Tensor
    out_bias: Tensor | None
    conv_state: Tensor | None
    ssm_state: Tensor | None
    reset: Tensor | None
    history: Tensor | None
    left_pad: Tensor | None
    eps: float
    dtype: torch.dtype
    backend: str

    @property
    def boundaries(self) -> SegmentBoundaries | None:
        return boundaries_from(self.reset, self.history, self.left_pad)


DIFFERENTIABLE = MixerInputs._fields.index("reset")
"""The first so many inputs have gradients."""


class Kept(NamedTuple):
    """What a backward needs besides inputs; empty where there is nothing.

    `scale`: of each row of the norm. `xz` (B, T, 2E): the output of in_proj. `acc`, `starts`: as in `ScanKernels`.
    u, `projected`, dt: as in `Inner`, and `gated` (B, T, 1, E), the scan's output, unless they are computed again.
    """

    scale: Tensor
    xz: Tensor
    acc: Tensor
    starts: Tensor
    u: Tensor
    projected: Tensor
    dt: Tensor
    gated: Tensor


def computes_again(backend: str) -> bool:
    """Whether the backward computes convolution, Δ, B, C and the gated output again, which takes time for memory."""
    return getattr(backends.module(backend), "COMPUTES_AGAIN", True)


class MixerOutputs(NamedTuple):
    """y (B, T, M); x + out (empty without `out`); and the state after it."""

    y: Tensor
    summed: Tensor
    conv_state: Tensor
    ssm_state: Tensor


class Inner(NamedTuple):
    """What lies between in_proj and the scan.

    u (1, B, T, E): the convolution's output. `projected` (B, T, R + 2S): low-rank Δ, B and C. dt (B, T, E): Δ.
    x_proj and dt_proj: their weights in the dtype of products.
    """

    conv: ConvKernels
    conv_inputs: ConvInputs
    scan: ScanKernels
    scan_inputs: ScanInputs
    u: Tensor
    projected: Tensor
    dt: Tensor
    x_proj: Tensor
    dt_proj: Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """x (…, M) in `dtype` -> (…, N), as `nn.Linear` under autocast."""
    return F.linear(x, cast_weight(weight, dtype), None if bias is None else bias.to(dtype))


def norm_kernels(backend: str, residual: Tensor) -> NormKernels:
    module = backends.module(backend)
    return (
        module.norm_kernels(residual)
        if hasattr(module, "norm_kernels")
        else recompute.norm_kernels(module.add_rms_norm)
    )


def layer_kernels(backend: str) -> Any:
    """`layer_parameters`, or a backend's own of the same functions."""
    return getattr(backends.module(backend), "layer_parameters", layer_parameters)


def _conv_kernels(backend: str, inputs: ConvInputs) -> ConvKernels:
    module = backends.module(backend)
    return (
        module.conv_kernels(inputs)
        if hasattr(module, "conv_kernels")
        else recompute.conv_kernels(module.conv)
    )


def _scan_kernels(backend: str, inputs: ScanInputs, train: bool) -> ScanKernels:
    module = backends.module(backend)
    return (
        module.scan_kernels(inputs, train)
        if hasattr(module, "scan_kernels")
        else recompute.scan_kernels(module.scan)
    )


def kept_shapes(inputs: MixerInputs, xz: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of `acc` and `starts`, from tensors without values."""
    (N, T, _), (E, S) = xz.shape, inputs.A_log.shape
    u, matrix = xz.new_empty(1, N, T, E), xz.new_empty(1, N, T, 1, S)
    z, A = xz.unsqueeze(2)[..., E:], inputs.A_log.float().unsqueeze(0)
    scan_inputs = ScanInputs(u, u, A, matrix, matrix, z=z)
    return _scan_kernels(inputs.backend, scan_inputs, True).kept(scan_inputs)


def inner(inputs: MixerInputs, xz: Tensor, train: bool, kept: Kept | None = None) -> Inner:
    """Convolution and projections of the output of in_proj (B, T, 2E), computed or taken from what is kept."""
    (width, states), rank = inputs.A_log.shape, inputs.dt_proj.shape[1]
    halves = xz.unsqueeze(2)
    x, z = halves[..., :width], halves[..., width:]
    A, by_tap, bias = layer_kernels(inputs.backend).prepare(inputs.A_log, inputs.conv, inputs.conv_bias)
    boundaries = inputs.reset, inputs.history, inputs.left_pad
    conv_inputs = ConvInputs(x, by_tap, bias, inputs.conv_state, *boundaries)
    conv = _conv_kernels(inputs.backend, conv_inputs)
    conv_inputs = conv.ready(conv_inputs)
    saved = None if kept is None or computes_again(inputs.backend) else kept
    x_proj, dt_proj = cast_weight(inputs.x_proj, inputs.dtype), cast_weight(inputs.dt_proj, inputs.dtype)
    u = conv.forward(conv_inputs) if saved is None else saved.u
    projected = F.linear(u[0], x_proj) if saved is None else saved.projected
    dt = F.linear(projected[..., :rank], dt_proj) if saved is None else saved.dt
    matrices = projected[None, :, :, None, rank:]
    given = ScanInputs(
        u=u,
        dt=dt.unsqueeze(0),
        A=A,
        B=matrices[..., :states],
        C=matrices[..., states:],
        D=inputs.D.unsqueeze(0),
        bias=inputs.dt_bias.unsqueeze(0),
        z=z,
        h0=None if inputs.ssm_state is None else inputs.ssm_state.unsqueeze(0),
        reset=inputs.reset,
        softplus=True,
    )
    scan = _scan_kernels(inputs.backend, given, train)
    return Inner(conv, conv_inputs, scan, scan.ready(given), u, projected, dt, x_proj, dt_proj)
