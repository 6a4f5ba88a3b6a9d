"""Tests of all three suites: buffers and outputs in training mode, in evaluation mode, and of frozen modules."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlm_core.numerics.frozen_modules import running_statistics


def written(module: nn.Module, run: Callable[[], object]) -> set[str]:
    """Names of the buffers that `run` changes, adds or removes."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    run()
    after = dict(module.named_buffers())
    common = before.keys() & after.keys()
    return (before.keys() ^ after.keys()) | {n for n in common if not _same(before[n], after[n])}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def check_evaluation(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """In evaluation mode a forward pass writes no buffer and is deterministic."""
    module.eval()
    with torch.no_grad():
        run()  # buffers that the first pass creates are allowed
        outputs: list[Tensor] = []
        changed = written(module, lambda: outputs.extend(run() for _ in range(2)))
    assert not changed, f"a forward pass in evaluation mode writes {sorted(changed)}"
    assert torch.equal(*outputs), "in evaluation mode the same input gives different outputs"


def check_training(module: nn.Module, run: Callable[[], object]) -> None:
    """In training mode a forward pass writes no buffers except running statistics of norms."""
    module.requires_grad_(True).train()
    run()
    allowed = {
        f"{name}.{buffer}" if name else buffer
        for name, norm in module.named_modules()
        if norm.training and running_statistics(norm)
        for buffer in norm._buffers
    }
    changed = written(module, run) - allowed
    assert not changed, (
        f"a forward pass in training mode writes {sorted(changed)}: with activation checkpointing or several "
        "processes their values would be undefined"
    )


def check_frozen(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """A frozen module has the same outputs and buffers in training mode as in evaluation mode."""
    module.requires_grad_(False).eval()
    with torch.no_grad():
        expected, before = run(), copy.deepcopy(module.state_dict())
    module.train()
    output, after = run(), module.state_dict()
    assert not output.requires_grad, "a frozen module records a gradient"
    assert torch.equal(output, expected), "a frozen module has other outputs in training mode: dropout?"
    changed = [
        name
        for name, tensor in before.items()
        if isinstance(tensor, Tensor) and not _same(tensor, after[name])
    ]
    assert not changed, f"a frozen module changes {changed}"
