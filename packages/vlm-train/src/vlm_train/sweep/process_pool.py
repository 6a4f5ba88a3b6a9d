"""`vlm-train` commands as processes, a few at a time, none of which outlives the one that started them."""

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
_PATIENCE, _PAUSE = 20.0, 0.1  # seconds
Ended = tuple[Path, int, float]


class Pool:
    """Room for `size` processes at a time in the folder `output`, which is this pool's alone while it works."""

    def __init__(self, output: Path, size: int) -> None:
        if "LOCAL_RANK" in os.environ:
            raise UserError("a sweep starts its runs itself; call it without torchrun or another launcher")
        self.output, self.size = output, size

    def run(self, commands: Sequence[tuple[Sequence[str], Path]]) -> Generator[Ended, None, None]:
        """Start each command once there is room, its output going to the file beside it.

        Yields (file, exit code, seconds) as they end. If the caller stops listening, what is running is ended.
        """
        waiting = list(commands)
        going: dict[Path, tuple[subprocess.Popen[bytes], float]] = {}
        with ExitStack() as stack:
            lock = stack.enter_context(self._claim())
            stack.callback(_end, going)
            while waiting or going:
                while waiting and len(going) < self.size:
                    arguments, log = waiting.pop(0)
                    going[log] = self._start(arguments, log, lock), time.monotonic()
                time.sleep(_PAUSE)
                for log, (process, began) in list(going.items()):
                    if (code := process.poll()) is not None:
                        del going[log]
                        yield log, code, time.monotonic() - began

    def _start(self, arguments: Sequence[str], log: Path, lock: BinaryIO) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", _CHILD, str(os.getpid()), *arguments]
        env = os.environ if self.size == 1 else {**os.environ, "OMP_NUM_THREADS": str(self._threads())}
        with write_errors(log):
            log.parent.mkdir(parents=True, exist_ok=True)
            file = _open_own(log)
        with file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, env=env, pass_fds=[lock.fileno()]
            )

    def _threads(self) -> int:
        """Threads for each of several processes."""
        given = os.environ.get("OMP_NUM_THREADS", "")
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, (int(given) if given.isdigit() else cores) // self.size)

    def _claim(self) -> BinaryIO:
        """The folder's lock, which the processes hold too: those of a killed pool may need a moment to end."""
        with write_errors(self.output):
            self.output.mkdir(parents=True, exist_ok=True)
            lock = _open_own(self.output / ".lock")
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except OSError:
                if time.monotonic() > until:
                    lock.close()
                    raise UserError(
                        f"{self.output}: another sweep, or a run of one, is at work in this folder"
                    ) from None
                time.sleep(_PAUSE)


def _open_own(path: Path) -> BinaryIO:
    """A file of the sweep to append to; a link, which may lead anywhere, raises `OSError`."""
    return os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW, 0o666), "ab")


def _end(going: dict[Path, tuple[subprocess.Popen[bytes], float]]) -> None:
    """Ask what still runs to end, and wait until it has."""
    for process, _ in going.values():
        process.terminate()
    for process, _ in going.values():
        process.wait()
