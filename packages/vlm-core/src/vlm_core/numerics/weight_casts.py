"""Casting fp32 weights once for several forward and backward passes under autocast."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from importlib.util import find_spec
from typing import Any

import torch


@contextmanager
def weights_cast_once(device: torch.device) -> Iterator[None]:
    """Context of passes between which no weight changes: each is cast at its first use, not in every pass.

    Autocast drops its casts at the end of a thread's outermost autocast region. Here that is this context. Autocast is
    off in it, so that backward passes run as they do outside of it. They must run in this thread
    (`backward_in_thread`): operations that leave an autocast region in another one, such as activation checkpointing,
    would drop the casts.
    """
    with torch.autocast(device.type, enabled=False), _casts_of_kernels():
        yield


def backward_in_thread() -> AbstractContextManager[Any]:
    """Context in which the calling thread runs backward passes of a GPU, too, not a thread that torch has for each."""
    return torch.autograd.set_multithreading_enabled(False)


def _casts_of_kernels() -> AbstractContextManager[None]:
    """The same for the state-space layers, whose kernels autocast doesn't reach."""
    if find_spec("vlm_ssm") is None:
        return nullcontext()
    from vlm_ssm.registration.cast_cache import keep_casts

    return keep_casts()
