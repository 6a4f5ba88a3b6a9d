"""How kernels are compiled, cached and run on threads.

A kernel is a function of one address, that of its `Job`, which every thread of a parallel region calls: the threads
take task numbers from a common counter until none is left. The region is opened in the OpenMP library that torch
itself uses: its threads are awake after a matrix product, and a second pool would have to be woken each time.
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

from vlm_ssm.runtime.kernel_cache import why_no_cache

FLAGS = {"contract", "nsz"}  # NaN and infinity stay defined, sums keep their order
LINE = 64  # bytes of a cache line

intrinsic: Any = extending.intrinsic
"""Makes a function of types, returning a signature and a generator of LLVM code, callable in kernels."""

inner: Any = njit(fastmath=FLAGS, error_model="numpy", inline="never")
"""A function of its own that kernels call."""

inline: Any = njit(fastmath=FLAGS, error_model="numpy", inline="always")
"""A function that disappears into its caller."""

_PROCESS = os.getpid()
_COMPILING = threading.RLock()
_OWN = threading.local()


def _user_cache() -> Path:
    if folder := os.environ.get("XDG_CACHE_HOME"):
        return Path(folder)
    try:
        return Path.home() / ".cache"
    except RuntimeError:  # a user without a home: nothing is kept
        return Path(os.devnull)


@cache
def cache_folder() -> Path:
    """Where compiled kernels lie, named after every line of their sources: an edit never meets an old cache."""
    digest = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(file.read_bytes())
    base = Path(os.environ.get("NUMBA_CACHE_DIR") or _user_cache() / "vlm-ssm" / "kernels")
    return base / f"numba-{numba.__version__}-{digest.hexdigest()[:16]}"


@cache
def why_not_kept() -> str | None:
    """Why kernels are compiled in each process: the cache folder can't be made, or others could write into it."""
    problem = why_no_cache(cache_folder())
    if problem:
        _cannot_keep(problem)
    return problem


@cache
def _cannot_keep(problem: str) -> None:
    """Say once that every process will compile anew."""
    sys.stderr.write(f"vlm-ssm: {cache_folder()}: {problem}; compiled kernels are not kept\n")
    sys.stderr.flush()


@cache
def openmp() -> ctypes.CDLL | None:
    """The OpenMP library that this process has loaded, torch's own if there are several; None if it can't be used."""
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
    """As many as torch uses; one in a forked child, where the parent's threads are not."""
    return torch.get_num_threads() if os.getpid() == _PROCESS else 1


class Kernel:
    """A kernel by its function of a job's address; compiled at first use, kept on disk for the next process."""

    def __init__(self, function: Callable[[int], None]) -> None:
        self.function = function
        self.name = f"{function.__module__.rsplit('.', 1)[-1]}.{function.__name__}"

    @cached_property
    def _compiled(self) -> Any:
        with _COMPILING:
            return self._compile()

    def _compile(self) -> Any:
        stored = list(cache_folder().rglob(f"{self.name}-*")) if why_not_kept() is None else []
        if stored:
            try:
                return self._compile_or_load()
            except Exception:  # a damaged file in the cache; it is compiled anew
                for file in stored:
                    file.unlink(missing_ok=True)
        sys.stderr.write(f"vlm-ssm: compiling the kernel {self.name} for this CPU, once …\n")
        sys.stderr.flush()
        try:
            return self._compile_or_load()
        except OSError as error:  # a full disk, a quota: the kernel itself is fine
            _cannot_keep(error.strerror or str(error))
            return self._compile_or_load(keep=False)

    def _compile_or_load(self, keep: bool = True) -> Any:
        settings: Any = config
        before, settings.CACHE_DIR = settings.CACHE_DIR, str(cache_folder())
        kept = keep and why_not_kept() is None
        try:
            make = cfunc(types.void(types.int64), fastmath=FLAGS, error_model="numpy", cache=kept)
            return make(self.function)
        finally:
            settings.CACHE_DIR = before

    @cached_property
    def _entry(self) -> Any:
        return ctypes.CFUNCTYPE(None, ctypes.c_int64)(self._compiled.address)

    def __call__(self, tasks: int, *arguments: tuple[Any, ...], floats: int = 0, phases: int = 1) -> None:
        """Run `tasks` tasks with up to two named tuples of ints and so many fp32 of working memory a thread.

        A kernel of several phases counts each phase's tasks by itself and waits at a barrier in between.
        """
        library = openmp()
        workers = 1 if phases > 1 and library is None else max(1, min(threads(), tasks))
        stride = (4 * floats + LINE - 1) // LINE * LINE
        packs = [packed(argument) for argument in arguments]
        job = array("q", bytes(8 * COUNTERS + LINE * phases))
        job[WORK], job[STRIDE], job[TASKS] = _working_memory(workers * stride), stride, tasks
        job[BARRIER] = _address(library.GOMP_barrier) if library is not None and workers > 1 else 0
        for place, pack in zip((FIRST, SECOND), packs, strict=False):
            job[place] = pack.buffer_info()[0]
        _launch(library, self._entry, job.buffer_info()[0], workers)


WORK, STRIDE, TASKS, BARRIER, FIRST, SECOND, SLOT, COUNTERS = range(8)
"""Where in a job, an array of int64, each of these stands; from the last on, one counter a phase, 64 bytes apart."""


def _working_memory(size: int) -> int:
    """Address of so many bytes, kept by the calling thread for its next kernel."""
    held = getattr(_OWN, "memory", None)
    if held is None or held.nbytes < size + LINE:
        held = _OWN.memory = np.empty(size + LINE, np.uint8)
        _OWN.address = (held.ctypes.data + LINE - 1) // LINE * LINE
    return _OWN.address


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
