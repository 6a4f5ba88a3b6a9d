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
    """Inside, transformers draws no progress bars; afterwards the earlier setting holds again."""
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
    """For imports of bitsandbytes, peft's included, which ask a hub for kernels or warn that they can't.

    Inside neither happens; bitsandbytes computes with its own.
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
