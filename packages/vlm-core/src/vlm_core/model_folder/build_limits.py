"""Limits on what building a model may make: a number of layers comes from a file, and a loop over 10^9 never ends.

`bounded_modules` holds for every model, `bounded` for one whose weight files are at hand.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_module_registration_hook

from vlm_core.errors import UserError
from vlm_core.model_folder.checkpoint_errors import shape_of
from vlm_core.model_folder.safetensors_file import Stored

MAX_MODULES = 100_000
"""Modules of a model. The largest published mixtures of experts have some 60 000, a Mamba of 2.8 B parameters 600."""

SLACK = 2048
"""Parameters and buffers that a folder's code may make and drop again: blocks behind the wanted layer, heads."""
MOST = 1 << 16
"""Tensors of any model."""
LARGEST = 1 << 27
"""Numbers in one tensor that no file holds, and in all buffers together."""


@contextmanager
def bounded_modules(most: int = MAX_MODULES) -> Iterator[None]:
    """Raise `UserError` where more than `most` modules are put into others, whichever library does it."""
    made = 0

    def count(*_: Any) -> None:
        nonlocal made
        made += 1
        if made > most:
            raise UserError(
                f"the model has more than {most} modules: a number of layers in its spec or config is too large"
            )

    hook = register_module_module_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


class _Bounds:
    """Counts what modules register, and refuses what no weight file explains."""

    def __init__(self, stored: Iterable[Mapping[str, Stored]], slack: int) -> None:
        held = [tensor for tensors in stored for tensor in tensors.values()]
        self.tensors = min(slack + 4 * len(held), MOST)
        self.largest = max([LARGEST, *(tensor.numel for tensor in held)])
        self.buffers = LARGEST

    def count(self, name: str, tensor: Tensor | None, *, derived: bool) -> None:
        """`derived` are buffers that no file holds: they take memory whatever the files say."""
        if tensor is None:
            return
        self.tensors -= 1
        self.buffers -= tensor.numel() if derived else 0
        if self.tensors < 0:
            raise UserError("the config files describe a model of far more layers than the weight files hold")
        if tensor.numel() > self.largest or self.buffers < 0:
            shape = shape_of(tensor.shape)
            raise UserError(
                f"the config files describe a far larger model than the weight files hold: {name} of {shape}"
            )


@contextmanager
def bounded(stored: Iterable[Mapping[str, Stored]], slack: int = SLACK) -> Iterator[None]:
    """Refuse modules made inside that have far more tensors, or far larger ones, than files with these contents.

    For the meta device, where a tensor takes time and no memory.
    """
    bounds = _Bounds(stored, slack)
    register = nn.Module.register_parameter, nn.Module.register_buffer

    def parameter(self: nn.Module, name: str, param: nn.Parameter | None) -> None:
        bounds.count(name, param, derived=False)
        register[0](self, name, param)

    def buffer(self: nn.Module, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        bounds.count(name, tensor, derived=not persistent)
        register[1](self, name, tensor, persistent)

    nn.Module.register_parameter, nn.Module.register_buffer = parameter, buffer
    try:
        yield
    finally:
        nn.Module.register_parameter, nn.Module.register_buffer = register
