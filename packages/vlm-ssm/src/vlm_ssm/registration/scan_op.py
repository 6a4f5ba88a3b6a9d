"""The selective scan as a registered operation with its gradient, alike for every kernel library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vlm_ssm.registration.inputs import ScanGradients, ScanInputs, schema
from vlm_ssm.registration.layouts import dense, like, native
from vlm_ssm.registration.library import Operation
from vlm_ssm.registration.torch_modes import grad_needed

FORWARD = f"({schema(ScanInputs)}) -> (Tensor, Tensor, Tensor, Tensor)"
BACKWARD = (
    f"(Tensor grad_out, Tensor? grad_last, {schema(ScanInputs)}, Tensor acc, Tensor starts)"
    f" -> ({', '.join(['Tensor'] * 9)})"
)


class ScanKernels(NamedTuple):
    """The scan of a kernel library, unregistered.

    `forward(inputs, train)` -> y, the last state, and to `train` two tensors for the backward: the sum of directions
    before the gate, or None, and the states before each chunk. `backward(inputs, given)` -> the gradients of u, dt, A,
    B, C, D, bias, z (empty for an absent z) and h0. `kept(inputs)` -> the shapes of the two tensors, () for None.
    `matrix` converts B and C, `rows` u, dt and z.
    """

    forward: Callable[[ScanInputs, bool], tuple[Tensor, Tensor, Tensor | None, Tensor | None]]
    backward: Callable[[ScanInputs, ScanGradients], tuple[Tensor, ...]]
    kept: Callable[[ScanInputs], tuple[tuple[int, ...], tuple[int, ...]]]
    matrix: Callable[[Tensor], Tensor]
    rows: Callable[[Tensor], Tensor] = native

    def ready(self, inputs: ScanInputs) -> ScanInputs:
        """Inputs in the dtypes and layouts that the kernels read."""
        u, dt, A, B, C, D, bias, z, h0, reset, *_ = inputs
        D, bias, h0 = (None if t is None else dense(t) for t in (D, bias, h0))
        return inputs._replace(
            u=self.rows(u),
            dt=self.rows(dt),
            A=dense(A),
            B=self.matrix(B),
            C=self.matrix(C),
            D=D,
            bias=bias,
            z=None if z is None else self.rows(z),
            h0=h0,
            reset=None if reset is None else reset.contiguous(),
        )


def _fake_forward(kernels: ScanKernels, inputs: ScanInputs) -> tuple[Tensor, ...]:
    (K, N, T, E), A = inputs.u.shape, inputs.A
    out = inputs.u.new_empty(N, T, K if inputs.keep_directions else 1, E)
    acc, starts = (A.new_empty(shape or (0,)) for shape in kernels.kept(inputs))
    return out, A.new_empty(K, N, E, A.shape[2]), acc, starts


def _fake_backward(grad_out: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
    u, dt, A, B, C, _, _, z, *_ = arguments
    per_channel = A.new_empty(A.shape[:2])
    grad_z = u.new_empty(0) if z is None else like(z)
    vectors = (per_channel, torch.empty_like(per_channel))
    grad_h0 = A.new_empty(*u.shape[:2], *A.shape[1:])
    return like(u), like(dt), like(A), like(B), like(C), *vectors, grad_z, grad_h0


def _register(name: str, kernels: ScanKernels) -> Any:
    def forward(*fields: Any) -> tuple[Tensor, ...]:
        out, last, acc, starts = kernels.forward(ScanInputs(*fields), True)
        return out, last, last.new_empty(0) if acc is None else acc, starts  # pyright: ignore

    def fake(*fields: Any) -> tuple[Tensor, ...]:
        return _fake_forward(kernels, ScanInputs(*fields))

    def backward(grad_out: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        *fields, acc, starts = arguments
        given = ScanGradients(grad_out, grad_last, acc if acc.numel() else None, starts)
        return kernels.backward(ScanInputs(*fields), given)

    gradient = Operation(f"{name}_scan_backward", BACKWARD, backward, _fake_backward)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.softplus, ctx.keep_directions = inputs
        ctx.save_for_backward(*tensors, output[2], output[3])
        ctx.mark_non_differentiable(output[2], output[3])
        ctx.out_shape = output[0].shape
        ctx.set_materialize_grads(False)  # otherwise torch fills two large tensors with zeros

    def autograd(
        ctx: Any, saved: Any, grad_out: Tensor | None, grad_last: Tensor | None, *_: Any
    ) -> tuple[Any, ...]:
        *tensors, acc, starts = saved
        inputs = ScanInputs._make([*tensors, ctx.softplus, ctx.keep_directions])
        if grad_out is None:  # the loss depends on the last state only
            grad_out = inputs.u.new_zeros(ctx.out_shape)
        grads = gradient(grad_out, grad_last, *inputs, acc, starts)
        present = [None if t is None else grad for t, grad in zip(inputs[:9], grads, strict=True)]
        return *present, None, None, None, None

    op = Operation(f"{name}_scan", FORWARD, forward, fake)
    op.differentiate(setup, autograd)
    return op


def registered_scan(name: str, kernels: ScanKernels) -> Callable[[ScanInputs], tuple[Tensor, Tensor]]:
    """Register a library's scan as `{name}_scan` -> its `scan`. Calls that need no gradient bypass the operation."""
    op = _register(name, kernels)

    def scan(inputs: ScanInputs) -> tuple[Tensor, Tensor]:
        """As `ops.scan`."""
        ready = kernels.ready(inputs)
        if grad_needed(*ready[:9]):
            y, last, _, _ = op(*ready)
        else:
            y, last, _, _ = kernels.forward(ready, False)
        return y.to(inputs.u.dtype), last

    return scan
