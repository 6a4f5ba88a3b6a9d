"""Runs `vlm-train` commands in processes, several at a time; none outlives the process that started them."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from vlm_core.errors import UserError
from vlm_core.io.atomic import write_errors

_CHILD = "import sys; from vlm_train.cli.child import child; sys.exit(child())"
_LOCK_TIMEOUT, _INTERVAL = 20.0, 0.1  # seconds
Ended = tuple[Path, int, float]
"""Log file, exit code, seconds."""


class Pool:
    """Runs at most `size` processes at a time; the pool locks the folder `output` while it works."""

    def __init__(self, output: Path, size: int) -> None:
        if "LOCAL_RANK" in os.environ:
            raise UserError("a sweep starts its runs itself; start it without torchrun or another launcher")
        self.output, self.size = output, size

    def run(self, commands: Sequence[tuple[Sequence[str], Path]]) -> Generator[Ended, None, None]:
        """Run each command, (arguments, log file); stdout and stderr are appended to the log file.

        Yields `Ended` in the order in which they end. Closing the generator terminates the running processes.
        """
        waiting = list(commands)
        running: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}
        with ExitStack() as stack:
            lock = stack.enter_context(self._lock())
            stack.callback(_terminate, running)
            while waiting or running:
                while waiting and len(running) < self.size:
                    arguments, log = waiting.pop(0)
                    running[log] = self._start(arguments, log, lock), time.monotonic()
                time.sleep(_INTERVAL)
                for log, (process, began) in list(running.items()):
                    if (code := process.poll()) is not None:
                        del running[log]
                        yield log, code, time.monotonic() - began

    def _start(self, arguments: Sequence[str], log: Path, lock: BinaryIO) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _CHILD, str(os.getpid()), *arguments]
        env = os.environ if self.size == 1 else {**os.environ, "OMP_NUM_THREADS": str(self._threads())}
        with write_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = _open_for_append(log)
        with file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, pass_fds=[lock.fileno()]
            )

    def _threads(self) -> int:
        """Threads of each process: the usable cores, or OMP_NUM_THREADS, divided by the pool's size."""
        limit = os.environ.get("OMP_NUM_THREADS", "")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, (int(limit) if limit.isdigit() else cores) // self.size)

    def _lock(self) -> BinaryIO:
        """Lock the folder. The processes inherit the lock: those of a killed pool may need seconds to end."""
        with write_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
            lock = _open_for_append(self.output / ".lock")
        deadline = time.monotonic() + _LOCK_TIMEOUT
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError:
                if time.monotonic() > deadline:
                    lock.close()
                    raise UserError(
                        f"{self.output}: another sweep, or a run of one, is using this folder"
                    ) from None
                time.sleep(_INTERVAL)


def _open_for_append(path: Path) -> BinaryIO:
    """Open a file of the sweep; raises `OSError` for a symbolic link, which may lead out of the folder."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab")


def _terminate(running: dict[Path, tuple[subprocess.Popen[bytes], float]]) -> None:
    """Terminate the running processes, and wait until they have ended."""
    for process, _ in running.values():
        process.terminate()
    for process, _ in running.values():
        process.wait()
