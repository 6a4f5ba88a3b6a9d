"""Ends a run that makes no progress, names the process that hangs, and shows its stack.

torch's timeouts cover collectives alone: they end the processes that wait, and do not name the one that they wait for.
torchrun acts on processes that have ended. faulthandler's own timer shows a stack, but of every process of the group.
"""

from __future__ import annotations

import faulthandler
import json
import multiprocessing
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from vlm_train.distributed import exit_message, process_group

CODE = 124
"""Exit code of a run that hung, as of `timeout`."""
PATIENCE = 3600.0
"""Least limit, in seconds, for work that takes long without a beat: loading, the first step's compilation, saving."""
_ANSWER = 3.0
"""Seconds that the processes of a group have to answer one that makes no progress."""


def beat(activity: str, *, patient: bool = False) -> None:
    """Report progress and the next `activity`; `patient` if that may take longer than a step."""
    if Watchdog.current:
        Watchdog.current.beat(activity, patient)


@contextmanager
def watching(timeout: float) -> Iterator[None]:
    """Inside, this process ends after `timeout` seconds without a beat; the process group must exist."""
    watchdog = Watchdog(timeout)
    Watchdog.current = watchdog
    watchdog.start()
    try:
        yield
    finally:
        Watchdog.current = None
        watchdog.done.set()


def process_group_timeout(timeout: float) -> float:
    """Seconds for torch's timeout of collectives: longer than the watchdog's, which reports more."""
    return max(timeout, PATIENCE) + 60


class Watchdog(threading.Thread):
    """A thread that ends its process after `timeout` seconds without a beat."""

    current: Watchdog | None = None

    def __init__(self, timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.timeout, self.done = timeout, threading.Event()
        self.place = process_group.place() or process_group.Place(0, 1, 0, 1)
        self.store = process_group.store(seconds=10)
        self.beat("starting", True)

    def beat(self, activity: str, patient: bool) -> None:
        limit = max(self.timeout, PATIENCE) if patient else self.timeout
        self.state = (time.monotonic(), activity, limit)

    def run(self) -> None:
        while not self.done.wait(min(1.0, self.timeout / 10)):
            since, activity, limit = self.state
            if time.monotonic() - since > limit:
                self._end(activity, limit)

    def _end(self, activity: str, limit: float) -> None:
        """Report what hangs, if this process is to report it, and end this process."""
        counts = self._collectives_by_rank()
        silent = [rank for rank in range(self.place.world) if rank not in counts]
        fewest = min(counts.values())
        # a silent process hangs so that its watchdog can't run either: one of the others reports it
        reporters = [min(counts)] if silent else [rank for rank, count in counts.items() if count == fewest]
        if self.place.rank in reporters and not self.done.is_set():
            self._report(activity, limit, silent)
        exit_message.record_code(CODE)
        leave(CODE)

    def _collectives_by_rank(self) -> dict[int, int]:
        """How many collectives each process that answers has begun: the one that hangs has begun the fewest."""
        rank, world = self.place.rank, self.place.world
        counts = {rank: _collectives()}
        if self.store is None:
            return counts
        try:
            self.store.set(f"hung/{rank}", json.dumps(counts[rank]))
            end = time.monotonic() + _ANSWER
            while len(counts) < world and time.monotonic() < end:
                for other in set(range(world)) - set(counts):
                    if self.store.check([f"hung/{other}"]):
                        counts[other] = json.loads(self.store.get(f"hung/{other}"))
                time.sleep(0.1)
        except RuntimeError:  # the store ended with its process: the answers so far must do
            pass
        return counts

    def _report(self, activity: str, limit: float, silent: list[int]) -> None:
        name = f"rank {self.place.rank} ({socket.gethostname()}, pid {os.getpid()})"
        if silent:
            ranks = ", ".join(map(str, silent[:8]))
            text = f"no progress for {limit:g} s, and rank {ranks} does not answer; {name} waits for it, {activity}:"
        else:
            text = f"{name} has made no progress for {limit:g} s, {activity}:"
        exit_message.log_error(text)
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        exit_message.log_error(
            "rerun the same command to resume from the last checkpoint; train.timeout sets a longer limit"
        )


def _collectives() -> int:
    """How many collectives this process has begun."""
    import torch.distributed as dist

    group: Any = dist.group.WORLD
    return group._get_sequence_number_for_group() if group is not None else 0


def leave(code: int) -> NoReturn:
    """End this process and its data workers now, whatever the main thread waits for."""
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
