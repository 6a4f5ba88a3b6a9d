"""How long a process has made no progress, by what it reports of its threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence


class Watchdog:
    """Of one process: it is stalled while it reports nothing, or while a step of one of its threads has not ended.

    Only time that is passed to `elapse` counts: when watcher and process are suspended together, nothing elapses.
    Threads may share it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._silent = 0.0
        self._threads = list[tuple[int, float]]()
        """Of each thread its step, which is odd while it runs, and the seconds that it has run."""

    def elapse(self, seconds: float) -> None:
        """Time has passed."""
        with self._lock:
            self._silent += seconds
            self._threads = [(step, ran + seconds if step % 2 else 0.0) for step, ran in self._threads]

    def report(self, steps: Sequence[int] = ()) -> None:
        """A message came; `steps` are those of `LocalEngine.steps`, if it has them."""
        with self._lock:
            self._silent = 0.0
            if steps:
                before = self._threads or [(0, 0.0)] * len(steps)
                pairs = zip(steps, before, strict=True)
                self._threads = [(step, ran if step == earlier else 0.0) for step, (earlier, ran) in pairs]

    @property
    def stalled(self) -> float:
        """Seconds without progress."""
        with self._lock:
            return max([self._silent, *(ran for _, ran in self._threads)])
