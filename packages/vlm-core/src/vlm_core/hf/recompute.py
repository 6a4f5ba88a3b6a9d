"""Activation checkpointing: blocks keep only what enters them and are computed again in the backward."""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import nn

from vlm_core.blocks import blocks
from vlm_core.errors import UserError


def _forward(block: Any, *args: Any, **kwargs: Any) -> Any:
    """A block's own forward, through the checkpoint function while gradients are wanted."""
    own = MethodType(type(block).forward, block)
    if block.training and torch.is_grad_enabled():
        return block.checkpoint_function(own, *args, **kwargs)
    return own(*args, **kwargs)


def set_recompute(module: nn.Module, function: Callable[..., Any] | None, every: int = 1) -> None:
    """Compute every n-th block again by `function` (as `torch.utils.checkpoint.checkpoint`); None: none of them.

    Raises `UserError` for a block whose forward somebody else has replaced.
    """
    for i, block in enumerate(blocks(module)):
        mine = hasattr(block, "checkpoint_function")
        if "forward" in vars(block) and not mine:
            raise UserError(f"{type(block).__name__}.forward is replaced: its block can't be recomputed")
        if mine:
            del block.forward, block.checkpoint_function
        if function is not None and i % every == 0:
            holder: Any = block
            holder.checkpoint_function, holder.forward = function, MethodType(_forward, block)
