"""Ends a process when its parent ends, however the parent ends.

Otherwise a process whose parent is killed keeps running and keeps its memory. A process calls this first; imports are
limited to fast ones.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

LAUNCHER = "VLM_LAUNCHER_PID"
"""Variable with the pid of the launcher, for the processes that it starts."""
_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 1.0


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Send `number` to this process once `parent`, the pid of the process that started it, has ended.

    On Linux the kernel sends it at once, even while this process is in native code; elsewhere a thread polls every
    second.
    """
    if not _set_parent_death_signal(number):
        threading.Thread(target=_watch, args=(parent, number), name="parent-death", daemon=True).start()
    if os.getppid() != parent:  # it ended before prctl
        os.kill(os.getpid(), number)


def end_with_launcher() -> None:
    """`end_with_parent` for a process of torchrun or `accelerate launch`; no effect in any other.

    `vlm-train` puts the launcher's pid into `LAUNCHER`; torchrun sets no such variable.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(int(os.environ.get(LAUNCHER) or os.getppid()))


def _set_parent_death_signal(number: int) -> bool:
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), number)
