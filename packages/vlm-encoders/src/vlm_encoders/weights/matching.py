"""Comparison of checkpoint tensors with a model: names, shapes and dtypes, before any tensor is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.model_folder.checkpoint_errors import listed, shape_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What a weight may be stored as. Smaller formats mean nothing without the scales of their quantiser."""


def load(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    target: str,
    match: Literal["names", "order"] = "names",
    optional: tuple[str, ...] = (),
) -> None:
    """Copy tensors into `module`, all of them and nothing else.

    Names that begin with one of `optional` may be absent, left over or of another shape. `match="order"` pairs
    tensors by position, for files whose names differ. Raises `UserError` naming what does not fit and on which
    side.
    """
    own = module.state_dict()
    if match == "order":
        tensors = _in_order(own, tensors, source, target)
    problems = differences(_without(own, optional), _without(tensors, optional), target)
    if problems:
        raise UserError(f"{source}: does not fit {target}: {problems}")
    fitting = {k: t for k, t in tensors.items() if k in own and t.shape == own[k].shape}
    module.load_state_dict(fitting, strict=not optional)


def differences(own: Mapping[str, Tensor], found: Mapping[str, Tensor], target: str) -> str:
    """What a file's tensors `found` have otherwise than the model's `own`, in one line; empty if they fit."""
    both = [k for k in own if k in found]
    shapes = [
        f"{k}: {shape_of(found[k].shape)} instead of {shape_of(own[k].shape)}"
        for k in both
        if found[k].shape != own[k].shape
    ]
    formats = [
        f"{k}: {_format(found[k])} instead of {_format(own[k])}"
        for k in both
        if own[k].is_floating_point() and found[k].dtype not in FLOATS
    ]
    problems = [
        listed(f"missing from the file, though {target} needs them", [k for k in own if k not in found]),
        listed(f"in the file, though {target} has no such tensor", [k for k in found if k not in own]),
        listed(f"of another shape in the file than in {target}", shapes),
        listed("of a number format that holds no plain weights", formats),
    ]
    return "; ".join(filter(None, problems))


def _without(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {k: t for k, t in tensors.items() if not k.startswith(prefixes)}


def _in_order(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str, target: str
) -> dict[str, Tensor]:
    pairs = zip(own, tensors, strict=False)
    wrong = next((f for f in enumerate(pairs) if own[f[1][0]].shape != tensors[f[1][1]].shape), None)
    if wrong:
        i, (mine, theirs) = wrong
        raise UserError(
            f"{source}: match: order fails at tensor {i + 1} of {len(tensors)}: the file has {theirs} "
            f"{shape_of(tensors[theirs].shape)}, {target} wants {mine} {shape_of(own[mine].shape)}; "
            "it is another model or another order"
        )
    if len(own) != len(tensors):
        raise UserError(
            f"{source}: match: order needs as many tensors as the model has: "
            f"{len(tensors)} in the file, {len(own)} in {target}"
        )
    return dict(zip(own, tensors.values(), strict=True))


def _format(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
