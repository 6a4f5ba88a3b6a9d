"""What every part must do in training and in evaluation mode: lines of the suites of all three."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from vlm_core.numerics.frozen_modules import running_statistics


def written(module: nn.Module, run: Callable[[], object]) -> set[str]:
    """Names of the buffers that `run` changes or makes."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    run()
    after = dict(module.named_buffers())
    odd = {name for name in before.keys() | after.keys() if name not in before or name not in after}
    return odd | {name for name in before.keys() & after.keys() if not _same(before[name], after[name])}


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.nan_to_num(), b.nan_to_num())


def check_evaluation(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """In evaluation mode a forward pass writes no buffer and draws no random number."""
    module.eval()
    with torch.no_grad():
        run()  # what is made once, by the first pass, is not counted
        outputs: list[Tensor] = []
        changed = written(module, lambda: outputs.extend(run() for _ in range(2)))
    assert not changed, f"a forward pass in evaluation mode writes {sorted(changed)}"
    assert torch.equal(*outputs), "in evaluation mode the same input gives different outputs"


def check_training(module: nn.Module, run: Callable[[], object]) -> None:
    """In training mode a forward pass writes no buffer but running statistics of norms."""
    module.requires_grad_(True).train()
    run()
    allowed = {
        f"{name}.{own}" if name else own
        for name, norm in module.named_modules()
        if norm.training and running_statistics(norm)
        for own in norm._buffers
    }
    changed = written(module, run) - allowed
    assert not changed, (
        f"a forward pass in training mode writes {sorted(changed)}: where a layer is computed again, or several "
        "processes compute it, nobody knows what these should be"
    )


def check_frozen(module: nn.Module, run: Callable[[], Tensor]) -> None:
    """Frozen, it is the same in training mode as in evaluation mode: nothing moves."""
    module.requires_grad_(False).eval()
    with torch.no_grad():
        expected, before = run(), copy.deepcopy(module.state_dict())
    module.train()
    found, after = run(), module.state_dict()
    assert not found.requires_grad, "a frozen module records a gradient"
    assert torch.equal(found, expected), "a frozen module gives something else in training mode: dropout?"
    moved = [
        name
        for name, tensor in before.items()
        if isinstance(tensor, Tensor) and not _same(tensor, after[name])
    ]
    assert not moved, f"frozen, it changes {moved}"
