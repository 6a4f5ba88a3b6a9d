"""What a CUDA graph of modules depends on besides its inputs, in a form that is cheap to compare at every call."""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import nn

_ALTERING = ("training", "_forward_hooks", "_forward_pre_hooks")


class Fingerprint:
    """Of the modules that it was asked about last: their tree is walked once, and compared from then on.

    A model of 64 layers has 500 modules: to walk them takes a millisecond, in which a GPU waits for the graph. Modules
    are not kept alive.
    """

    def __init__(self) -> None:
        self._roots: list[int] = []
        self._modules: list[weakref.ref[nn.Module]] = []
        self._children: list[int] = []

    def of(self, modules: Sequence[nn.Module]) -> list[int] | None:
        """The modules and the addresses of their weights.

        None if a graph would leave something out: a hook, a replaced `forward`, the randomness of training. Weights
        that change in place are read as they are.
        """
        own = self._known(modules) or self._walk(modules)
        everywhere = torch.nn.modules.module
        if everywhere._global_forward_hooks or everywhere._global_forward_pre_hooks:
            return None
        if any("forward" in each for each in own) or any(
            any(map(itemgetter(name), own)) for name in _ALTERING
        ):
            return None
        tensors = chain(_values(own, "_parameters"), _values(own, "_buffers"))
        with torch._C.DisableTorchFunction():  # a default device, say, would see every address
            addresses = [t.data_ptr() for t in tensors if t is not None]
        return [*self._roots, *self._children, *addresses]

    def _known(self, modules: Sequence[nn.Module]) -> list[dict[str, Any]] | None:
        """The attributes of all modules below; None if their tree is another one."""
        alive = [ref() for ref in self._modules]
        if None in alive or [*map(id, modules)] != self._roots:
            return None
        own = [module.__dict__ for module in alive]
        return own if _children(own) == self._children else None

    def _walk(self, modules: Sequence[nn.Module]) -> list[dict[str, Any]]:
        found, todo = [], list(modules)
        while todo:
            found.append(todo.pop())
            todo += [child for child in found[-1]._modules.values() if child is not None]
        own = [module.__dict__ for module in found]
        self._roots, self._modules = [*map(id, modules)], [*map(weakref.ref, found)]
        self._children = _children(own)
        return own


def _children(own: Sequence[dict[str, Any]]) -> list[int]:
    return [*map(id, _values(own, "_modules"))]


def _values(own: Sequence[dict[str, Any]], name: str) -> Iterable[Any]:
    """Of the dictionaries that all modules have under a name; loops of the interpreter take several times as long."""
    return chain.from_iterable(map(dict.values, map(itemgetter(name), own)))
