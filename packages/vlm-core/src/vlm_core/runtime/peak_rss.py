"""Peak memory of this process, without that of the process that started it, and what it has now."""

from __future__ import annotations

import sys
from pathlib import Path

STATUS = Path("/proc/self/status")


def peak_rss() -> int:
    """Peak resident memory in bytes of the program that runs in this process; mapped files count once they are read.

    On Linux this is `VmHWM`. `ru_maxrss` survives `exec` there: a child of a large process reports its parent's memory
    (getrusage(2); kernel, `exec_mmap`).
    """
    if STATUS.exists():
        return 1024 * int(STATUS.read_text(encoding="ascii").split("VmHWM:")[1].split()[0])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def current_rss() -> int:
    """Resident memory in bytes, now; on Linux only."""
    return 1024 * int(STATUS.read_text(encoding="ascii").split("VmRSS:")[1].split()[0])
