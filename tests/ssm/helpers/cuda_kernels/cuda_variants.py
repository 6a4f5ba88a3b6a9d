"""Compiles the variants of CUDA kernels that tests are going to launch, in several processes at once.

One after the other they would take minutes, and NVRTC's threads wait for each other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from types import ModuleType
from typing import Any

import pytest

Variant = tuple[str, tuple[tuple[str, int], ...]]
PROCESSES = 12


class Recorded(Exception):
    """Ends a test that only records what it launches."""


def recorded(
    modules: Iterable[ModuleType], runs: Iterable[Callable[[pytest.MonkeyPatch], Any]]
) -> set[Variant]:
    """Sources and constants of the kernels that `runs` would launch."""
    variants: set[Variant] = set()

    class Kernel:
        def __init__(self, file: str, _: str, **constants: int) -> None:
            self.variant = file, tuple(sorted((name, int(value)) for name, value in constants.items()))

        def prepare(self, *_: Any, **__: Any) -> Callable[..., None]:
            return self.launched

        def launched(self, *_: Any) -> None:
            variants.add(self.variant)

    _forget_launches(modules)
    for run in runs:
        with pytest.MonkeyPatch.context() as patch:
            for module in modules:
                patch.setattr(module, "kernel", Kernel)
            with suppress(
                Exception, pytest.skip.Exception
            ):  # what it computes is garbage; the test itself comes later
                run(patch)
    _forget_launches(modules)
    return variants


def _forget_launches(modules: Iterable[ModuleType]) -> None:
    """Those that modules keep for shapes that they have seen."""
    for module in modules:
        for value in vars(module).values():
            if hasattr(value, "cache_clear") and getattr(value, "__module__", "") == module.__name__:
                value.cache_clear()


def compile_together(variants: Iterable[Variant], arch: str) -> None:
    """Into the cache of compiled kernels, from where the tests load them."""
    listed = sorted(variants, key=lambda v: ("backward" not in v[0], v))  # the longest first
    count = max(1, min(PROCESSES, os.cpu_count() or 1, len(listed)))
    children = [
        subprocess.Popen([sys.executable, __file__, arch], stdin=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for i, child in enumerate(children):
        assert child.stdin is not None
        child.stdin.write(json.dumps(listed[i::count]))
        child.stdin.close()
    assert [child.wait() for child in children] == [0] * count


def main() -> None:
    from vlm_ssm.cuda import compiler

    for file, defines in json.load(sys.stdin):
        compiler.machine_code(file, tuple((name, value) for name, value in defines), sys.argv[1])


if __name__ == "__main__":
    main()
