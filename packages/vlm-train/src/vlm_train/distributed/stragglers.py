"""Kills processes that outlive their run.

After a failure torchrun sends SIGTERM and waits 30 s, whatever its `--shutdown-timeout`. A process that waits in a
collective for one that has ended does not react to SIGTERM, and neither does one that is stopped (SIGSTOP).
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_train.distributed import exit_message, preemption
from vlm_train.distributed.exit_message import RESUMABLE

GRACE = 2.0
"""Seconds from the first recorded exit code of an attempt until its other processes are killed."""
_INTERVAL = 0.2
_SAVING = (RESUMABLE, preemption.INTERRUPTED)
"""Exit codes of runs that were asked to stop: their processes may still be saving."""


@contextmanager
def killing_stragglers(logs: Path) -> Iterator[None]:
    """Inside, a process that outlives the end of its attempt by `GRACE` is killed; `logs` is torchrun's folder."""
    done = threading.Event()
    threading.Thread(target=_watch, args=(logs, done), name="stragglers", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _watch(logs: Path, done: threading.Event) -> None:
    ended: set[Path] = set()
    while not done.wait(_INTERVAL):
        for attempt in set(logs.glob("*/attempt_*")) - ended:
            code = exit_message.recorded_code(attempt)
            if code is not None:
                ended.add(attempt)
            if code not in (None, *_SAVING) and not done.wait(GRACE):
                _kill_ranks_of(attempt)


def _kill_ranks_of(attempt: Path) -> None:
    """Kill this process's children of one attempt."""
    import psutil

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if exit_message.attempt_folder(child.environ()) == attempt:
                child.kill()
