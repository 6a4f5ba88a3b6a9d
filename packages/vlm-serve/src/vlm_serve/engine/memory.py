"""The C library's memory allocator, set up for states that are allocated and freed at each step."""

from __future__ import annotations

import ctypes
import sys

_M_MMAP_THRESHOLD, _M_ARENA_MAX = -3, -8
LARGE = 4 * 2**20
"""Bytes from which memory goes back to the system once it is freed."""


def compact_allocator() -> None:
    """Keep resident memory near what is in use, for the whole process; before its threads are started.

    glibc gives each thread an arena of pieces of 64 MiB, in which large states leave a third unused, and learns to keep
    freed blocks of up to 32 MiB. Nothing happens with another C library.
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "mallopt"):
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, LARGE)
