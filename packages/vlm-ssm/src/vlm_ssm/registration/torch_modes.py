"""Queries and switches of torch's modes: autocast, gradients, compilation, global hooks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[Any]:
    """Disables autocast on x's device; does nothing on devices without autocast (meta)."""
    device = x.device.type
    # torch 2.9 can't trace the query, so that it isn't made on the devices that certainly have autocast
    available = device in ("cpu", "cuda") or torch.amp.is_autocast_available(device)
    return torch.autocast(device, enabled=False) if available else nullcontext()


def grad_needed(*tensors: Tensor | None) -> bool:
    """Whether a call must go through the registered custom op: a gradient is needed, or torch.compile is tracing."""
    if torch.compiler.is_compiling():
        return True
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def has_global_hook() -> bool:
    """Whether a hook is registered for every module of the process (`register_module_forward_hook` and its like)."""
    module = torch.nn.modules.module
    return any(
        (
            module._global_forward_hooks,
            module._global_forward_pre_hooks,
            module._global_backward_hooks,
            module._global_backward_pre_hooks,
        )
    )
