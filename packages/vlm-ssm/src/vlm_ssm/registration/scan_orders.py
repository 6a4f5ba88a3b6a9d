"""Scan orders that are used again and again: their inverses are computed once, and their rows checked once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

_INVERSES = (
    WeakTensorKeyDictionary()
)  # (inverse, the version of the order that it belongs to), while the order lives


def keep_inverse(scan_order: Tensor) -> Tensor:
    """`scan_order` itself, permutations (K, T) of range(T), with an inverse that lasts as long as it does.

    Raises `ValueError` for rows that are no permutations; checking them makes the host wait for a GPU, once.
    """
    places = torch.arange(scan_order.shape[-1], device=scan_order.device)
    if not scan_order.is_meta and not torch.equal(scan_order.sort(-1).values, places.expand_as(scan_order)):
        raise ValueError(
            f"scan_order {tuple(scan_order.shape)} must hold permutations of range({len(places)})"
        )
    _INVERSES[scan_order] = scan_order.argsort(-1), scan_order._version
    return scan_order


def _kept(scan_order: Tensor) -> Tensor | None:
    if torch.compiler.is_compiling() or scan_order.is_inference():
        return None
    entry = _INVERSES.get(scan_order)
    return entry[0] if entry is not None and entry[1] == scan_order._version else None


def is_permutation(scan_order: Tensor) -> bool:
    """Whether `keep_inverse` has checked this tensor, and nobody has written to it since."""
    return _kept(scan_order) is not None


def inverse_of(scan_order: Tensor) -> Tensor:
    """The inverse permutations (K, T): the one that `keep_inverse` computed, else a new one."""
    inverse = _kept(scan_order)
    return scan_order.argsort(-1) if inverse is None else inverse
