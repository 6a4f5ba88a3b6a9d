"""Frozen modules stay in evaluation mode, and forward passes of no training row write to copies of the buffers.

Modules that have these buffers keep running statistics: torch's norms, and those of libraries that follow them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var")
_ADDED = "added_for_training"


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running statistics that a module itself keeps, by name; none for most modules."""
    buffers = module._buffers
    return {name: tensor for name in STATISTICS if (tensor := buffers.get(name)) is not None}


def mark_added(module: nn.Module) -> None:
    """Mark a module that a stage adds to a part, an adapter: it is trained, and the part around it stays frozen."""
    vars(module)[_ADDED] = True


class Part(nn.Module):
    """One of the three parts of a model. In training mode, modules without a trained parameter are not.

    So `train()`, whoever calls it, lets nothing move that is frozen: no running statistics, no dropout, no drop path. A
    module counts with all that is in it; one without parameters, as dropout is, goes with the module around it.
    """

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:
            _rest(self, any(p.requires_grad for p in _own(self)))
        return self


def _added(module: nn.Module) -> bool:
    return _ADDED in vars(module)


def _own(module: nn.Module) -> Iterator[nn.Parameter]:
    """All parameters of a module but those that a stage has added."""
    if not _added(module):
        yield from (p for p in module._parameters.values() if p is not None)
        for child in module.children():
            yield from _own(child)


def _rest(module: nn.Module, trained: bool) -> None:
    """Evaluation mode for `module` unless it is trained, and for all in it that isn't."""
    if _added(module):
        return
    if not trained:
        module.training = False
    for child in module.children():
        own = [p.requires_grad for p in _own(child)]
        _rest(child, trained and (any(own) or not own))


class BufferCopies:
    """Copies of all buffers of some modules as they are now; inside `with`, forward passes see and write those.

    On the way out every buffer is again the one that it was: backward passes over it find it untouched.
    """

    def __init__(self, *parts: nn.Module) -> None:
        modules = {id(m): m for part in parts for m in part.modules() if m._buffers}
        self._own: list[dict[str, Tensor | None]] = []
        self._copies = [
            (m, {name: None if b is None else b.detach().clone() for name, b in m._buffers.items()})
            for m in modules.values()
        ]

    def __enter__(self) -> None:
        self._own = [dict(module._buffers) for module, _ in self._copies]
        for module, copies in self._copies:
            module._buffers.update(copies)

    def __exit__(self, *error: object) -> None:
        for (module, _copies), own in zip(self._copies, self._own, strict=True):
            module._buffers.clear()
            module._buffers.update(own)
