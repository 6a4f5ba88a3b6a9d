"""Activation checkpointing: the backward pass recomputes the activations of layers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint

from vlm_core.numerics.frozen_modules import BufferCopies
from vlm_core.numerics.layers import transformer_layers


def _contexts(block: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts for a block's forward pass and for its recomputation in the backward pass."""
    return nullcontext(), BufferCopies(block)


@contextmanager
def recomputing(module: nn.Module) -> Iterator[None]:
    """Blocks keep only their inputs and are recomputed in the backward pass, with the same random numbers.

    The recomputation starts from the buffers as they were before the forward pass, and its writes are discarded.
    """
    changed = transformer_layers(module)
    for block in changed:
        block.forward = partial(
            checkpoint,
            block.forward,
            use_reentrant=False,
            preserve_rng_state=True,
            context_fn=partial(_contexts, block),
        )
    try:
        yield
    finally:
        for block in changed:
            del block.forward
