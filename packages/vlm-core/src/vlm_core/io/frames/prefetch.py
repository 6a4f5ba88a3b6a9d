"""Prefetches the frames of a source in a thread."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from threading import Condition, Thread
from typing import Generic, TypeVar

from vlm_core.io.frames.source import FrameSource, limit_fps

T = TypeVar("T")
QUEUE_SIZE = 8
"""Frames that wait at most."""


class FramePrefetcher(Generic[T]):
    """(seconds, item) of a source's frames, at most `fps` frames a second if that is given.

    When `QUEUE_SIZE` frames wait and another comes, the oldest one of a live source is dropped and counted;
    other sources wait. An error of the source is raised after the frames before it.
    """

    def __init__(self, source: FrameSource[T], fps: float | None = None) -> None:
        self.source, self.dropped = source, 0
        self._items = source.items if fps is None else limit_fps(source.items, fps)
        self._waiting: deque[tuple[float, T]] = deque()
        self._changed = Condition()
        self._ended = self._closed = False
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="frames", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as error:  # raised where the frames are used
            self._error = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _put(self, item: tuple[float, T]) -> bool:
        """Let a frame wait; False once the reader is closed."""
        with self._changed:
            if self.source.live and len(self._waiting) == QUEUE_SIZE:
                self._waiting.popleft()
                self.dropped += 1
            self._changed.wait_for(lambda: len(self._waiting) < QUEUE_SIZE or self._closed)
            self._waiting.append(item)
            self._changed.notify_all()
            return not self._closed

    def __iter__(self) -> Iterator[tuple[float, T]]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended or self._closed)
                if self._closed or not self._waiting:
                    break
                item = self._waiting.popleft()
                self._changed.notify_all()
            yield item
        if self._error is not None and not self._closed:
            raise self._error

    def close(self) -> None:
        """End reading; frames that wait are left."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self.source.close()
