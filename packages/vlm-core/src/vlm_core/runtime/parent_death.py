"""A process that ends with the one that started it, however that one ends.

A process whose parent was killed is not told of it: it would hold its memory for as long as it runs. Called first of
all in a process; imports nothing that takes time.
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
_PAUSE = 1.0  # seconds


def end_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Send `number` to this process once `parent`, the pid of the process that started it, has ended.

    Linux does so itself, at once and whatever this process is doing; elsewhere a thread looks every second.
    """
    if not _asked_of_the_kernel(number):
        threading.Thread(target=_watch, args=(parent, number), name="parent-death", daemon=True).start()
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), number)


def end_with_launcher() -> None:
    """`end_with_parent` for a process that torchrun or `accelerate launch` has started; nothing for any other.

    Our own launcher says its pid in `LAUNCHER`; torchrun itself says none.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(int(os.environ.get(LAUNCHER) or os.getppid()))


def _asked_of_the_kernel(number: int) -> bool:
    if sys.platform != "linux":
        return False
    return ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0) == 0


def _watch(parent: int, number: int) -> None:
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os.kill(os.getpid(), number)
