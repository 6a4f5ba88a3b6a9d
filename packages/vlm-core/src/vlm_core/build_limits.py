"""A limit on what building a model may make: a number of layers comes from a file, and a loop over 10^9 never ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.nn.modules.module import register_module_module_registration_hook

from vlm_core.errors import UserError

MAX_MODULES = 100_000
"""Modules of a model. The largest published mixtures of experts have some 60 000, a Mamba of 2.8 B parameters 600."""


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
