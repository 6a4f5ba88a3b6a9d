"""Ends a process that makes no progress, says which one of the group it was, and shows where it stands."""

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
"""Seconds for what takes long and can't tell of its progress: loading, compiling in the first step, saving."""
_ANSWER = 3.0
_LEAVE = 15.0


def beat(doing: str, *, patient: bool = False) -> None:
    """Progress was made, and this is what comes now; `patient` if it may take longer than a step."""
    if Watchdog.current:
        Watchdog.current.beat(doing, patient)


@contextmanager
def watching(timeout: float) -> Iterator[None]:
    """Watch over what runs inside; the process group must be there already."""
    watchdog = Watchdog(timeout)
    Watchdog.current = watchdog
    watchdog.start()
    try:
        yield
    finally:
        Watchdog.current = None
        watchdog.done.set()


def longest(timeout: float) -> float:
    """The process group's own timeout, in seconds: the watchdog, which knows more, comes first."""
    return max(timeout, PATIENCE) + 60


class Watchdog(threading.Thread):
    """A thread that ends its process after `timeout` seconds without a beat."""

    current: Watchdog | None = None

    def __init__(self, timeout: float) -> None:
        super().__init__(name="watchdog", daemon=True)
        self.timeout, self.done = timeout, threading.Event()
        self.place = process_group.place() or process_group.Place(0, 1, 0, 1)
        self.store = process_group.store(seconds=10)
        self.others_left: float | None = None
        self.beat("starting", True)

    def beat(self, doing: str, patient: bool) -> None:
        limit = max(self.timeout, PATIENCE) if patient else self.timeout
        self.state = (time.monotonic(), doing, limit)

    def run(self) -> None:
        while not self.done.wait(min(1.0, self.timeout / 10)):
            if (code := exit_message.claimed()) is not None:
                self._follow(code)
            since, doing, limit = self.state
            if time.monotonic() - since > limit:
                self._hung(doing, limit)

    def _follow(self, code: int) -> None:
        """Another process has left: this one can only wait for it, in a collective that may never end."""
        self.others_left = self.others_left or time.monotonic()
        if time.monotonic() - self.others_left > _LEAVE:
            leave(code)

    def _hung(self, doing: str, limit: float) -> None:
        answers = self._answers(doing)
        silent = [rank for rank in range(self.place.world) if rank not in answers]
        behind = min(done for done, _ in answers.values())
        hanging = sorted(rank for rank, (done, _) in answers.items() if done == behind)
        if silent:  # the ones that can't even say so hold up the others
            hanging = silent
        speaks = self.place.rank in hanging or (bool(silent) and self.place.rank == min(answers))
        if speaks and not self.done.is_set():
            self._tell(doing, limit, silent)
        exit_message.claim(CODE)
        leave(CODE)

    def _answers(self, doing: str) -> dict[int, tuple[int, str]]:
        """By rank, how many collectives each process has begun, and what it does; whoever is behind, hangs."""
        mine = (_collectives(), doing)
        found = {self.place.rank: mine}
        if self.store is None:
            return found
        try:
            self.store.set(f"hung/{self.place.rank}", json.dumps(mine))
            end = time.monotonic() + _ANSWER
            while len(found) < self.place.world and time.monotonic() < end:
                for rank in range(self.place.world):
                    if rank not in found and self.store.check([f"hung/{rank}"]):
                        found[rank] = tuple(json.loads(self.store.get(f"hung/{rank}")))
                time.sleep(0.1)
        except RuntimeError:  # the store left with its process: each can only speak for itself
            pass
        return found

    def _tell(self, doing: str, limit: float, silent: list[int]) -> None:
        who = f"rank {self.place.rank} ({socket.gethostname()}, pid {os.getpid()})"
        if silent and self.place.rank not in silent:
            names = ", ".join(map(str, silent[:8]))
            text = (
                f"no progress for {limit:g} s, and rank {names} gives no answer; {who} waits for it, {doing}:"
            )
        else:
            text = f"{who} has made no progress for {limit:g} s, {doing}:"
        exit_message.write(text)
        faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
        advice = (
            "rerun the same command to resume from the last checkpoint; train.timeout sets a longer limit"
        )
        exit_message.write(advice)


def _collectives() -> int:
    """How many collectives this process has begun."""
    import torch.distributed as dist

    group: Any = dist.group.WORLD
    return group._get_sequence_number_for_group() if group is not None else 0


def leave(code: int) -> NoReturn:
    """End this process now, whatever its main thread waits for, and those that read for it."""
    sys.stdout.flush()
    sys.stderr.flush()
    for child in multiprocessing.active_children():
        child.kill()
    os._exit(code)
