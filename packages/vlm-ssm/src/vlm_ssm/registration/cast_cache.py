"""Copies of weights in another dtype, kept for as long as a caller says, as autocast keeps its own.

Kernels take weights by address, so that autocast, whose cache only torch's own operations reach, doesn't cast them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary


class _Copies(threading.local):
    """This thread's copies, by weight: its version at the time, and the copy. None: copies aren't kept."""

    by_weight: WeakIdKeyDictionary | None = None


_copies = _Copies()


@contextmanager
def keep_casts() -> Iterator[None]:
    """Context in which `cast` makes one copy of each weight in this thread, until an operation changes the weight."""
    before = _copies.by_weight
    _copies.by_weight = WeakIdKeyDictionary() if before is None else before
    try:
        yield
    finally:
        _copies.by_weight = before


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight.to(dtype)` without a gradient; in `keep_casts`, the copy of an earlier call if there is one."""
    if weight.dtype == dtype:
        return weight
    kept = _copies.by_weight
    if kept is None or type(weight) is not nn.Parameter or weight.is_inference():
        return weight.detach().to(dtype)
    version, copy = kept.get(weight, (None, None))
    if copy is None or version != weight._version or copy.dtype != dtype or copy.device != weight.device:
        copy = weight.detach().to(dtype)
        kept[weight] = weight._version, copy
    return copy
