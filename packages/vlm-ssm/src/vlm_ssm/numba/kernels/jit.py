"""Compiling, caching and launching of kernels.

A kernel is a function of one address, that of its `Job`, which every thread of a parallel region calls. Threads
take task numbers from a shared counter until none is left. The region runs in the OpenMP library that torch itself
uses: its threads are still spinning after a matrix product, whereas a second pool would have to be woken each time.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import sys
import threading
from array import array
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numba
import numpy as np
import torch
from numba import cfunc, extending, njit, types
from numba.core import config

from vlm_ssm.runtime.kernel_cache import user_cache, why_no_cache

FLAGS = {"contract", "nsz"}  # NaN and infinity stay defined, sums keep their order
LINE = 64  # bytes of a cache line

intrinsic: Any = extending.intrinsic
"""Decorator of a function of types that returns a signature and a generator of LLVM code; kernels can call it."""

inner: Any = njit(fastmath=FLAGS, error_model="numpy", inline="never")
"""Compiles a function that kernels call."""

inline: Any = njit(fastmath=FLAGS, error_model="numpy", inline="always")
"""Compiles a function that is inlined into its caller."""

_PROCESS = os.getpid()
_COMPILING = threading.RLock()
_THREAD = threading.local()


@cache
def cache_folder() -> Path:
    """Folder of compiled kernels. Its name holds a digest of the kernels' sources: an edit invalidates the cache."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or user_cache() / "vlm-ssm" / "kernels")
    return base / f"numba-{numba.__version__}-{digest.hexdigest()[:16]}"


@cache
def why_not_cached() -> str | None:
    """Why kernels can't be cached: no folder can be created, or other users could write into it. None if they can."""
    problem = why_no_cache(cache_folder())
    if problem:
        _warn_not_cached(problem)
    return problem


@cache
def _warn_not_cached(problem: str) -> None:
    """Print once that every process will compile its kernels again."""
    sys.stderr.write(f"vlm-ssm: {cache_folder()}: {problem}; compiled kernels are not cached\n")
    sys.stderr.flush()


@cache
def openmp() -> ctypes.CDLL | None:
    """The OpenMP library loaded in this process, torch's if there are several; None if none can be used."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
        loaded = {line.split()[-1] for line in maps.splitlines() if "omp" in line}
    except OSError:
        return None
    home = str(Path(torch.__file__).parent)
    for path in sorted(loaded, key=lambda p: (not p.startswith(home), p)):
        if Path(path).name.startswith(("libgomp", "libiomp", "libomp")):
            library = ctypes.CDLL(path)
            if hasattr(library, "GOMP_parallel") and hasattr(library, "GOMP_barrier"):
                library.GOMP_parallel.argtypes = [ctypes.c_void_p] * 2 + [ctypes.c_uint] * 2
                library.GOMP_parallel.restype = None
                return library
    return None


def threads() -> int:
    """torch's number of threads; 1 in a forked child, which has none of its parent's threads."""
    return torch.get_num_threads() if os.getpid() == _PROCESS else 1


class Kernel:
    """A kernel, from a function of a job's address; compiled at first use and cached on disk."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self.function = function
        self.name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"

    @cached_property
    def _compiled(self) -> Any:
        with _COMPILING:
            return self._compile()

    def _compile(self) -> Any:
        stored = list(cache_folder().rglob(f"{self.name}-*")) if why_not_cached() is None else []
        if stored:
            try:
                return self._compile_or_load()
            except Exception:  # a damaged file in the cache: compile again
                for file in stored:
                    file.unlink(missing_ok=True)
        sys.stderr.write(f"vlm-ssm: compiling the kernel {self.name} for this CPU, once …\n")
        sys.stderr.flush()
        try:
            return self._compile_or_load()
        except OSError as error:  # a full disk, a quota: the kernel itself is fine
            _warn_not_cached(error.strerror or str(error))
            return self._compile_or_load(use_cache=False)

    def _compile_or_load(self, use_cache: bool = True) -> Any:
        settings: Any = config
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(cache_folder())
        cached = use_cache and why_not_cached() is None
        try:
            make = cfunc(types.void(types.int64), fastmath=FLAGS, error_model="numpy", cache=cached)
            return make(self.function)
        finally:
            settings.CACHE_DIR = before

    @cached_property
    def _entry(self) -> Any:
        return ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._compiled.address)

    def __call__(self, tasks: int, *arguments: tuple[Any, ...], floats: int = 0, phases: int = 1) -> None:
        """Run `tasks` tasks on up to two named tuples of ints; `floats` is the fp32 scratch memory of a thread.

        A kernel with several phases has a task counter for each of them and a barrier between them.
        """
        library = openmp()
        workers = 1 if phases > 1 and library is None else max(1, min(threads(), tasks))
        stride = (4 * floats + LINE - 1) // LINE * LINE
        packs = [packed(argument) for argument in arguments]
        job = array("q", bytes(8 * COUNTERS + LINE * phases))
        job[SCRATCH], job[STRIDE], job[TASKS] = _scratch_memory(workers * stride), stride, tasks
        job[BARRIER] = _address(library.GOMP_barrier) if library is not None and workers > 1 else 0
        for entry, pack in zip((FIRST, SECOND), packs, strict=False):
            job[entry] = pack.buffer_info()[0]
        _launch(library, self._entry, job.buffer_info()[0], workers)


SCRATCH, STRIDE, TASKS, BARRIER, FIRST, SECOND, SLOT, COUNTERS = range(8)
"""Indices into a job, an array of int64. From `COUNTERS` on there is one task counter a phase, 64 bytes apart."""


def _scratch_memory(size: int) -> int:
    """Address of at least `size` bytes. The calling thread keeps the buffer for its next kernel."""
    buffer = getattr(_THREAD, "memory", None)
    if buffer is None or buffer.nbytes < size + LINE:
        buffer = _THREAD.memory = np.empty(size + LINE, np.uint8)
        _THREAD.address = (buffer.ctypes.data + LINE - 1) // LINE * LINE
    return _THREAD.address


def _address(function: Any) -> int:
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def _launch(library: ctypes.CDLL | None, entry: Any, job: int, workers: int) -> None:
    """Call `entry(job)` on every thread."""
    if workers == 1:
        entry(job)
    elif library is not None:
        library.GOMP_parallel(_address(entry), job, workers, 0)
    else:
        others = [threading.Thread(target=entry, args=(job,)) for _ in range(workers - 1)]
        for other in others:
            other.start()
        entry(job)
        for other in others:
            other.join()


def packed(arguments: tuple[Any, ...]) -> array[int]:
    """A named tuple of ints and of such tuples as one array of int64."""
    flat = array("q")
    for value in arguments:
        if type(value) is int:
            flat.append(value)
        else:
            flat.extend(value)
    return flat
