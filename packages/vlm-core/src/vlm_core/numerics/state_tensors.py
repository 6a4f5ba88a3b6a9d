"""Tensors of a state, which may come from a damaged file, against those that a model's states have."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from vlm_core.errors import UserError
from vlm_core.markup.printable import printable


def check_state_tensors(
    tensors: Mapping[str, Tensor], like: Mapping[str, Tensor], batch_dim: int = 0
) -> dict[str, Tensor]:
    """Copies of the tensors in the order, on the device and in the dtypes of `like`, which has those of one sequence.

    They are in torch's own memory: results of matrix products depend on alignment, which mapped files don't have. The
    batch size at `batch_dim` is free, but the same in all tensors. Raises `UserError` for missing and unexpected
    names, other shapes, and types that are not both floats. Tensors on the meta device stay there: they are checked
    before memory is allocated.
    """
    if unexpected := sorted(set(tensors) - set(like)):
        raise UserError(f"unexpected tensor {printable(unexpected[0], 80)!r} in a state of this model")
    if missing := [name for name in like if name not in tensors]:
        raise UserError(f"a state of this model has a tensor {missing[0]!r}, which is missing")
    batch = next((t.shape[batch_dim] for t in tensors.values() if t.ndim > batch_dim), 0)
    for name, expected in like.items():
        shape = list(expected.shape)
        shape[batch_dim] = batch
        seen = tensors[name]
        if list(seen.shape) != shape or batch < 1:
            batched = [*map(str, expected.shape)]
            batched[batch_dim] = "batch"
            raise UserError(f"{name!r} has shape {tuple(seen.shape)}, expected ({', '.join(batched)})")
        if seen.dtype != expected.dtype and not (seen.is_floating_point() and expected.is_floating_point()):
            kinds = [str(t.dtype).removeprefix("torch.") for t in (seen, expected)]
            raise UserError(f"{name!r} is of type {kinds[0]}, expected {kinds[1]}")
    return {name: _copied(tensors[name], expected) for name, expected in like.items()}


def _copied(tensor: Tensor, like: Tensor) -> Tensor:
    device = tensor.device if tensor.is_meta else like.device
    return torch.empty(tensor.shape, dtype=like.dtype, device=device).copy_(tensor)
