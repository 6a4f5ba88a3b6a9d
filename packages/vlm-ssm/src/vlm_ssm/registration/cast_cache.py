"""Copies of weights in another dtype, kept for as long as a caller says, as autocast keeps its own.

Kernels take weights by address, so that autocast, whose cache only torch's own operations reach, doesn't cast them.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary


class _Copies(threading.local):
    """This thread's copies, by weight: its version and address at the time, and the copy. None: copies aren't kept.

    `weights`: those weights, by the address of their numbers.
    """

    by_weight: WeakIdKeyDictionary | None = None
    weights: dict[int, weakref.ref[Tensor]]


_copies = _Copies()


@contextmanager
def keep_casts() -> Iterator[None]:
    """Context in which `cast` makes one copy of each weight in this thread, until an operation changes the weight.

    Changes that torch doesn't count, through `weight.data` or a NumPy array of its memory, are not seen before the end.
    """
    before = _copies.by_weight
    if before is None:
        _copies.by_weight, _copies.weights = WeakIdKeyDictionary(), {}
    try:
        yield
    finally:
        _copies.by_weight = before


def cast(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """`weight.to(dtype)` without a gradient; in `keep_casts`, the copy of an earlier call if there is one."""
    if weight.dtype == dtype:
        return weight
    kept = _copies.by_weight
    if kept is None or weight.is_inference() or not isinstance(weight := _parameter(weight), nn.Parameter):
        return weight.detach().to(dtype)
    if entry := kept.get(weight):
        before, copy = entry
        if before == _version(weight) and copy.dtype == dtype and copy.device == weight.device:
            return copy
    copy = weight.detach().to(dtype)
    kept[weight] = _version(weight), copy
    _copies.weights[weight.data_ptr()] = weakref.ref(weight)
    return copy


def _version(weight: Tensor) -> tuple[int, int]:
    """Other after every change that torch can see: by an operation, and of the memory (`weight.data = …`)."""
    return weight._version, weight.data_ptr()


def _parameter(weight: Tensor) -> Tensor:
    """The parameter whose numbers these are, if it is known: activation checkpointing hands out detached weights."""
    if type(weight) is nn.Parameter:
        return weight
    known = _copies.weights.get(weight.data_ptr(), lambda: None)()
    if known is None or known.data_ptr() != weight.data_ptr() or known._version != weight._version:
        return weight
    same = (known.shape, known.stride(), known.dtype) == (weight.shape, weight.stride(), weight.dtype)
    return known if same else weight
