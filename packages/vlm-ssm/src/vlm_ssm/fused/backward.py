"""The gradient of a fused Mamba layer. What is cheap to compute is computed again: norm, convolution, Δ, B and C."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vlm_ssm.fused.compute_dtype import cast_weight
from vlm_ssm.fused.forward import normed
from vlm_ssm.fused.inputs import (
    DIFFERENTIABLE,
    Inner,
    Kept,
    MixerInputs,
    computes_again,
    inner,
    layer_kernels,
    norm_kernels,
)
from vlm_ssm.fused.recompute import gradients
from vlm_ssm.registration.inputs import ScanGradients
from vlm_ssm.registration.layouts import dense
from vlm_ssm.registration.torch_modes import without_autocast
from vlm_ssm.torch.ops import after


class OutputGradients(NamedTuple):
    """Gradients of `MixerOutputs`; None where nothing depends on an output."""

    y: Tensor | None
    summed: Tensor | None
    conv_state: Tensor | None
    ssm_state: Tensor | None


class _Gradients:
    """Gradients by the names of inputs; only what `needs` says."""

    def __init__(self, inputs: MixerInputs, needs: Sequence[bool]) -> None:
        self.inputs, self.needs = inputs, dict(zip(MixerInputs._fields[:DIFFERENTIABLE], needs, strict=True))
        self.by_name: dict[str, Tensor] = {}

    def put(self, name: str, grad: Tensor) -> None:
        """In the shape and dtype of the input."""
        given = getattr(self.inputs, name)
        if given is not None and self.needs[name]:
            grad = grad if grad.shape == given.shape else grad.view(given.shape)
            self.by_name[name] = grad if grad.dtype == given.dtype else grad.to(given.dtype)

    def put_product(self, name: str, bias: str, grad: Tensor, x: Tensor) -> None:
        """Of a matrix (N, M) and its bias, from rows of gradients (…, N) and of inputs (…, M)."""
        rows = grad.flatten(0, -2)
        if self.needs[name]:
            self.put(name, _weight_gradient(rows, x.flatten(0, -2), getattr(self.inputs, name).dtype))
        if bias and getattr(self.inputs, bias) is not None and self.needs[bias]:
            self.put(bias, rows.sum(0))

    def listed(self) -> list[Tensor | None]:
        return [self.by_name.get(name) for name in self.needs]


def _weight_gradient(rows: Tensor, x: Tensor, dtype: torch.dtype) -> Tensor:
    """rowsᵀ x; of bf16 rows in fp32 at once where the weight is fp32 and the device can."""
    if rows.is_cuda and torch.version.hip is None and dtype == torch.float32 and rows.dtype != dtype:
        return torch.mm(rows.t(), x, out_dtype=dtype)
    return torch.mm(rows.t(), x)


def _times(grad: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Rows of gradients (…, N), weight (N, M) -> (…, M)."""
    return torch.mm(grad.flatten(0, -2), cast_weight(weight, dtype)).view(*grad.shape[:-1], weight.shape[1])


def backward(
    grads: OutputGradients, inputs: MixerInputs, kept: Kept, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Gradients of the differentiable inputs, of which `needs` are computed.

    `inputs.x` is the sum with `out`, of which only the dtype matters; so nothing but the sum must be kept.
    """
    found, xz = _Gradients(inputs, needs), kept.xz
    with without_autocast(xz):
        parts = inner(inputs, xz, True, kept)
        grad_xz = torch.empty_like(xz)
        _through_scan(grads, parts, kept, grad_xz, found)
        if grads.conv_state is not None:
            _through_conv_state(grads.conv_state, xz, grad_xz, found)
        x = normed(inputs._replace(out=None))[0]
        found.put_product("in_proj", "in_bias", grad_xz, x)
        if any(found.needs[name] for name in ("x", "out", "norm")):
            _through_norm(_times(grad_xz, inputs.in_proj, inputs.dtype), grads.summed, kept, found)
    return found.listed()


def _through_scan(
    grads: OutputGradients, parts: Inner, kept: Kept, grad_xz: Tensor, found: _Gradients
) -> None:
    """From y and the last state to in_proj's output; fills `grad_xz`."""
    inputs, (N, T, _) = found.inputs, grad_xz.shape
    width, rank = inputs.D.shape[0], inputs.dt_proj.shape[1]
    halves = grad_xz.unsqueeze(2)
    grad_x, grad_z = halves[..., :width], halves[..., width:]
    grad_y = grad_xz.new_zeros(N, T, inputs.out_proj.shape[0]) if grads.y is None else grads.y
    again = computes_again(inputs.backend)
    y = parts.u.new_empty(N, T, 1, width) if again else kept.gated
    grad_last = None if grads.ssm_state is None else grads.ssm_state.unsqueeze(0)
    acc = kept.acc if kept.acc.numel() else None
    gated = _times(grad_y, inputs.out_proj, inputs.dtype).unsqueeze(2)
    given = ScanGradients(gated, grad_last, acc, kept.starts, grad_z, y if again else None)
    of_u, of_dt, of_A, of_B, of_C, of_D, of_bias, _, of_h0 = parts.scan.backward(parts.scan_inputs, given)
    found.put_product("out_proj", "out_bias", grad_y, y[:, :, 0])
    low = parts.projected[..., :rank]
    found.put_product("dt_proj", "", of_dt[0], low)
    of_low = _times(of_dt[0], parts.dt_proj, inputs.dtype)
    of_projected = torch.cat([of_low, _rows(of_B, of_low), _rows(of_C, of_low)], dim=-1)
    found.put_product("x_proj", "", of_projected, parts.u[0])
    of_u.view(-1, width).addmm_(of_projected.flatten(0, 1), parts.x_proj)
    _, of_weight, of_conv_bias, of_state = parts.conv.backward(of_u, parts.conv_inputs, grad_x=grad_x)
    of_A_log, of_weight = layer_kernels(inputs.backend).gradients(of_A, parts.scan_inputs.A, of_weight)
    found.put("conv", of_weight)
    found.put("conv_bias", of_conv_bias)
    found.put("conv_state", of_state)
    found.put("A_log", of_A_log)
    found.put("D", of_D)
    found.put("dt_bias", of_bias)
    found.put("ssm_state", of_h0)


def _rows(matrix: Tensor, like: Tensor) -> Tensor:
    """Gradients of B or C (1, B, T, 1, S) -> (B, T, S) in the dtype of `like`."""
    rows = matrix.view(*like.shape[:2], matrix.shape[-1])
    return rows if rows.dtype == like.dtype else rows.to(like.dtype)


def _through_conv_state(grad: Tensor, xz: Tensor, grad_xz: Tensor, found: _Gradients) -> None:
    """Adds what the convolution state after the layer gives to in_proj's output and to the state before."""
    inputs = found.inputs
    width, past = inputs.D.shape[0], inputs.conv.shape[2] - 1

    def run(x: Tensor, state: Tensor | None) -> tuple[Tensor]:
        return (after(x, state, inputs.boundaries, past),)

    _, (of_x, of_state) = gradients(run, (xz[..., :width], inputs.conv_state), (grad,))
    if of_x is not None:
        grad_xz[..., :width] += of_x
    if of_state is not None and "conv_state" in found.by_name:
        found.by_name["conv_state"] += of_state


def _through_norm(grad: Tensor, grad_summed: Tensor | None, kept: Kept, found: _Gradients) -> None:
    """From the mixer's input (B, T, M) to x, `out` and the norm's weight."""
    inputs = found.inputs
    if inputs.norm is None:
        found.put("x", grad)
        return
    grad_summed = None if inputs.out is None else grad_summed
    weight, kernels = dense(inputs.norm), norm_kernels(inputs.backend, inputs.x)
    added = None
    if inputs.out is not None and found.needs["out"] and inputs.out.dtype != torch.float32:
        added = torch.empty_like(inputs.x, dtype=inputs.out.dtype)
    grad, of_norm = kernels.backward(grad, grad_summed, inputs.x, weight, kept.scale, added=added)
    found.put("x", grad)
    if inputs.out is not None and found.needs["out"]:
        found.by_name["out"] = grad if added is None else added
    found.put("norm", of_norm)
