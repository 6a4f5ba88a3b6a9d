"""Processes of a run that stay when it has ended: torchrun would wait half a minute for each."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vlm_train.distributed import exit_message, preemption
from vlm_train.distributed.exit_message import RESUMABLE

GRACE = 2.0
"""Seconds that processes have to end after one has told why the run ends; a stopped process never does."""
_PAUSE = 0.2
_SAVING = (RESUMABLE, preemption.INTERRUPTED)
"""Exit codes of runs that end in order: their processes may still be saving."""


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
    seen: set[Path] = set()
    while not done.wait(_PAUSE):
        for folder in set(logs.glob("*/attempt_*")) - seen:
            code = exit_message.claimed(folder)
            if code is not None:
                seen.add(folder)
            if code not in (None, *_SAVING) and not done.wait(GRACE):
                _kill_ranks_of(folder)


def _kill_ranks_of(folder: Path) -> None:
    """Kill those of this process's children that belong to one attempt."""
    import psutil

    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if exit_message.shared(child.environ()) == folder:
                child.kill()
