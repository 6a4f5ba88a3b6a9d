"""Limits on the size of a model while it is built: a config file may contain a number of layers such as 10^9.

`bounded_modules` applies to every model, `bounded` to a model whose weight files are known.
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
"""Limit of modules. The largest published mixtures of experts have about 60 000, a Mamba of 2.8 B parameters 600."""

SLACK = 2048
"""Parameters and buffers that may be created and dropped: blocks after the chosen layer, heads."""
MOST = 1 << 16
"""Limit of tensors of any model."""
LARGEST = 1 << 27
"""Limit of values in one tensor that is in no file, and in all such buffers together."""


@contextmanager
def bounded_modules(most: int = MAX_MODULES) -> Iterator[None]:
    """Inside, raise `UserError` when more than `most` submodules are registered."""
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
    """Counts registered tensors, and raises `UserError` if they exceed those of the weight files."""

    def __init__(self, stored: Iterable[Mapping[str, Stored]], slack: int) -> None:
        in_files = [tensor for tensors in stored for tensor in tensors.values()]
        self.tensors = min(slack + 4 * len(in_files), MOST)
        self.largest = max([LARGEST, *(tensor.numel for tensor in in_files)])
        self.buffers = LARGEST

    def count(self, name: str, tensor: Tensor | None, *, derived: bool) -> None:
        """Count one tensor; `derived` buffers are in no file and take memory in any case."""
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
    """Inside, raise `UserError` for modules with far more or far larger tensors than the files `stored`.

    For the meta device, where tensors take time but no memory.
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
