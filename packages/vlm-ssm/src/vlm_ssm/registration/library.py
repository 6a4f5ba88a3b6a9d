"""Operations of `torch.library` by their schema: cheaper to call than `torch.library.custom_op`, which checks more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from vlm_ssm.torch.namespace import NAMESPACE

_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # lives as long as the process


def define(name: str, schema: str, run: Callable[..., Any], fake: Callable[..., Any]) -> Any:
    """Register `run` for CPU and CUDA tensors, with `fake` for torch.compile -> the operation.

    Outputs must be new tensors: neither inputs nor views of them.
    """
    _LIBRARY.define(f"{name}{schema}", tags=[torch.Tag.pt2_compliant_tag])
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, run, device)
    torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
    return getattr(getattr(torch.ops, NAMESPACE), name).default


def differentiate(op: Any, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
    """Register an operation's gradient.

    `setup(ctx, inputs, outputs)` saves what `backward(ctx, *gradients)` needs; that one returns a gradient or None for
    every input. Outputs that nothing can be derived from are marked by `setup`.
    """

    class Differentiable(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                outputs = op(*inputs)
            setup(ctx, inputs, outputs)
            return outputs

        @staticmethod
        def backward(ctx: Any, *gradients: Any) -> Any:
            return backward(ctx, *gradients)

    def call(*inputs: Any) -> Any:
        tensors = (t for t in inputs if isinstance(t, torch.Tensor))
        if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
            return Differentiable.apply(*inputs)
        with torch._C._AutoDispatchBelowAutograd():
            return op(*inputs)

    _LIBRARY.impl(op._schema.name.split("::")[1], call, "Autograd")
