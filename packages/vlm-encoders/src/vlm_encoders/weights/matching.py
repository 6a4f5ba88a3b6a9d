"""Comparison of checkpoint tensors with a model: names, shapes and dtypes, before any tensor is copied."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from vlm_core.errors import UserError
from vlm_core.model_folder.checkpoint_errors import listed, shape_of

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Dtypes of stored weights. Smaller formats are meaningless without the scales of their quantiser."""


def load(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    source: str,
    target: str,
    match: Literal["names", "order"] = "names",
    optional: tuple[str, ...] = (),
) -> None:
    """Copy all tensors into `module`, which must have exactly these.

    Names with a prefix in `optional` may be missing, left over or of another shape. `match="order"` pairs tensors by
    position, for files with other names. Raises `UserError` with the tensors that do not fit.
    """
    params = module.state_dict()
    if match == "order":
        tensors = _in_order(params, tensors, source, target)
    problems = differences(_without(params, optional), _without(tensors, optional), target)
    if problems:
        raise UserError(f"{source}: does not fit {target}: {problems}")
    fitting = {k: t for k, t in tensors.items() if k in params and t.shape == params[k].shape}
    module.load_state_dict(fitting, strict=not optional)


def differences(params: Mapping[str, Tensor], stored: Mapping[str, Tensor], target: str) -> str:
    """How a file's tensors `stored` differ from the model's `params`, in one line; empty if they fit."""
    both = [k for k in params if k in stored]
    shapes = [
        f"{k}: {shape_of(stored[k].shape)} instead of {shape_of(params[k].shape)}"
        for k in both
        if stored[k].shape != params[k].shape
    ]
    formats = [
        f"{k}: {_format(stored[k])} instead of {_format(params[k])}"
        for k in both
        if params[k].is_floating_point() and stored[k].dtype not in FLOATS
    ]
    problems = [
        listed(f"missing from the file, though {target} needs them", [k for k in params if k not in stored]),
        listed(f"in the file, though {target} has no such tensor", [k for k in stored if k not in params]),
        listed(f"of another shape in the file than in {target}", shapes),
        listed("of a number format that holds no plain weights", formats),
    ]
    return "; ".join(filter(None, problems))


def _without(tensors: Mapping[str, Tensor], prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return {k: t for k, t in tensors.items() if not k.startswith(prefixes)}


def _in_order(
    params: Mapping[str, Tensor], tensors: Mapping[str, Tensor], source: str, target: str
) -> dict[str, Tensor]:
    pairs = zip(params, tensors, strict=False)
    wrong = next((f for f in enumerate(pairs) if params[f[1][0]].shape != tensors[f[1][1]].shape), None)
    if wrong:
        i, (expected, actual) = wrong
        raise UserError(
            f"{source}: match: order fails at tensor {i + 1} of {len(tensors)}: the file has {actual} "
            f"{shape_of(tensors[actual].shape)}, {target} wants {expected} {shape_of(params[expected].shape)}; "
            "it is another model or another order"
        )
    if len(params) != len(tensors):
        raise UserError(
            f"{source}: match: order needs as many tensors as the model has: "
            f"{len(tensors)} in the file, {len(params)} in {target}"
        )
    return dict(zip(params, tensors.values(), strict=True))


def _format(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
