"""Frozen modules stay in evaluation mode; forward passes outside of training write to copies of the buffers.

`STATISTICS` are the buffers in which torch's norms, and libraries with the same names, keep running statistics.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from torch import Tensor, nn

STATISTICS = ("running_mean", "running_var")
_ADDED = "added_for_training"


def running_statistics(module: nn.Module) -> dict[str, Tensor]:
    """Running statistics of a module without its children, by name; empty for most modules."""
    buffers = module._buffers
    return {name: tensor for name in STATISTICS if (tensor := buffers.get(name)) is not None}


def mark_added(module: nn.Module) -> None:
    """Mark a module that a stage adds to a part, an adapter: it is trained, and the part around it stays frozen."""
    vars(module)[_ADDED] = True


class Part(nn.Module):
    """One of the three parts of a model. `train()` leaves modules without a trained parameter in evaluation mode.

    Frozen modules thus have no dropout and no drop path, and keep their running statistics. A module is trained if
    one of its children is; a module without parameters, such as dropout, follows its parent.
    """

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if mode:
            _set_eval(self, any(p.requires_grad for p in _spec_parameters(self)))
        return self


def _added(module: nn.Module) -> bool:
    return _ADDED in vars(module)


def _spec_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    """All parameters of a module except those that a stage has added."""
    if not _added(module):
        yield from (p for p in module._parameters.values() if p is not None)
        for child in module.children():
            yield from _spec_parameters(child)


def _set_eval(module: nn.Module, trained: bool) -> None:
    """Set `module` and its children to evaluation mode, except those that are trained."""
    if _added(module):
        return
    if not trained:
        module.training = False
    for child in module.children():
        trainable = [p.requires_grad for p in _spec_parameters(child)]
        _set_eval(child, trained and (any(trainable) or not trainable))


class BufferCopies:
    """Copies of all buffers of some modules; inside `with`, forward passes read and write the copies.

    On exit the modules have their own buffers again, unchanged, as a pending backward pass requires.
    """

    def __init__(self, *parts: nn.Module) -> None:
        modules = {id(m): m for part in parts for m in part.modules() if m._buffers}
        self._originals: list[dict[str, Tensor | None]] = []
        self._copies = [
            (m, {name: None if b is None else b.detach().clone() for name, b in m._buffers.items()})
            for m in modules.values()
        ]

    def __enter__(self) -> None:
        self._originals = [dict(module._buffers) for module, _ in self._copies]
        for module, copies in self._copies:
            module._buffers.update(copies)

    def __exit__(self, *error: object) -> None:
        for (module, _copies), originals in zip(self._copies, self._originals, strict=True):
            module._buffers.clear()
            module._buffers.update(originals)
