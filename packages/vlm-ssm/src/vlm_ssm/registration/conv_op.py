"""The causal convolution as a registered operation with its gradient, alike for every kernel library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_ssm.registration.inputs import ConvInputs, directions_of, schema
from vlm_ssm.registration.layouts import dense, like, native
from vlm_ssm.registration.library import Operation
from vlm_ssm.registration.torch_modes import grad_needed

FORWARD = f"({schema(ConvInputs)}) -> Tensor"
BACKWARD = f"(Tensor grad, {schema(ConvInputs)}) -> (Tensor, Tensor, Tensor, Tensor)"


class ConvKernels(NamedTuple):
    """The convolution of a kernel library, unregistered.

    `forward(inputs)` -> y. `backward(grad, inputs)` -> the gradients of x, weight, bias and state (empty for an absent
    state). It takes `grad_x`, a tensor of any strides to write that of x to, if each row is read once. `rows` converts
    x. `after(inputs)` -> the state (B, W-1, E) after one direction's rows; None if the library has no kernel for it.
    """

    forward: Callable[[ConvInputs], Tensor]
    backward: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]
    rows: Callable[[Tensor], Tensor] = native
    after: Callable[[ConvInputs], Tensor] | None = None

    def ready(self, inputs: ConvInputs) -> ConvInputs:
        """Inputs in the dtypes and layouts that the kernels read."""
        x, weight, bias, state, *boundaries, scan_order = inputs
        x = self.rows(x)
        state = None if state is None else state.to(x.dtype).contiguous()
        reset, history, left_pad = (None if t is None else t.contiguous() for t in boundaries)
        bias = None if bias is None else dense(bias)
        return ConvInputs(x, dense(weight), bias, state, reset, history, left_pad, scan_order)


def _fake_forward(*fields: Any) -> Tensor:
    inputs = ConvInputs(*fields)
    N, T, _, E = inputs.x.shape
    return inputs.x.new_empty(directions_of(inputs), N, T, E)


def _fake_backward(grad: Tensor, *fields: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, weight, _, state, *_ = fields
    grad_state = x.new_empty(0) if state is None else like(state)
    return like(x), torch.empty_like(weight), weight.new_empty(len(weight), weight.shape[2]), grad_state


def _register(name: str, kernels: ConvKernels) -> Any:
    def forward(*fields: Any) -> Tensor:
        return kernels.forward(ConvInputs(*fields))

    def backward(grad: Tensor, *fields: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return kernels.backward(grad, ConvInputs(*fields))

    gradient = Operation(f"{name}_conv_backward", BACKWARD, backward, _fake_backward)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    def autograd(ctx: Any, saved: Any, grad: Tensor) -> tuple[Any, ...]:
        inputs = ConvInputs(*saved)
        grads = gradient(grad, *inputs)
        present = [None if t is None else grad for t, grad in zip(inputs[:4], grads, strict=True)]
        return *present, None, None, None, None

    op = Operation(f"{name}_conv", FORWARD, forward, _fake_forward)
    op.differentiate(setup, autograd)
    return op


def registered_conv(name: str, kernels: ConvKernels) -> Callable[[ConvInputs], Tensor]:
    """Register a library's convolution as `{name}_conv` -> its `conv`."""
    op = _register(name, kernels)

    def conv(inputs: ConvInputs) -> Tensor:
        """As `ops.conv`."""
        ready = kernels.ready(inputs)
        y = op(*ready) if grad_needed(*ready[:4]) else kernels.forward(ready)
        return y.to(inputs.x.dtype)

    return conv
