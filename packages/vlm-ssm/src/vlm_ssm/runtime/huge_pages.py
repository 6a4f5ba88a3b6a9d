"""Memory of large outputs: the kernel is asked for pages of 2 MB.

glibc takes fresh memory from the system for every tensor of more than 32 MB, and often for smaller ones. Its first
writes then fault once for each page of 4 KB, which costs the scan as much time as its computation. Pages of 2 MB fault
512 times less often.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from functools import cache

from torch import Tensor

LARGE = 4 << 20
"""Bytes that hold at least one whole page of 2 MB."""


@cache
def _madvise() -> Callable[[int, int, int], int] | None:
    """The system call, through libc; None on a system without transparent huge pages."""
    if not hasattr(mmap, "MADV_HUGEPAGE") or not sys.platform.startswith("linux"):
        return None
    function = ctypes.CDLL(None).madvise
    function.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return function


def with_huge_pages(t: Tensor) -> Tensor:
    """The new, contiguous tensor itself, its memory advised for huge pages if it is large; only a hint."""
    size, advise = t.nbytes, _madvise()
    if size >= LARGE and t.device.type == "cpu" and advise is not None:
        begin = -(-t.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (t.data_ptr() + size) // mmap.PAGESIZE * mmap.PAGESIZE
        advise(begin, end - begin, mmap.MADV_HUGEPAGE)
    return t
