"""Quiets libraries: log lines below errors, progress bars, and the download of kernels from a hub on import."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_only(name: str) -> Iterator[None]:
    """Inside, the logger of this name emits errors only."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Inside, transformers draws no progress bars; the earlier setting is restored on exit."""
    from transformers.utils import logging as bars

    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            bars.enable_progress_bar()


@contextmanager
def without_hub_kernels() -> Iterator[None]:
    """Context for imports of bitsandbytes, also through peft.

    Otherwise the import downloads kernels from a hub, or warns that it can't. Inside, it uses its own.
    """
    missing = object()
    module = sys.modules.get("kernels", missing)
    sys.modules["kernels"] = None  # pyright: ignore[reportArgumentType]  # an import raises ImportError
    try:
        with errors_only("bitsandbytes.backends.cpu.ops"):
            yield
    finally:
        del sys.modules["kernels"]
        if module is not missing:
            sys.modules["kernels"] = module  # pyright: ignore[reportArgumentType]
