"""Triton's interpreter, quick enough for tests.

It patches the whole of `triton.language` anew at each call of one kernel function by another, a millisecond each.
Once a launch is enough.
"""

from __future__ import annotations

import inspect
from typing import Any

import triton.language as tl
from triton.runtime import interpreter


def speed_up() -> None:
    """For this process."""
    plain_patch, plain_launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    done: set[Any] = set()

    def patch(fn: Any) -> Any:
        languages = tuple(
            id(v) for v in fn.__globals__.values() if inspect.ismodule(v) and v in (tl, tl.core)
        )
        if languages in done:
            return None
        done.add(languages)
        return plain_patch(fn)

    def launch(self: Any, *args: Any, **kwargs: Any) -> Any:
        done.clear()
        return plain_launch(self, *args, **kwargs)

    interpreter._patch_lang = patch  # pyright: ignore
    interpreter.GridExecutor.__call__ = launch
