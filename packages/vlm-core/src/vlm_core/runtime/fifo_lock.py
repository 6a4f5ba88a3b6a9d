"""A lock that threads get in the order in which they ask for it."""

from __future__ import annotations

from collections import deque
from threading import Event, Lock


class FifoLock:
    """Two threads that take it again and again take turns; with `threading.Lock` one of them may wait for ever."""

    def __init__(self) -> None:
        self._lock, self._held = Lock(), False
        self._waiting: deque[Event] = deque()

    def __enter__(self) -> None:
        with self._lock:
            if not self._held:
                self._held = True
                return
            turn = Event()
            self._waiting.append(turn)
        try:
            turn.wait()
        except BaseException:  # Ctrl-C: another thread gets the turn
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
                else:
                    self._pass_on()
            raise

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        if self._waiting:
            self._waiting.popleft().set()
        else:
            self._held = False
