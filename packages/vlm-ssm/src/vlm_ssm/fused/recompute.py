"""Kernels of a backend that autograd differentiates: nothing is kept, a backward computes the forward again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from vlm_ssm.registration.conv_op import ConvKernels
from vlm_ssm.registration.inputs import ConvInputs, ScanGradients, ScanInputs
from vlm_ssm.registration.layouts import NATIVE, native
from vlm_ssm.registration.norm_op import NormKernels, writing_added
from vlm_ssm.registration.scan_op import ScanKernels


def gradients(
    function: Callable[..., Any], tensors: tuple[Tensor | None, ...], grads: tuple[Tensor | None, ...]
) -> tuple[Any, list[Tensor | None]]:
    """Results of `function(*tensors)`, a tuple, and the gradients of `tensors`, given those of the results."""
    with torch.enable_grad():
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        results = function(*leaves)
        pairs = [(y, g) for y, g in zip(results, grads, strict=True) if g is not None]
        wanted = [t for t in leaves if t is not None]
        given = iter(
            torch.autograd.grad([y for y, _ in pairs], wanted, [g for _, g in pairs], allow_unused=True)
        )
    return results, [None if t is None else next(given) for t in leaves]


def _zero(grad: Tensor | None, t: Tensor) -> Tensor:
    return torch.zeros_like(t) if grad is None else grad


def _into(to: Tensor | None, value: Tensor) -> Tensor:
    return value if to is None else to.copy_(value)


def scan_kernels(scan: Callable[[ScanInputs], tuple[Tensor, Tensor]]) -> ScanKernels:
    """Of a function as `ops.scan`."""

    def forward(inputs: ScanInputs, train: bool) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        y, last = scan(inputs)
        return y, last, None, last.new_empty(0) if train else None

    def backward(inputs: ScanInputs, given: ScanGradients) -> tuple[Tensor, ...]:
        def run(*tensors: Tensor) -> tuple[Tensor, Tensor]:
            return scan(inputs._make([*tensors, *inputs[9:]]))

        (out, _), grads = gradients(run, inputs[:9], (given.grad_out, given.grad_last))
        if given.y is not None:
            given.y.copy_(out.detach().view(given.y.shape))
        u, A = inputs.u, inputs.A
        vector, h0 = A.new_zeros(A.shape[:2]), A.new_zeros(*u.shape[:2], *A.shape[1:])
        shapes = [*inputs[:5], vector, vector, u.new_empty(0) if inputs.z is None else inputs.z, h0]
        grads = [_zero(grad, t) for grad, t in zip(grads, shapes, strict=True)]  # pyright: ignore
        grads[7] = _into(given.grad_z, grads[7])
        return tuple(grads)

    return ScanKernels(forward, backward, lambda inputs: ((), (0,)), native)


def conv_kernels(conv: Callable[[ConvInputs], Tensor]) -> ConvKernels:
    """Of a function as `ops.conv`."""

    def backward(
        grad: Tensor, inputs: ConvInputs, grad_x: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        def again(*tensors: Tensor) -> tuple[Tensor]:
            return (conv(inputs._make([*tensors, *inputs[4:]])),)

        _, (of_x, of_weight, of_bias, of_state) = gradients(again, inputs[:4], (grad,))
        x, weight, _, state, *_ = inputs
        of_bias = _zero(of_bias, weight.new_empty(len(weight), weight.shape[2]))
        of_state = x.new_empty(0) if state is None else _zero(of_state, state)
        return _into(grad_x, _zero(of_x, x)), _zero(of_weight, weight), of_bias, of_state

    return ConvKernels(conv, backward, lambda x: x if x.dtype in NATIVE else x.float())


def norm_kernels(add_rms_norm: Callable[..., tuple[Tensor, Tensor]]) -> NormKernels:
    """Of a function as `ops.add_rms_norm`; there is no scale."""

    def forward(
        residual: Tensor, out: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor, Tensor]:
        summed, y = add_rms_norm(residual, out, weight, eps)
        return residual.new_empty(0) if out is None else summed, y.to(dtype), residual.new_full((1,), eps)

    def backward(
        grad_y: Tensor, grad_summed: Tensor | None, summed: Tensor, weight: Tensor, scale: Tensor
    ) -> tuple[Tensor, Tensor]:
        def run(summed: Tensor, weight: Tensor) -> tuple[Tensor]:
            return (add_rms_norm(summed, None, weight, float(scale))[1],)

        _, (grad, of_weight) = gradients(run, (summed, weight), (grad_y.float(),))
        assert grad is not None
        assert of_weight is not None
        return grad if grad_summed is None else grad + grad_summed, of_weight

    return NormKernels(forward, writing_added(backward), lambda residual: (1,))
