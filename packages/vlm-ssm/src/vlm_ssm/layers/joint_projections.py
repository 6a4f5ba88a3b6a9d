"""in_proj and out_proj of K whole layers on the same tokens, one for each direction, on a CPU.

A loop of modules stacks K outputs, splits them, stacks again and sums: copies of several times the input. Here each
product is written to, read from or added in its place. Gradients are as direct.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm_ssm.layers.hooked_modules import plain
from vlm_ssm.registration.library import last_gradients
from vlm_ssm.runtime.huge_pages import with_huge_pages


def can_join(layers: Sequence[nn.Module], x: Tensor) -> bool:
    """Whether these functions can replace calls of the layers: CPU, ordinary fp32 weights of one shape, no biases."""
    weights = [layer._parameters.get("weight") for layer in layers]
    return (
        x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and all(plain(layer, nn.Linear) and layer._parameters["bias"] is None for layer in layers)
        and all(type(w) is nn.Parameter and w.dtype == x.dtype and w.is_contiguous() for w in weights)
        and len({w.shape for w in weights if w is not None}) == 1
    )


def _rows(t: Tensor) -> Tensor:
    """(B, T, D) -> (B·T, D), a view if memory allows."""
    return t.reshape(-1, t.shape[-1])


def _new_columns(like: Tensor, columns: int, width: int) -> Tensor:
    """(B, T, J, width), in memory one (B, T, width) after the other."""
    return with_huge_pages(like.new_empty(columns, *like.shape[:2], width)).permute(1, 2, 0, 3)


class _Fan(torch.autograd.Function):
    """x (B, T, M) and K weights (2E, M) -> both halves of the products, (B, T, K, E) each."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(x, *weights)
        width = len(weights[0]) // 2
        halves = tuple(_new_columns(x, len(weights), width) for _ in range(2))
        for k, weight in enumerate(weights):
            for half, w in zip(halves, weight.split(width), strict=True):
                torch.mm(_rows(x), w.mT, out=_rows(half[:, :, k]))
        return halves  # pyright: ignore[reportReturnType]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors
        with torch.no_grad():
            found = _Fan.gradients(grads, saved, ctx.needs_input_grad)
        return last_gradients(found, (*grads, *saved))

    @staticmethod
    def gradients(
        grads: Sequence[Tensor], saved: Sequence[Tensor], needed: Sequence[bool]
    ) -> list[Tensor | None]:
        """Of x and the weights, from those of both halves."""
        x, *weights = saved
        needs_x, *needs = needed
        width, grad_x = len(weights[0]) // 2, x.new_zeros(x.shape) if needs_x else None
        grad_weights = [torch.empty_like(w) if need else None for w, need in zip(weights, needs, strict=True)]
        for k, (weight, grad_weight) in enumerate(zip(weights, grad_weights, strict=True)):
            for i, grad in enumerate(grads):
                rows, half = _rows(grad[:, :, k]), slice(i * width, (i + 1) * width)
                if grad_x is not None:
                    _rows(grad_x).addmm_(rows, weight[half])
                if grad_weight is not None:
                    torch.mm(rows.mT, _rows(x), out=grad_weight[half])
        return [grad_x, *grad_weights]


class _Sum(torch.autograd.Function):
    """y (B, T, K, E) and K weights (M, E) -> the sum of their products (B, T, M)."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(y, *weights)
        total = with_huge_pages(y.new_zeros(*y.shape[:2], len(weights[0])))
        for k, weight in enumerate(weights):
            _rows(total).addmm_(_rows(y[:, :, k]), weight.mT)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        saved = ctx.saved_tensors
        with torch.no_grad():
            grads = _Sum.gradients(grad, saved, ctx.needs_input_grad)
        return last_gradients(grads, (grad, *saved))

    @staticmethod
    def gradients(grad: Tensor, saved: Sequence[Tensor], needed: Sequence[bool]) -> list[Tensor | None]:
        """Of y and the weights, from that of the sum."""
        y, *weights = saved
        needs_y, *needs = needed
        rows, grad_y = _rows(grad), _new_columns(y, len(weights), y.shape[3]) if needs_y else None
        grad_weights: list[Tensor | None] = []
        for k, (weight, need) in enumerate(zip(weights, needs, strict=True)):
            if grad_y is not None:
                torch.mm(rows, weight, out=_rows(grad_y[:, :, k]))
            grad_weights.append(rows.mT @ _rows(y[:, :, k]) if need else None)
        return [grad_y, *grad_weights]


def project_for_each(layers: Sequence[nn.Module], x: Tensor) -> tuple[Tensor, Tensor]:
    """x (B, T, M) through the in_proj of K layers -> input of the convolution and gate, (B, T, K, E) each."""
    return _Fan.apply(x, *(layer.get_parameter("weight") for layer in layers))  # pyright: ignore


def sum_of_projections(layers: Sequence[nn.Module], y: Tensor) -> Tensor:
    """Column k of y (B, T, K, E) through the out_proj of layer k, summed -> (B, T, M)."""
    return _Sum.apply(y, *(layer.get_parameter("weight") for layer in layers))  # pyright: ignore
