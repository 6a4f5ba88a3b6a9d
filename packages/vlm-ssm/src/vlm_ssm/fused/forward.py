"""A Mamba layer from its norm to its output projection, without autograd."""

from __future__ import annotations

from torch import Tensor

from vlm_ssm.fused.inputs import (
    Inner,
    Kept,
    MixerInputs,
    MixerOutputs,
    computes_again,
    inner,
    linear,
    norm_kernels,
)
from vlm_ssm.registration.torch_modes import without_autocast
from vlm_ssm.torch.ops import after


def normed(inputs: MixerInputs) -> tuple[Tensor, Tensor, Tensor]:
    """What the mixer reads, in the dtype of products, x + out, and the scale of each row; empty where there is none."""
    if inputs.norm is None:
        return inputs.x, inputs.x.new_empty(0), inputs.x.new_empty(0)
    kernels = norm_kernels(inputs.backend, inputs.x)
    weight = kernels.weight(inputs.norm)
    summed, y, scale = kernels.forward(inputs.x, inputs.out, weight, inputs.eps, inputs.dtype)
    return y, summed, scale


def _conv_state(inputs: MixerInputs, parts: Inner, xz: Tensor) -> Tensor:
    """The convolution's state after the layer; without segments it is a copy, with them a dozen small operations."""
    if inputs.boundaries is not None and parts.conv.after is not None:
        return parts.conv.after(parts.conv_inputs)
    return after(xz[..., : inputs.D.shape[0]], inputs.conv_state, inputs.boundaries, inputs.conv.shape[2] - 1)


def forward(inputs: MixerInputs, train: bool) -> tuple[MixerOutputs, Kept]:
    """The layer; to `train` also what the backward needs."""
    with without_autocast(inputs.x):
        x, summed, scale = normed(inputs)
        xz = linear(x, inputs.in_proj, inputs.in_bias, inputs.dtype)
        parts = inner(inputs, xz, train)
        y, last, acc, starts = parts.scan.forward(parts.scan_inputs, train)
        conv_state = _conv_state(inputs, parts, xz)
        mixed = linear(y[:, :, 0], inputs.out_proj, inputs.out_bias, inputs.dtype)
    empty = last.new_empty
    keep = train and not computes_again(inputs.backend)
    outputs = MixerOutputs(mixed, summed, conv_state, last.squeeze(0).detach())  # no view for autograd
    scan_keeps = (empty(0) if acc is None else acc, empty(0) if starts is None else starts)
    inner_keeps = (
        (parts.u, parts.projected, parts.dt, y) if keep else (empty(0), empty(0), empty(0), empty(0))
    )
    return outputs, Kept(scale, xz, *scan_keeps, *inner_keeps)
