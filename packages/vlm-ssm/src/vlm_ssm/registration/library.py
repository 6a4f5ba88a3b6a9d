"""Operations of `torch.library` by their schema: cheaper to call than `torch.library.custom_op`, which checks more.

Where nothing watches operations (no tracing, no dispatch mode, no tensor subclass), a call takes the Python function
without torch's dispatcher, which costs more than a launch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm_ssm.registration.namespace import NAMESPACE

_LIBRARY = torch.library.Library(NAMESPACE, "FRAGMENT")  # lives as long as the process
_ORDINARY = (Tensor, nn.Parameter)


def _watched(first: Any) -> bool:
    """Whether something sees operations, such as torch.compile or a counter; `first` is one of the inputs."""
    return (
        torch.compiler.is_compiling()
        or type(first) not in _ORDINARY
        or torch._C._len_torch_dispatch_stack() > 0
    )


def _unused(name: str) -> str:
    """A name that isn't registered yet: code exported with a model may be imported twice in a process."""
    while hasattr(getattr(torch.ops, NAMESPACE), name):
        name += "_again"
    return name


class _LastGradients(torch.autograd.Function):
    """The first `count` tensors, which depend on all; the gradient of this raises `RuntimeError`.

    torch's `once_differentiable` doesn't where only a part of a graph is walked: there a term would be missing.
    """

    @staticmethod
    def forward(ctx: Any, count: int, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        return tuple(t.view_as(t) for t in tensors[:count] if t is not None)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError("a gradient of a gradient: state-space kernels have the first only")


def last_gradients(grads: Sequence[Tensor | None], sources: tuple[Tensor | None, ...]) -> Any:
    """`grads` of a backward, tensors or None, which can't be differentiated by `sources`, what they depend on."""
    if not torch.is_grad_enabled():
        return tuple(grads)
    present = [grad for grad in grads if grad is not None]
    marked = iter(_LastGradients.apply(len(present), *present, *sources))
    return tuple(None if grad is None else next(marked) for grad in grads)


class Operation:
    """`run`, registered for CPU and CUDA tensors, with `fake` for torch.compile.

    Outputs must be new tensors: neither inputs nor views of them. `unwatched`: called instead of `run` where nothing
    watches; there an output may be None.
    """

    def __init__(
        self,
        name: str,
        schema: str,
        run: Callable[..., Any],
        fake: Callable[..., Any],
        unwatched: Callable[..., Any] | None = None,
    ) -> None:
        name = _unused(name)
        self._name, self._run = name, unwatched or run
        _LIBRARY.define(f"{name}{schema}", tags=[torch.Tag.pt2_compliant_tag])
        for device in ("CPU", "CUDA"):
            _LIBRARY.impl(name, run, device)
        torch.library.register_fake(f"{NAMESPACE}::{name}", fake, lib=_LIBRARY)
        self.registered = getattr(getattr(torch.ops, NAMESPACE), name).default

    def __call__(self, *inputs: Any) -> Any:
        return self.registered(*inputs) if _watched(inputs[0]) else self._run(*inputs)

    def differentiate(self, setup: Callable[..., None], backward: Callable[..., Any]) -> None:
        """Register the gradient.

        `setup(ctx, inputs, outputs)` saves what `backward(ctx, saved, *gradients)` needs, where `saved` are the tensors
        that were saved; that one returns a gradient or None for every input. Outputs that nothing can be derived from
        are marked by `setup`. A gradient of a gradient raises `RuntimeError`: kernels record nothing for it.
        """
        run = self._run

        def below(*inputs: Any) -> Any:
            if not _watched(inputs[0]):
                return run(*inputs)
            with torch._C._AutoDispatchBelowAutograd():
                return self.registered(*inputs)

        class Differentiable(torch.autograd.Function):
            @staticmethod
            def forward(ctx: Any, *inputs: Any) -> Any:
                outputs = below(*inputs)
                setup(ctx, inputs, outputs)
                return outputs

            @staticmethod
            def backward(ctx: Any, *gradients: Any) -> Any:
                saved = ctx.saved_tensors  # once: activation checkpointing gives them once
                with torch.no_grad():
                    grads = backward(ctx, saved, *gradients)
                return last_gradients(grads, (*gradients, *saved))

        def call(*inputs: Any) -> Any:
            tensors = (t for t in inputs if isinstance(t, Tensor))
            if torch.is_grad_enabled() and any(t.requires_grad for t in tensors):
                return Differentiable.apply(*inputs)
            return below(*inputs)

        self._run = call
        _LIBRARY.impl(self._name, call, "Autograd")
